"""hypercorn in the mesh: both versions of HTTP, on a port that takes what the mesh says."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest
from hyperframe.frame import GoAwayFrame

from library.server.conftest import Caller
from library.server.serving import Served, connected, echo, inbound
from masche.library import hypercorn
from masche.library.core.ports import HTTP_2
from masche.library.core.tls import Certificates
from masche.library.inbound import introduced as introductions
from masche.library.inbound.asgi import Guarded
from masche.library.inbound.door import Door
from masche.library.inbound.listen import Listener, bound
from masche.model.view import Attribute, Condition, Decision, MtlsMode, Pattern, PatternKind, Policy, Rule
from masche.testing.static_reception import Counted, StaticReception

WEB = "spiffe://mesh.local/ns/shop/sa/web"
NO_X = Policy(
    name="shop/no-x",
    decision=Decision.DENY,
    rules=(
        Rule(
            name="shop/no-x rules[0]",
            operations=((Condition(attribute=Attribute.PATH, values=(Pattern(PatternKind.EXACT, "/x"),)),),),
        ),
    ),
)


class ByHypercorn(Served):
    """The same questions to another server."""

    def __init__(self, certificates: Certificates) -> None:
        self.socket = bound("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.reception, self.counted = StaticReception(), Counted()
        self.door = Door(
            self.port, name="http", workload=lambda: "shop/orders-1", reception=self.reception, counter=self.counted
        )
        self.reception.told = {self.port: inbound(NO_X, port=self.port, mtls=MtlsMode.PERMISSIVE)}
        self._certificates = certificates
        self._begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="serving")
        self._thread.start()
        assert self._begun.wait(10)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = hypercorn.Serving(Guarded(echo, self.door), hypercorn.config(), self._certificates)
        await server.start()
        listener = Listener(
            [self.socket],
            server.connection,
            mode=self.door.mode,
            context=lambda: self._certificates.server_context(HTTP_2),
        )
        listener.start()
        self._begun.set()
        await self._stop.wait()
        listener.close()
        await listener.wait_closed()
        await server.end()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def served(ours: Certificates) -> Iterator[ByHypercorn]:
    running = ByHypercorn(ours)
    try:
        yield running
    finally:
        running.close()


def test_the_application_sees_the_verified_caller(served: ByHypercorn, caller: Caller):
    status, headers, body = served.ask("/a//b?x", context=caller("web"), headers=(("x-masche-peer", "admin"),))
    told = json.loads(body)
    assert (status, told["peer"], told["raw_path"], told["query"]) == (200, WEB, "/a/b", "x")
    assert "BEGIN CERTIFICATE" in told["tls"]["client_cert_chain"][0]
    assert "x-masche-service-us" in headers
    assert json.loads(served.ask("/")[2])["peer"] is None
    assert [each.peer for each in served.counts(2)] == [WEB, ""]


def test_a_denial_names_its_rule_over_http2_too(served: ByHypercorn, caller: Caller):
    status, headers, body = over_http2(served.port, caller("web"), "/x")
    assert (status, headers["x-masche-denied"], body) == (403, "shop/no-x rules[0]", b"RBAC: access denied")
    status, _, body = over_http2(served.port, caller("web"), "/a")
    assert (status, json.loads(body)["peer"]) == (200, WEB)
    assert dict(json.loads(body)["headers"])["host"] == "orders"
    status, headers, _ = over_http2(served.port, caller("web"), "/a%2Fb")
    assert (status, "connection" in headers) == (400, False)


def test_under_strict_plaintext_is_closed_without_an_answer(served: ByHypercorn):
    served.told(mtls=MtlsMode.STRICT)
    assert not served.raw(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").startswith(b"HTTP")


def over_http2(port: int, context: ssl.SSLContext, path: str) -> tuple[int, dict[str, str], bytes]:
    context.set_alpn_protocols(["h2"])
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    state.initiate_connection()
    headers = {":method": "GET", ":path": path, ":authority": "orders", ":scheme": "https"}
    state.send_headers(1, list(headers.items()), end_stream=True)
    found: dict[str, str] = {}
    body = b""
    with connected(port, context) as connection:
        connection.sendall(state.data_to_send())
        while True:
            for event in state.receive_data(connection.recv(65536)):
                match event:
                    case h2.events.ResponseReceived():
                        found = dict(event.headers)
                    case h2.events.DataReceived():
                        body += event.data
                    case h2.events.StreamEnded():
                        return int(found[":status"]), found, body
                    case _:
                        pass
            connection.sendall(state.data_to_send())


def test_an_old_connection_of_http2_ends_in_order(served: ByHypercorn, caller: Caller, monkeypatch: pytest.MonkeyPatch):
    """Its caller is told to open another, what it asks until it has heard is answered, and then it is closed."""
    monkeypatch.setattr(introductions, "MAX_CONNECTION_AGE", 0.5)
    monkeypatch.setattr(hypercorn, "FAREWELL", 1.0)
    context = caller("web")
    context.set_alpn_protocols(["h2"])
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    state.initiate_connection()
    request = [(":method", "GET"), (":path", "/a"), (":authority", "orders"), (":scheme", "https")]
    said, answers = b"", 0
    with connected(served.port, context) as connection:
        state.send_headers(1, request, end_stream=True)
        connection.sendall(state.data_to_send())
        while data := connection.recv(65536):
            said += data
            if FAREWELL in data:
                data, _, rest = data.partition(FAREWELL)
                answers += sum(isinstance(each, h2.events.StreamEnded) for each in state.receive_data(data + rest))
                state.send_headers(3, request, end_stream=True)
            else:
                answers += sum(isinstance(each, h2.events.StreamEnded) for each in state.receive_data(data))
            connection.sendall(state.data_to_send())
    assert FAREWELL in said
    assert answers == 2


FAREWELL = GoAwayFrame(0, last_stream_id=2**31 - 1).serialize()
