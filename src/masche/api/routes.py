"""Every route of the API: what its path and query mean, and which question to the Plane it is.

Invariant: a handler decodes, asks once and encodes; it decides nothing about the mesh.
"""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from masche.api.access import LoginCode, LoginRequest, Session, TokenRequest
from masche.api.answers import BadRequestError, answer, read
from masche.api.credentials import SESSION_TTL, Credentials
from masche.api.explaining import WhyRequest
from masche.api.guard import COOKIE, Admitted
from masche.api.live import MAX_STREAMS, Streams
from masche.api.messages import ApplyRequest, DeleteRequest, DiffRequest
from masche.api.plane import Plane
from masche.model.refs import Kind, Ref

CLUSTER_SCOPE = "-"
"""Stands for "no namespace" in a path: ``/v1/resources/MeshConfig/-/default``."""

MAX_WINDOW = 3600.0
MAX_EVENTS = 1000


@dataclass(slots=True, kw_only=True)
class Routes:
    """The handlers, with what they need."""

    plane: Plane
    credentials: Credentials
    streams: Streams = field(default_factory=Streams)

    def table(self) -> list[Route]:
        """All routes."""
        return [
            _route("/healthz", self.healthz, "GET"),
            _route("/v1/session", self.session, "GET"),
            _route("/v1/session", self.login, "POST"),
            _route("/v1/session", self.logout, "DELETE"),
            _route("/v1/login-codes", self.create_login_code, "POST"),
            _route("/v1/apply", self.apply, "POST"),
            _route("/v1/delete", self.delete, "POST"),
            _route("/v1/diff", self.diff, "POST"),
            _route("/v1/resources/{kind}", self.list, "GET"),
            _route("/v1/resources/{kind}/{namespace}/{name}", self.get, "GET"),
            _route("/v1/resources/{kind}/{namespace}/{name}/description", self.describe, "GET"),
            _route("/v1/rollouts/{revision}", self.progress, "GET"),
            _route("/v1/status", self.status, "GET"),
            _route("/v1/why", self.why, "POST"),
            _route("/v1/edges", self.edges, "GET"),
            _route("/v1/zones", self.zones, "GET"),
            _route("/v1/graph", self.graph, "GET"),
            _route("/v1/events", self.events, "GET"),
            _route("/v1/live", self.live, "GET"),
            _route("/v1/tokens", self.tokens, "GET"),
            _route("/v1/tokens", self.create_token, "POST"),
            _route("/v1/tokens/{token}", self.revoke_token, "DELETE"),
            _route("/v1/machines", self.machines, "GET"),
            _route("/v1/machines/{machine}", self.revoke_machine, "DELETE"),
            _route("/v1/certificates", self.certificates, "GET"),
            _route("/v1/check", self.check, "GET"),
        ]

    async def healthz(self, _request: Request) -> Response:
        """Alive: the loop answers. Says nothing else, to anyone."""
        return Response("ok\n", media_type="text/plain", headers={"Cache-Control": "no-store"})

    async def session(self, request: Request) -> Response:
        """Who asks."""
        admitted: Admitted = request.state.admitted
        return answer(Session(kind=admitted.caller, expires_at=admitted.session_ends_at))

    async def login(self, request: Request) -> Response:
        """Spend a one-time code. A wrong one is answered by the guard's own words, so the caller raises it."""
        code = (await read(request, LoginRequest)).code
        if not self.credentials.codes.spend(code, now=time.time()):
            raise WrongCodeError
        value, ends_at = self.credentials.sessions.start(now=time.time())
        response = answer(Session(kind="browser", expires_at=ends_at))
        response.set_cookie(COOKIE, value, max_age=int(SESSION_TTL), path="/", httponly=True, samesite="strict")
        return response

    async def logout(self, request: Request) -> Response:
        """End the browser's session."""
        self.credentials.sessions.end(request.cookies.get(COOKIE, ""))
        response = Response(status_code=HTTPStatus.NO_CONTENT)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def create_login_code(self, _request: Request) -> Response:
        """A one-time code for another browser."""
        code, expires_at = self.credentials.codes.create(now=time.time())
        return answer(LoginCode(code=code, expires_at=expires_at), status=HTTPStatus.CREATED)

    async def apply(self, request: Request) -> Response:
        """See Plane.apply."""
        asked = await read(request, ApplyRequest)
        return answer(await self.plane.apply(asked.documents, dry_run=asked.dry_run))

    async def delete(self, request: Request) -> Response:
        """See Plane.delete."""
        asked = await read(request, DeleteRequest)
        return answer(await self.plane.delete(asked.refs, asked.documents, dry_run=asked.dry_run))

    async def diff(self, request: Request) -> Response:
        """See Plane.diff."""
        return answer(await self.plane.diff((await read(request, DiffRequest)).documents))

    async def list(self, request: Request) -> Response:
        """``?namespace=shop`` (all without) and any number of ``&label=app=web``."""
        labels = dict(_label(text) for text in request.query_params.getlist("label"))
        namespace = request.query_params.get("namespace")
        return answer(await self.plane.list(_kind(request), namespace=namespace, labels=labels))

    async def get(self, request: Request) -> Response:
        """See Plane.get."""
        return answer(await self.plane.get(_ref(request)))

    async def describe(self, request: Request) -> Response:
        """See Plane.describe."""
        return answer(await self.plane.describe(_ref(request)))

    async def progress(self, request: Request) -> Response:
        """See Plane.progress."""
        return answer(await self.plane.progress(_integer("revision", request.path_params["revision"], most=2**62)))

    async def status(self, _request: Request) -> Response:
        """See Plane.status."""
        return answer(await self.plane.status())

    async def why(self, request: Request) -> Response:
        """See Plane.why."""
        return answer(await self.plane.why(await read(request, WhyRequest)))

    async def edges(self, request: Request) -> Response:
        """``?window=10`` seconds."""
        return answer(await self.plane.edges(window=_window(request)))

    async def zones(self, request: Request) -> Response:
        """``?window=10`` seconds."""
        return answer(await self.plane.zones(window=_window(request)))

    async def graph(self, request: Request) -> Response:
        """``?window=10`` seconds."""
        return answer(await self.plane.graph(window=_window(request)))

    async def events(self, request: Request) -> Response:
        """``?after=0&limit=100``."""
        limit = _integer("limit", request.query_params.get("limit", "100"), most=MAX_EVENTS)
        return answer(await self.plane.events(after=_after(request), limit=limit))

    async def live(self, request: Request) -> Response:
        """Server-sent events; ``?after=`` or Last-Event-ID says which Events the reader has."""
        if self.streams.is_full:
            raise BadRequestError(
                f"{MAX_STREAMS} live streams are open already",
                fix="close a dashboard or a `masche top`",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
            )
        frames = self.streams.frames(self.plane.live(after=_after(request)))
        return StreamingResponse(frames, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def tokens(self, _request: Request) -> Response:
        """See Plane.tokens."""
        return answer(await self.plane.tokens())

    async def create_token(self, request: Request) -> Response:
        """See Plane.create_token."""
        created = await self.plane.create_token(await read(request, TokenRequest))
        return answer(created, status=HTTPStatus.CREATED)

    async def revoke_token(self, request: Request) -> Response:
        """See Plane.revoke_token."""
        await self.plane.revoke_token(request.path_params["token"])
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def machines(self, _request: Request) -> Response:
        """See Plane.machines."""
        return answer(await self.plane.machines())

    async def revoke_machine(self, request: Request) -> Response:
        """See Plane.revoke_machine."""
        await self.plane.revoke_machine(request.path_params["machine"])
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def certificates(self, _request: Request) -> Response:
        """See Plane.certificates."""
        return answer(await self.plane.certificates())

    async def check(self, _request: Request) -> Response:
        """See Plane.check."""
        return answer(await self.plane.check())


class WrongCodeError(Exception):
    """A login code that is not, or no longer, good."""


def _route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> Route:
    return Route(path, handler, methods=[method])


def _kind(request: Request) -> Kind:
    given: str = request.path_params["kind"]
    try:
        return Kind(given)
    except ValueError:
        raise BadRequestError(f"there is no kind {given!r}", fix=f"one of {', '.join(Kind)}") from None


def _ref(request: Request) -> Ref:
    namespace: str = request.path_params["namespace"]
    return Ref(_kind(request), "" if namespace == CLUSTER_SCOPE else namespace, request.path_params["name"])


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise BadRequestError(f"label {text!r} is not KEY=VALUE", fix="write label=app=web")
    return key, value


def _window(request: Request) -> float:
    given = request.query_params.get("window", "10")
    try:
        window = float(given)
    except ValueError:
        window = math.nan
    if not 1.0 <= window <= MAX_WINDOW:
        raise BadRequestError(f"window {given!r} is not a number of seconds from 1 to {MAX_WINDOW:.0f}")
    return window


def _after(request: Request) -> int:
    given = request.query_params.get("after") or request.headers.get("last-event-id") or "0"
    return _integer("after", given, most=2**62)


def _integer(name: str, given: str, *, most: int) -> int:
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and int(given) <= most):
        raise BadRequestError(f"{name} {given[:40]!r} is not a whole number from 0 to {most}")
    return int(given)
