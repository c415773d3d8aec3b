"""Applications on servers that know nothing of the mesh: when they register and leave, and what STRICT means there."""

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from library.server.serving import echo, inbound
from masche.library import asgi, wsgi
from masche.library.core.tls import Certificates
from masche.library.inbound.asgi import App, Message, Receive, Scope, Send
from masche.model.view import (
    Attribute,
    Condition,
    Decision,
    MtlsMode,
    Pattern,
    PatternKind,
    Policy,
    Rule,
)
from masche.testing.static_reception import Counted, StaticReception

PORT = 8080
REQUEST: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b""}


@dataclass
class Lodger:
    """As much of a resident as servers use."""

    reception: StaticReception = field(default_factory=StaticReception)
    counter: Counted = field(default_factory=Counted)
    facade: Any = field(default_factory=lambda: SimpleNamespace(identity=Certificates()))
    workload: str = "shop/orders-1"
    did: list[str] = field(default_factory=list)

    def serve(self, port: Any, *, probe: str, host: str) -> None:
        self.did.append(f"serve {port.port} {probe} at {host}")

    def close(self) -> None:
        self.did.append("close")


async def deaf(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})


async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await deaf(scope, receive, send)


async def failing(_scope: Scope, receive: Receive, _send: Send) -> None:
    await receive()
    raise RuntimeError("no database")


@pytest.mark.parametrize("app", [echo, deaf, quiet])
async def test_it_registers_when_the_application_has_started_and_leaves_before_it_stops(app: App):
    lodger = Lodger()
    mesh = asgi.Mesh(app, PORT, resident=lodger)
    words: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    living = asyncio.ensure_future(mesh({"type": "lifespan"}, words.get, said.put))
    await words.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    assert lodger.did == ["serve 8080 tcp at 127.0.0.1"]
    await words.put({"type": "lifespan.shutdown"})
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await living
    assert lodger.did[1:] == ["close"]


async def test_an_application_that_fails_to_start_does_not_register():
    lodger = Lodger()

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(_message: Message) -> None:
        raise AssertionError("it said something")

    with pytest.raises(RuntimeError, match="no database"):
        await asgi.Mesh(failing, PORT, resident=lodger)({"type": "lifespan"}, receive, send)
    assert lodger.did == []


async def answered(mesh: App) -> int:
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await mesh({**REQUEST, "headers": [(b"host", b"orders")]}, receive, send)
    return statuses[0]


async def test_on_a_server_that_shows_no_certificates_nothing_is_served_under_strict():
    lodger = Lodger()
    lodger.reception.told = {PORT: inbound(port=PORT)}
    mesh = asgi.Mesh(deaf, PORT, resident=lodger)
    assert await answered(mesh) == 403
    lodger.reception.told = {PORT: inbound(port=PORT, mtls=MtlsMode.PERMISSIVE)}
    assert await answered(mesh) == 204


def test_a_denial_is_not_dodged_by_repeating_a_header_that_a_wsgi_server_joins():
    lodger = Lodger()
    admin = Condition(attribute=Attribute.HEADER, name="x-role", values=(Pattern(PatternKind.EXACT, "admin"),))
    no_admins = Policy(name="shop/one", decision=Decision.DENY, rules=(Rule(name="shop/one rules[0]", when=(admin,)),))
    told = inbound(port=PORT, mtls=MtlsMode.PERMISSIVE)
    lodger.reception.told = {PORT: replace(told, policies=(no_admins,))}

    def app(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"served"]

    def status(role: str) -> str:
        heads: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "orders", "HTTP_X_ROLE": role}
        body = mesh(environ, lambda status, *_: heads.append(status))
        list(body)
        getattr(body, "close", lambda: None)()
        return heads[0][:3]

    mesh = wsgi.Mesh(app, PORT, resident=lodger)
    assert [status(role) for role in ("guest", "admin", "guest,admin", "admin, guest")] == ["200", "403", "403", "403"]


def test_a_wsgi_application_on_any_server_is_judged_too():
    lodger = Lodger()
    heads: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert environ["masche.peer"] is None
        start_response("200 OK", [("x-masche-denied", "mine"), ("a", environ["PATH_INFO"])])
        return [b"ab", b"c"]

    def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        heads.append(f"{status} {dict(headers)}")

    mesh = wsgi.Mesh(app, PORT, resident=lodger)
    mesh.start()
    assert lodger.did == ["serve 8080 tcp at 127.0.0.1"]
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/a//b",
        "QUERY_STRING": "",
        "HTTP_HOST": "orders",
        "REMOTE_ADDR": "10.0.0.1",
        "HTTP_X_MASCHE_PEER": "me",
    }
    assert b"".join(mesh(environ, start_response)) == b"not ready", "a stranger learns nothing of our control plane"
    lodger.reception.told = {PORT: inbound(port=PORT, mtls=MtlsMode.PERMISSIVE)}
    body = mesh(environ, start_response)
    assert b"".join(body) == b"abc"
    body.close()
    assert heads[1] == "200 OK {'a': '/a/b'}"
    assert [(each.status, each.bytes_sent) for each in lodger.counter.requests] == [(503, 9), (200, 3)]
