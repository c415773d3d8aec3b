"""Asks the API from a program that waits for the answer: the command line, a script, a test.

Everything it needs to know is in the data folder. It mirrors ``Plane``, method for method, and raises one of three
errors: Unreachable (nobody answers), Denied (wrong credentials), Refusal (an answer that says why not).
"""

import http.client
import select
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from masche.api.access import (
    CertificateList,
    CheckReport,
    LoginCode,
    MachineList,
    TokenCreated,
    TokenList,
    TokenRequest,
)
from masche.api.credentials import ApiFolder, read_private
from masche.api.explaining import Explanation, WhyRequest
from masche.api.messages import (
    MAX_BODY_BYTES,
    Applied,
    ApplyRequest,
    DeleteRequest,
    Description,
    Differences,
    DiffRequest,
    Document,
    Error,
    Event,
    EventPage,
    Failure,
    Item,
    Listing,
    MeshStatus,
    Rollout,
)
from masche.api.traffic import Edges, Graph, LiveMessage, Zones
from masche.model.refs import Kind, Ref

T = TypeVar("T")
TIMEOUT = 30.0
PATIENCE = 3.0
"""Seconds after which a silent control plane is asked whether it is there at all, and so long has it to say so."""

LIVE_TIMEOUT = 45.0
"""Seconds of silence after which a live stream is dead: three heartbeats."""

_QUESTIONS = frozenset({"/v1/diff", "/v1/why"})
"""What is asked by POST and changes nothing."""

_LIVE: Mapping[str, type[LiveMessage]] = {
    "event": Event,
    "edges": Edges,
    "zones": Zones,
    "graph": Graph,
    "status": MeshStatus,
}


class UnreachableError(Exception):
    """No control plane answers: ``message`` says what was tried, ``fix`` what to do."""

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class RefusalError(Exception):
    """The API's answer is a status of 400 or above."""

    def __init__(self, status: int, error: Error) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class DeniedError(RefusalError):
    """The credentials are not good (401 or 403)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One API; a connection per question."""

    host: str
    port: int
    token: str = field(repr=False)
    timeout: float = TIMEOUT

    @classmethod
    def of(cls, data: Path) -> "Client":
        """The API of the control plane that runs, or ran last, on this data folder. Raises UnreachableError."""
        folder = ApiFolder(data)
        try:
            host, _, port = folder.address.read_text(encoding="utf-8").strip().rpartition(":")
            token = read_private(folder.token).decode("ascii", "replace").strip()
            return cls(host=host, port=int(port), token=token)
        except (FileNotFoundError, NotADirectoryError):
            fix = f"start one with `masche up --data {data}`, or name its folder with --data or MASCHE_DATA"
            raise UnreachableError(f"no control plane has run on the data folder {data}", fix=fix) from None
        except (OSError, ValueError) as error:
            fix = "become the user that runs the control plane, or name another folder with --data"
            raise UnreachableError(f"cannot read the API's files in {folder.folder}: {error}", fix=fix) from None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:15080``."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def apply(self, documents: Sequence[Document], *, dry_run: bool = False) -> Applied:
        """See Plane.apply."""
        return self._post("/v1/apply", ApplyRequest(documents=tuple(documents), dry_run=dry_run), Applied)

    def delete(self, refs: Sequence[Ref], documents: Sequence[Document] = (), *, dry_run: bool = False) -> Applied:
        """See Plane.delete."""
        asked = DeleteRequest(refs=tuple(refs), documents=tuple(documents), dry_run=dry_run)
        return self._post("/v1/delete", asked, Applied)

    def diff(self, documents: Sequence[Document]) -> Differences:
        """See Plane.diff."""
        return self._post("/v1/diff", DiffRequest(documents=tuple(documents)), Differences)

    def list(self, kind: Kind, *, namespace: str | None, labels: Mapping[str, str] | None = None) -> Listing:
        """See Plane.list."""
        query = [("label", f"{key}={value}") for key, value in (labels or {}).items()]
        if namespace is not None:
            query.append(("namespace", namespace))
        return self._get(f"/v1/resources/{kind}?{urlencode(query)}", Listing)

    def get(self, ref: Ref) -> Item:
        """See Plane.get."""
        return self._get(_path(ref), Item)

    def describe(self, ref: Ref) -> Description:
        """See Plane.describe."""
        return self._get(f"{_path(ref)}/description", Description)

    def progress(self, revision: int) -> Rollout:
        """See Plane.progress."""
        return self._get(f"/v1/rollouts/{revision}", Rollout)

    def status(self) -> MeshStatus:
        """See Plane.status."""
        return self._get("/v1/status", MeshStatus)

    def why(self, request: WhyRequest) -> Explanation:
        """See Plane.why."""
        return self._post("/v1/why", request, Explanation)

    def edges(self, *, window: float) -> Edges:
        """See Plane.edges."""
        return self._get(f"/v1/edges?window={window}", Edges)

    def zones(self, *, window: float) -> Zones:
        """See Plane.zones."""
        return self._get(f"/v1/zones?window={window}", Zones)

    def graph(self, *, window: float) -> Graph:
        """See Plane.graph."""
        return self._get(f"/v1/graph?window={window}", Graph)

    def events(self, *, after: int = 0, limit: int = 100) -> EventPage:
        """See Plane.events."""
        return self._get(f"/v1/events?after={after}&limit={limit}", EventPage)

    def tokens(self) -> TokenList:
        """See Plane.tokens."""
        return self._get("/v1/tokens", TokenList)

    def create_token(self, request: TokenRequest) -> TokenCreated:
        """See Plane.create_token."""
        return self._post("/v1/tokens", request, TokenCreated)

    def revoke_token(self, token: str) -> None:
        """See Plane.revoke_token."""
        self._ask("DELETE", f"/v1/tokens/{quote(token, safe='')}")

    def machines(self) -> MachineList:
        """See Plane.machines."""
        return self._get("/v1/machines", MachineList)

    def revoke_machine(self, machine: str) -> None:
        """See Plane.revoke_machine."""
        self._ask("DELETE", f"/v1/machines/{quote(machine, safe='')}")

    def certificates(self) -> CertificateList:
        """See Plane.certificates."""
        return self._get("/v1/certificates", CertificateList)

    def check(self) -> CheckReport:
        """See Plane.check."""
        return self._get("/v1/check", CheckReport)

    def login_link(self) -> str:
        """A link that logs one browser in, once."""
        return f"{self.url}/login#{self._post('/v1/login-codes', {}, LoginCode).code}"

    def live(self, *, after: int = 0) -> Iterator[LiveMessage]:
        """See Plane.live. Raises UnreachableError when the stream breaks; ends when the control plane ends it."""
        connection = self._connection(LIVE_TIMEOUT)
        try:
            response = self._response(connection, "GET", f"/v1/live?after={after}", None)
            yield from _messages(response)
        except OSError as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _get(self, path: str, kind: type[T]) -> T:
        return msgspec.json.decode(self._ask("GET", path), type=kind)

    def _post(self, path: str, message: object, kind: type[T]) -> T:
        return msgspec.json.decode(self._ask("POST", path, msgspec.json.encode(message)), type=kind)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        if body is not None and len(body) > MAX_BODY_BYTES:
            raise _TOO_LARGE
        connection = self._connection(self.timeout)
        try:
            return self._response(connection, method, path, body).read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, is_change=method != "GET" and path not in _QUESTIONS) from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def _response(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self.token}", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body=body, headers=headers)
        if not _has_answer(connection) and not self._is_alive():
            raise TimeoutError
        response = connection.getresponse()
        if response.status >= 400:
            raise _refusal(response.status, response.read())
        return response

    def _is_alive(self) -> bool:
        """Whether its loop turns at all: one that is stopped still takes connections."""
        connection = self._connection(PATIENCE)
        try:
            connection.request("GET", "/healthz", headers={"Connection": "close"})
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def _unreachable(self, error: Exception, *, is_change: bool = False) -> UnreachableError:
        if isinstance(error, TimeoutError):
            later = "; what was asked may still be carried out when it goes on" if is_change else ""
            return UnreachableError(
                f"the control plane at {self.url} did not answer in time{later}",
                fix="look at the log of `masche up`; a process that is stopped (SIGSTOP, Ctrl-Z) goes on with SIGCONT",
            )
        return UnreachableError(
            f"no control plane answers at {self.url} ({error or type(error).__name__})",
            fix="start it with `masche up`, or name another data folder with --data or MASCHE_DATA",
        )


def _has_answer(connection: http.client.HTTPConnection) -> bool:
    """Whether the answer begins within PATIENCE."""
    return bool(select.select([connection.sock], [], [], min(PATIENCE, connection.timeout or PATIENCE))[0])


_TOO_LARGE = RefusalError(
    413,
    Error(
        code="too-large",
        message=f"the documents are larger than {MAX_BODY_BYTES // (1024 * 1024)} MiB together",
        fix="apply them in several steps",
    ),
)


def _path(ref: Ref) -> str:
    return f"/v1/resources/{ref.kind}/{quote(ref.namespace, safe='') or '-'}/{quote(ref.name, safe='')}"


def _refusal(status: int, body: bytes) -> RefusalError:
    try:
        error = msgspec.json.decode(body, type=Failure).error
    except msgspec.DecodeError:
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            why = "the control plane has too many connections open to answer"
            return RefusalError(status, Error(code="busy", message=why, fix="close some of them, or try again"))
        error = Error(code="not-masche", message=f"what answers there is not a masche control plane (status {status})")
    return (DeniedError if status in {401, 403} else RefusalError)(status, error)


def _messages(response: Any) -> Iterator[LiveMessage]:
    """Read server-sent events: our frames have one ``event`` line and one ``data`` line each."""
    name = ""
    for raw in response:
        line: bytes = raw.rstrip(b"\r\n")
        if line.startswith(b"event: "):
            name = line[7:].decode()
        elif line.startswith(b"data: ") and name in _LIVE:
            yield msgspec.json.decode(line[6:], type=_LIVE[name])
