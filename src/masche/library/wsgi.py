"""The mesh in front of a WSGI application: ``Mesh(app, port=8080)``, on gunicorn.

Policies, metrics and the caller's identity are those of every other placement. On gunicorn mutual TLS is taken by
``masche.library.gunicorn``; the socket of a request (``gunicorn.socket``) says who the caller is. On a WSGI server that
has no TLS, or keeps the connection to itself, every connection counts as plaintext: under STRICT nothing is served.
``masche serve`` runs WSGI applications too, on uvicorn.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes

from masche.library import peer as peers
from masche.library import resident as residents
from masche.library.asgi import door
from masche.library.core import context, trace
from masche.library.core.ports import Identity
from masche.library.core.tls import peer_id
from masche.library.inbound.deciding import Answer, Shown
from masche.library.inbound.door import Door, Passage, ended
from masche.library.inbound.wsgi import PEER, WITHOUT_PREFIX, Environ, StartResponse, Write, WsgiApp
from masche.library.life.options import port as read_port
from masche.library.life.residence import Resident
from masche.library.peer import Peer
from masche.model.port import Port
from masche.traffic.request import Connection, Headers, Request, characters, octets

_SOCKET = "gunicorn.socket"


class Guarded:
    """A WSGI application behind a Door."""

    def __init__(self, app: WsgiApp, door: Door, identity: Identity) -> None:
        self._app = app
        self._door = door
        self._identity = identity

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        shown = _shown(environ.get(_SOCKET), self._identity)
        request = request_of(environ, self._door.port, shown)
        entered = self._door.enter(request, shown)
        if isinstance(entered, Answer):
            return _answer(ended(entered), start_response)
        inside = {**_with_headers(environ, entered.request), PEER: Peer.of(shown.peer) if shown else None}
        return _Body(self._app, inside, entered, start_response)


class Mesh:
    """A WSGI application in the mesh; ``port`` is where its server listens.

    Call ``start`` in the process that serves, once it does (after any fork); ``masche.library.gunicorn`` does it all by
    itself.
    """

    def __init__(self, app: WsgiApp, port: int | str | Port, *, resident: Resident | None = None) -> None:
        self._port = read_port(port)
        self._resident = resident or residents.resident()
        self._guarded = Guarded(
            app, door(self._resident, self._port, joins_headers=True), self._resident.facade.identity
        )

    def __repr__(self) -> str:
        return f"<Mesh {self._port.port} {self._resident!r}>"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self._guarded(environ, start_response)

    def start(self, *, probe: str = "tcp", host: str = "127.0.0.1") -> None:
        """Register, and be called once ``probe`` (``tcp``, ``http:/path``, ``none``) succeeds at ``host``."""
        self._resident.serve(self._port, probe=probe, host=host)


class _Body:
    """The application's answer: it is called when the server begins to read, and ended when the server closes it."""

    def __init__(self, app: WsgiApp, environ: Environ, passage: Passage, start_response: StartResponse) -> None:
        self._passage, self._start_response = passage, start_response
        self._caller: Peer | None = environ[PEER]
        self._trace = trace.of(passage.request.headers)
        self._sent = 0
        self._received = int(environ.get("CONTENT_LENGTH") or 0)
        self._said: Iterable[bytes] = ()
        try:
            with self._around():
                self._said = app(environ, self._start)
        except Exception:
            passage.end(is_broken=True)
            raise

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._said)
        while True:
            try:
                with self._around():
                    chunk = next(chunks, None)
            except Exception:
                self._passage.end(sent=self._sent, received=self._received, is_broken=True)
                raise
            if chunk is None:
                return
            self._sent += len(chunk)
            yield chunk

    @contextmanager
    def _around(self) -> Generator[None]:
        """What the application finds around its work."""
        with peers.calling(self._caller), trace.within(self._trace), context.until(self._passage.deadline):
            yield

    def close(self) -> None:
        """PEP 3333: "the server or gateway must call that method upon completion of the current request"."""
        try:
            getattr(self._said, "close", lambda: None)()
        finally:
            self._passage.end(sent=self._sent, received=self._received)

    def _start(self, status: str, headers: list[tuple[str, str]], *more: Any) -> Write:
        kept = self._passage.begin(int(status[:3]), tuple(headers))
        write = self._start_response(status, list(kept), *more)

        def counted(data: bytes) -> None:
            self._sent += len(data)
            write(data)

        return counted


def _shown(connection: object, identity: Identity) -> Shown | None:
    """Say what the connection of a request proved; None when it is not one of ours, or plaintext."""
    peer = peer_id(connection)
    certificate = cast("Any", connection).getpeercert(binary_form=True) if peer else None
    if certificate is None:
        return None
    return Shown(peer=peer, certificate=hashlib.sha256(certificate).hexdigest(), local=identity.spiffe_id)


def request_of(environ: Environ, port: int, shown: Shown | None) -> Request:
    """Read the request of an environ, as it came on the wire where the server says so (``RAW_URI``)."""
    path = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), encoding="latin-1")
    query = environ.get("QUERY_STRING", "")
    source = environ.get("REMOTE_ADDR", "")
    return Request(
        method=environ["REQUEST_METHOD"],
        target=environ.get("RAW_URI") or (f"{path}?{query}" if query else path),
        authority=environ.get("HTTP_HOST", ""),
        scheme="https" if shown else "http",
        headers=_headers(environ),
        connection=Connection(
            peer=shown.peer.removeprefix("spiffe://") if shown else None,
            source_ip=source,
            destination_ip=_address(environ.get(_SOCKET)),
            port=port,
        ),
    )


def _address(connection: Any) -> str:
    """Where a request came to."""
    return str(connection.getsockname()[0]) if connection is not None else ""


def _headers(environ: Environ) -> Headers:
    found: list[tuple[str, str]] = []
    for key, value in environ.items():
        if key.startswith("HTTP_") and key != "HTTP_HOST":
            found.append((key[5:].replace("_", "-").lower(), characters(value.encode("latin-1"))))
        elif key in WITHOUT_PREFIX and value:
            found.append((WITHOUT_PREFIX[key], characters(value.encode("latin-1"))))
    return tuple(found)


def _with_headers(environ: Environ, request: Request) -> Environ:
    """The environ as the mesh passes the request on."""
    path, _, query = request.target.partition("?")
    kept = {key: value for key, value in environ.items() if not key.startswith("HTTP_")}
    told: Environ = {}
    for name, text in request.headers:
        value = octets(text).decode("latin-1")  # PEP 3333: each character stands for one byte
        key = name.upper().replace("-", "_")
        key = key if key in WITHOUT_PREFIX else f"HTTP_{key}"
        told[key] = f"{told[key]},{value}" if key in told else value
    script = environ.get("SCRIPT_NAME", "")
    plain = unquote_to_bytes(path).decode("latin-1").removeprefix(script)
    return {**kept, **told, "PATH_INFO": plain, "QUERY_STRING": query, "RAW_URI": request.target}


def _answer(answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
    phrase = HTTPStatus(answer.status).phrase
    headers = [("content-length", str(len(answer.body))), *answer.headers]
    start_response(f"{answer.status} {phrase}", headers)
    return [answer.body]
