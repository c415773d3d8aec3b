"""The same bytes to a library server and to a sidecar's Envoy with the same Inbound: the same answers, and the same
request at the application.
"""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from library.issuing import Issuing
from library.server.conftest import Caller
from library.server.serving import Served, serving
from live.mesh import APPLICATIONS, PROXIES, Live, free_port, living
from masche.compiler.envoy.inbound import DENIED
from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.retries import UNREACHED
from masche.library.inbound import deciding as library
from masche.library.inbound.asgi import Receive, Scope, Send
from masche.model.refs import Name
from masche.model.vantage import Dialect, Placement, Seat, SeatPort, Vantage
from masche.model.view import (
    Attribute,
    Condition,
    Decision,
    Inbound,
    InboundPort,
    MtlsMode,
    Pattern,
    PatternKind,
    Policy,
    Protocol,
    Rule,
    View,
)
from masche.wire import stats

ORDERS, WEB = (f"spiffe://mesh.local/ns/shop/sa/{each}" for each in ("orders", "web"))
PROXY, APPLICATION = PROXIES + "97", APPLICATIONS + "97"
APP_PORT = 8080


def when(attribute: Attribute, value: str, *, name: str = "", unwanted: bool = False) -> tuple[Condition, ...]:
    pattern = (Pattern(PatternKind.EXACT, value),)
    if unwanted:
        return (Condition(attribute=attribute, name=name, not_values=pattern),)
    return (Condition(attribute=attribute, name=name, values=pattern),)


POLICIES = (
    Policy(
        name="shop/no-x",
        decision=Decision.DENY,
        rules=(
            Rule(name="shop/no-x rules[0]", operations=(when(Attribute.PATH, "/denied"),)),
            Rule(name="shop/no-x rules[1]", when=when(Attribute.HEADER, "evil", name="x-kind")),
            Rule(name="shop/no-x rules[2]", operations=(when(Attribute.HOST, "secret"),)),
        ),
    ),
    Policy(
        name="shop/most",
        decision=Decision.ALLOW,
        rules=(Rule(name="shop/most rules[0]", operations=(when(Attribute.PATH, "/other", unwanted=True),)),),
    ),
)


def asked(target: str = "/ok", *lines: str, method: str = "GET", host: str = "orders") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"host: {host}", *lines, "", ""]).encode()


CASES = {
    "plain": asked("/"),
    "spelling": asked("/a//b/../c?x=//y"),
    "escapes": asked("/%61%2e/b%20c/%7Euser?%61"),
    "claims": asked(
        "/ok",
        "X-Masche-Denied: 1",
        "x-envoy-foo: 1",
        "x-forwarded-client-cert: URI=spiffe://mesh.local/ns/shop/sa/admin",
        "x-forwarded-proto: gopher",
    ),
    "forwarded": asked("/ok", "x-forwarded-for: 1.2.3.4", "x-request-id: mine"),
    "final dot": asked(host="orders.shop.:80"),
    "absolute": asked("http://other/ok"),
    "denied": asked("/denied"),
    "denied by spelling": asked("/x/..//%64enied?q"),
    "denied by header": asked("/ok", "x-kind: evil"),
    "denied by one of two values": asked("/ok", "x-kind: good", "X-Kind: evil"),
    "denied by host": asked(host="SECRET"),
    "denied by absolute host": asked("http://secret/ok"),
    "denied implicitly": asked("/other"),
    "denied HEAD": asked("/denied", method="HEAD"),
    "denied gRPC": asked("/denied", "content-type: application/grpc", "content-length: 0", method="POST"),
    "denied WebSocket": asked(
        "/denied",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version: 13",
    ),
    "underscore": asked("/ok", "a_b: 1"),
    "escaped slash": asked("/a%2Fb"),
    "escaped backslash": asked("/a%5cb"),
    "escaped NUL": asked("/a%00b"),
    "fragment": asked("/a#b"),
    "many headers": asked("/ok", *(f"h{number}: 1" for number in range(105))),
    "large headers": asked("/ok", f"h: {'x' * 62_000}"),
    "unknown method": asked(method="FOO"),
    "all of the server": asked("*", method="OPTIONS"),
    "hop headers": asked("/ok", "connection: x-mine", "x-mine: 1", "te: gzip", "keep-alive: 5"),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Envoy:
    """A sidecar's Envoy with one application behind it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.port = free_port()
        live.open(APPLICATION, APP_PORT)

    def told(self, inbound: Inbound) -> None:
        vantage = Vantage(
            placement=Placement.SIDECAR, dialect=Dialect.ENVOY, namespace="shop", service_account="orders"
        )
        view = View(vantage=vantage, trust_domain="mesh.local", identity=ORDERS, inbound=inbound)
        port = SeatPort(name="http", app_port=APP_PORT, mesh_port=self.port)
        seat = Seat(workload=Name("shop", "orders-1"), bind=PROXY, ports=(port,), app_address=APPLICATION)
        self._live.hold(ORDERS, listeners(view, seat))

    def context(self) -> ssl.SSLContext:
        return self._live.context(WEB)


@pytest.fixture(scope="module")
def envoy() -> Iterator[Envoy]:
    with living() as live:
        yield Envoy(live)


@pytest.fixture(scope="module")
def served(mesh: Issuing) -> Iterator[Served]:
    with serving(mesh.certificates("orders"), _echo, http="h11") as running:
        yield running


async def _echo(scope: Scope, _receive: Receive, send: Send) -> None:
    """Say what came, in the words of the application behind the Envoy."""
    if scope["type"] == "lifespan":
        return
    target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    body = json.dumps({"method": scope["method"], "path": target, "headers": headers}).encode()
    length = (b"content-length", str(len(body)).encode())
    sent = [(b"content-type", b"application/json"), length, (b"x-masche-denied", b"mine")]
    await send({"type": "http.response.start", "status": 200, "headers": sent})
    await send({"type": "http.response.body", "body": body})


def told(mtls: MtlsMode) -> Inbound:
    return Inbound(mtls=mtls, ports=(InboundPort(target=APP_PORT, protocol=Protocol.HTTP),), policies=POLICIES)


def ask(to: tuple[str, int], context: ssl.SSLContext | None, data: bytes) -> Answer:
    """Send bytes on a connection of their own and read one answer."""
    with socket.create_connection(to, 10) as plain, context.wrap_socket(plain) if context else plain as connection:
        connection.sendall(data)
        found = b""
        while b"\r\n\r\n" not in found:
            more = connection.recv(65536)
            assert more, "no answer"
            found += more
        head, _, body = found.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = 0 if data.startswith(b"HEAD") else int(dict(headers).get("content-length", "0"))
        while len(body) < length:
            body += connection.recv(65536)
        return Answer(status=int(first.split()[1]), headers=tuple(sorted(headers)), body=body)


_OF_CHANCE = {"date", "content-length"}


def comparable(answer: Answer) -> tuple[int, dict[str, str], Any]:
    """Leave out what differs from call to call: times, ids, lengths of echoes, and who issued the certificates."""
    headers = {name: value for name, value in answer.headers if name not in _OF_CHANCE}
    if stats.SERVICE_HEADER in headers:
        headers[stats.SERVICE_HEADER] = "some"
    if not answer.body.startswith(b"{"):
        return answer.status, headers, answer.body
    got = json.loads(answer.body)
    at_the_application = sorted((name, _steady(name, value)) for name, value in got["headers"])
    return answer.status, headers, (got["method"], got["path"], at_the_application)


def _steady(name: str, value: str) -> str:
    match name:
        case "x-request-id":
            return value if value == "mine" else "made"
        case "x-forwarded-for":
            return ",".join([*value.split(",")[:-1], "caller"])
        case "x-forwarded-client-cert":
            return re.sub("Hash=[0-9a-f]{64}", "Hash=some", value)
        case _:
            return value


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("is_mtls", [True, False], ids=["mtls", "plaintext"])
def test_a_library_server_answers_as_a_sidecar_does(
    envoy: Envoy, served: Served, caller: Caller, case: str, is_mtls: bool
):
    envoy.told(told(MtlsMode.PERMISSIVE))
    served.reception.told = {
        served.port: replace(
            told(MtlsMode.PERMISSIVE), ports=(InboundPort(target=served.port, protocol=Protocol.HTTP),)
        )
    }
    theirs = ask((PROXY, envoy.port), envoy.context() if is_mtls else None, CASES[case])
    ours = ask(("127.0.0.1", served.port), caller("web") if is_mtls else None, CASES[case])
    assert comparable(ours) == comparable(theirs)


def test_the_headers_of_the_mesh_are_spelled_alike():
    assert (library.DENIED, library.UNREACHED) == (DENIED, UNREACHED)
