"""Every protocol that a service may speak, from its caller's socket to its own, through two proxies and mutual TLS."""

import contextlib
import hashlib
import http.client
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from e2e.calling import call
from e2e.mesh import SERVERS, Instance, Mesh
from e2e.reaching import addr, exchange, tunnel
from e2e.test_clients import CALLER, CLIENTS
from e2e.waiting import until
from masche.model.refs import Kind

SERVICES = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {app}}}
  ports: [{{name: main, port: {port}, targetPort: {target}, appProtocol: {protocol}}}]
---
"""
LONGER_THAN_THE_DEFAULT_TIMEOUT = 16.5
PRIVATE = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-private, namespace: shop}
spec:
  selector: {matchLabels: {app: socket}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/private*"]}}]}]
"""


def _service(name: str, port: int, target: str, protocol: str, app: str = "") -> str:
    return SERVICES.format(name=name, app=app or name, port=port, target=target, protocol=protocol)


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    mesh.apply(
        _service("web", 80, "http", "http")
        + _service("modern", 80, "http2", "kubernetes.io/h2c")
        + _service("greeter", 80, "grpc", "grpc")
        + _service("talker", 80, "http", "http")
        + _service("socket", 80, "http", "http")
        + _service("echo", 7, "tcp", "tcp")
        + _service("first", 25, "tcp", "tcp")
        + _service("nobody-home", 80, "grpc", "grpc")
    )

    def start(name: str, server: str, protocol: str = "", **env: str) -> Instance:
        return mesh.run(name, [sys.executable, str(SERVERS / server)], protocol=protocol, env=env)

    servers = [
        start("web", "web.py"),
        start("modern", "h2c.py", "http2"),
        start("greeter", "greeter.py", "grpc"),
        start("talker", "greeter.py"),
        start("socket", "socket_echo.py"),
        start("echo", "bytes_echo.py", "tcp"),
        start("first", "bytes_echo.py", "tcp", GREETING="220 hello"),
    ]
    caller = mesh.run("caller", [sys.executable, str(CLIENTS / "idle.py")], has_port=False)
    mesh.await_ready(*servers)
    until(lambda: caller.reaches("web"), "web answers the caller")
    until(mesh.is_in_sync, "every proxy is in sync")
    return caller


def _dial(caller: Instance, service: str, way: str) -> socket.socket:
    if way == "addr":
        return socket.create_connection(addr(caller, service), timeout=20)
    return tunnel(caller, {"echo": "echo:7", "first": "first:25"}.get(service, f"{service}:80"))


def _web(caller: Instance) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*addr(caller, "web"), timeout=30)


# -- HTTP/1.1 ---------------------------------------------------------------------------------------------------------


def test_answers_without_a_body_leave_the_connection_usable(caller: Instance):
    connection = _web(caller)
    connection.connect()
    ours = connection.sock.getsockname()
    assert exchange(connection, "HEAD", "/bytes/1000") == (200, b"")
    assert exchange(connection, "GET", "/status/204") == (204, b"")
    assert exchange(connection, "GET", "/status/304") == (304, b"")
    assert exchange(connection, "DELETE", "/status/204") == (204, b"")
    assert exchange(connection, "GET", "/bytes/5") == (200, b"xxxxx")
    assert connection.sock.getsockname() == ours
    connection.close()


def test_head_tells_the_length_of_what_get_would_return(caller: Instance):
    answer = call(caller.url("web", "/bytes/1234"), method="HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "1234", b"")


def test_a_caller_that_waits_for_100_continue_gets_it_and_then_its_answer(caller: Instance):
    with socket.create_connection(addr(caller, "web"), timeout=10) as connection:
        connection.sendall(b"POST /raw HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 100")
            connection.sendall(b"hello")
            assert answer.readline() == b"\r\n"
            assert answer.readline().startswith(b"HTTP/1.1 200")
            while answer.readline() != b"\r\n":
                pass
            assert answer.read(5) == b"hello"


def test_an_answer_that_comes_before_the_whole_body_reaches_the_caller(caller: Instance):
    with socket.create_connection(addr(caller, "web"), timeout=10) as connection:

        def send() -> None:
            with contextlib.suppress(ConnectionError):  # nobody needs the rest
                connection.sendall(b"POST /early HTTP/1.1\r\nHost: web\r\nContent-Length: 50000000\r\n\r\n")
                connection.sendall(b"x" * 1_000_000)

        sender = threading.Thread(target=send)
        sender.start()
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
        sender.join()


def test_large_headers_arrive_whole_in_both_directions(caller: Instance):
    sent = {f"x-large-{number}": "v" * 8_000 for number in range(6)}
    seen = dict(call(caller.url("web"), headers=sent).seen["headers"])
    assert {name: seen[name] for name in sent} == sent
    answer = call(caller.url("web", "/headers/5/8000"))
    assert [len(answer.headers[f"x-many-{number}"]) for number in range(5)] == [8_000] * 5


def test_headers_beyond_the_limit_are_refused_with_the_status_that_says_so(caller: Instance):
    assert call(caller.url("web"), headers={"x-large": "v" * 70_000}).status == 431


def test_two_hundred_connections_at_once_are_all_answered(caller: Instance):
    def one(number: int) -> tuple[int, str]:
        answer = call(caller.url("web", f"/slow/500?{number}"), within=30)
        return answer.status, answer.seen["target"]

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(one, range(200)))
    assert answers == [(200, f"/slow/500?{number}") for number in range(200)]


def test_a_large_body_flows_in_both_directions_at_once(caller: Instance):
    body = b"0123456789abcdef" * (20 * 1024 * 1024 // 16)
    answer = call(caller.url("web", "/raw"), method="POST", body=body, within=40)
    assert (answer.status, hashlib.sha256(answer.body).digest()) == (200, hashlib.sha256(body).digest())


def test_what_a_caller_claims_about_itself_is_replaced_by_what_was_verified(caller: Instance):
    claims = {"x-forwarded-client-cert": "URI=spiffe://mesh.local/ns/shop/sa/admin", "x-masche-denied": "nobody"}
    answer = call(caller.url("web"), headers=claims)
    assert next(value for name, value in answer.seen["headers"] if name == "x-forwarded-client-cert").endswith(
        f"URI={CALLER}"
    )
    assert "admin" not in str(answer.seen["headers"])


# -- streams ----------------------------------------------------------------------------------------------------------


def _events(caller: Instance, path: str) -> Iterator[float]:
    """How late each event of a stream was, in seconds."""
    connection = _web(caller)
    connection.request("GET", path, headers={"accept": "text/event-stream"})
    response = connection.getresponse()
    assert response.status == 200
    while line := response.readline():
        if line.startswith(b"data:"):
            yield time.time() - float(line.split()[2])
    connection.close()


def test_server_sent_events_arrive_when_they_are_sent(caller: Instance):
    late = list(_events(caller, "/events/5/200"))
    assert len(late) == 5
    assert statistics.median(late) < 0.15, "they are kept back until the last one"  # which would make it 0.4


def test_streams_that_flow_are_not_cut_by_the_default_timeout(caller: Instance):
    count = int(LONGER_THAN_THE_DEFAULT_TIMEOUT / 0.5) + 1

    def events() -> int:
        return len(list(_events(caller, f"/events/{count}/500")))

    def upload() -> int:
        def pieces() -> Iterator[bytes]:
            for _ in range(count):
                yield b"x" * 100
                time.sleep(0.5)

        connection = _web(caller)
        status, body = exchange(
            connection, "POST", "/", body=pieces(), encode_chunked=True, headers={"transfer-encoding": "chunked"}
        )
        connection.close()
        assert status == 200, body
        return json.loads(body)["length"] // 100

    def messages(way: str, service: str) -> int:
        with _channel(caller, service, way) as channel:
            stream = channel.unary_stream("/tests.Greeter/Tick")(b"500")
            found = 0
            for _ in stream:
                found += 1
                if found == count:
                    break
            stream.cancel()
            return found

    def websocket() -> int:
        with _websocket(caller, "url", "/") as connection:
            connection.recv()
            for number in range(count):
                connection.send(str(number))
                assert connection.recv(10) == str(number)
                time.sleep(0.5)
            return count

    def bytes_in_tunnel() -> int:
        with tunnel(caller, "echo:7") as connection:
            for _ in range(count):
                connection.sendall(b"x")
                assert connection.recv(10) == b"x"
                time.sleep(0.5)
            return count

    streams: dict[str, Callable[[], int]] = {
        "events": events,
        "upload": upload,
        "websocket": websocket,
        "tcp tunnel": bytes_in_tunnel,
        "grpc": lambda: messages("addr", "greeter"),
        "grpc on an HTTP port": lambda: messages("addr", "talker"),
        "grpc in a tunnel": lambda: messages("connect", "talker"),
    }
    with ThreadPoolExecutor(len(streams)) as pool:
        running = {name: pool.submit(stream) for name, stream in streams.items()}
        ended = {name: repr(one.exception()) if one.exception() else one.result() for name, one in running.items()}
    assert ended == dict.fromkeys(streams, count)


# -- HTTP/2 -----------------------------------------------------------------------------------------------------------


def _h2(connection: socket.socket, requests: int) -> list[tuple[dict[str, str], bytes]]:
    """Several requests at once on one connection with prior knowledge; their answers in order."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    state.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":authority", "modern"), (":path", "/some")]
    for index in range(requests):
        stream = 1 + 2 * index
        state.send_headers(stream, head)
        state.send_data(stream, b"x" * 1_000, end_stream=True)
    connection.sendall(state.data_to_send())
    heads: dict[int, dict[str, str]] = {}
    bodies: dict[int, bytes] = {}
    ended: set[int] = set()
    while len(ended) < requests:
        data = connection.recv(65_536)
        assert data, f"closed after {len(ended)} answers"
        for event in state.receive_data(data):
            match event:
                case h2.events.ResponseReceived(stream_id=stream, headers=headers):
                    heads[stream] = {str(name): str(value) for name, value in headers}
                case h2.events.DataReceived(stream_id=stream, data=part, flow_controlled_length=length):
                    bodies[stream] = bodies.get(stream, b"") + part
                    state.acknowledge_received_data(length, stream)
                case h2.events.StreamEnded(stream_id=stream):
                    ended.add(stream)
                case _:
                    pass
        connection.sendall(state.data_to_send())
    return [(heads[stream], bodies[stream]) for stream in sorted(ended)]


@pytest.mark.parametrize("way", ["addr", "connect"])
def test_http2_with_prior_knowledge_serves_many_requests_on_one_connection(caller: Instance, way: str):
    with _dial(caller, "modern", way) as connection:
        answers = _h2(connection, 20)
    for headers, body in answers:
        assert headers[":status"] == "200"
        seen = json.loads(body)
        assert (seen["name"], seen["version"], seen["length"]) == ("modern-1", "HTTP/2", 1_000)
        assert f"URI={CALLER}" in dict(seen["headers"])["x-forwarded-client-cert"]


def test_an_http1_caller_reaches_an_application_that_speaks_http2_only(caller: Instance):
    assert call(caller.url("modern")).seen["version"] == "HTTP/2"


def test_an_http2_caller_reaches_an_application_that_speaks_http1_only(caller: Instance):
    with _dial(caller, "web", "addr") as connection:
        ((headers, body),) = _h2(connection, 1)
    assert (headers[":status"], json.loads(body)["version"]) == ("200", "HTTP/1.1")


# -- gRPC -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _channel(caller: Instance, service: str = "greeter", way: str = "addr") -> Generator[grpc.Channel]:
    if way == "addr":
        name = service.upper().replace("-", "_")
        target, options = caller.environment[f"{name}_ADDR"], [("grpc.enable_http_proxy", 0)]
    else:
        target, options = f"{service}:80", [("grpc.http_proxy", caller.environment["http_proxy"])]
    with grpc.insecure_channel(target, options=[*options, ("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


WAYS = [("greeter", "addr"), ("greeter", "connect"), ("talker", "addr"), ("talker", "connect")]
"""A port that is declared as gRPC, and one that is HTTP, where gRPC is told by its content type."""


@pytest.mark.parametrize(("service", "way"), WAYS)
def test_grpc_streams_in_every_direction(caller: Instance, service: str, way: str):
    with _channel(caller, service, way) as channel:
        assert json.loads(channel.unary_unary("/tests.Greeter/Describe")(b"", timeout=10))["name"] == f"{service}-1"
        assert len(list(channel.unary_stream("/tests.Greeter/Count")(b"500", timeout=10))) == 500
        assert channel.stream_unary("/tests.Greeter/Total")(iter([b"x" * 10_000] * 50), timeout=10) == b"500000"
        said: list[bytes] = []
        heard = threading.Semaphore(1)

        def words() -> Iterator[bytes]:
            for word in (b"one", b"two", b"three"):  # each only after the answer to the one before
                assert heard.acquire(timeout=5)
                yield word

        for answer in channel.stream_stream("/tests.Greeter/Converse")(words(), timeout=20):
            said.append(answer)
            heard.release()
        assert said == [b"you said one", b"you said two", b"you said three"]


@pytest.mark.parametrize("code", ["NOT_FOUND", "UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"])
def test_a_grpc_status_comes_with_its_words_and_trailers(caller: Instance, code: str):
    with _channel(caller) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/tests.Greeter/Fail")(code.encode(), timeout=10)
        assert raised.value.code() is grpc.StatusCode[code]
        assert raised.value.details() == "as you wished: 100 % sure"
        assert dict(raised.value.trailing_metadata())["why-bin"] == b"\x00\x01"


def test_a_grpc_deadline_reaches_the_server_and_ends_the_call_there(caller: Instance):
    with _channel(caller, "talker") as channel:
        left = json.loads(channel.unary_unary("/tests.Greeter/Describe")(b"", timeout=7))["left"]
        assert 0 < left < 7.1
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/tests.Greeter/Hang")(b"", timeout=0.5)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert channel.unary_unary("/tests.Greeter/WasCancelled")(b"", timeout=5) == b"yes"


def test_a_cancelled_grpc_call_is_cancelled_at_the_server(caller: Instance):
    with _channel(caller) as channel:
        hanging = channel.unary_unary("/tests.Greeter/Hang").future(b"")
        assert channel.unary_unary("/tests.Greeter/WasReached")(b"", timeout=5) == b"yes"
        hanging.cancel()
        assert channel.unary_unary("/tests.Greeter/WasCancelled")(b"", timeout=5) == b"yes"


def _refused(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/tests.Greeter/{method}")(b"", timeout=10)
    return raised.value.code()


def test_what_the_mesh_itself_refuses_has_a_status_of_grpc(mesh: Mesh, caller: Instance):
    with _channel(caller, "nobody-home") as channel:
        assert _refused(channel, "Echo") is grpc.StatusCode.UNAVAILABLE
    mesh.apply(PRIVATE.replace("/private*", "/tests.Greeter/Echo").replace("app: socket", "app: greeter"))
    try:
        with _channel(caller) as channel:
            assert _refused(channel, "Echo") is grpc.StatusCode.PERMISSION_DENIED
            assert len(list(channel.unary_stream("/tests.Greeter/Count")(b"3", timeout=10))) == 3
    finally:
        mesh.delete(Kind.AUTHORIZATION_POLICY, "not-private")


# -- WebSocket --------------------------------------------------------------------------------------------------------


def _websocket(caller: Instance, way: str, path: str) -> ClientConnection:
    if way == "url":
        return connect(caller.url("socket", path).replace("http://", "ws://"), proxy=None, open_timeout=10)
    return connect(f"ws://socket{path}", proxy=caller.environment["HTTP_PROXY"], open_timeout=10)


@pytest.mark.parametrize("way", ["url", "proxy"])
def test_a_websocket_carries_messages_both_ways_and_closes_in_order(caller: Instance, way: str):
    with _websocket(caller, way, "/chat?room=1") as connection:
        seen = json.loads(connection.recv(10))
        assert (seen["name"], seen["path"]) == ("socket-1", "/chat?room=1")
        assert f"URI={CALLER}" in dict(seen["headers"])["x-forwarded-client-cert"]
        for message in ("hello", b"\x00\xff" * 300_000):
            connection.send(message)
            assert connection.recv(10) == message
        assert connection.ping().wait(10)
    assert connection.close_code == 1000


def test_a_policy_on_paths_holds_for_websockets_too(mesh: Mesh, caller: Instance):
    mesh.apply(PRIVATE)
    try:
        for way in ("url", "proxy"):
            with pytest.raises(InvalidStatus) as refused:
                _websocket(caller, way, "/private/room")
            assert refused.value.response.status_code == 403
            assert "not-private" in refused.value.response.headers["x-masche-denied"]
            with _websocket(caller, way, "/public") as connection:
                assert json.loads(connection.recv(10))["path"] == "/public"
    finally:
        mesh.delete(Kind.AUTHORIZATION_POLICY, "not-private")


# -- TCP --------------------------------------------------------------------------------------------------------------


def _until_end(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65_536):
        found += data
    return found


def test_bytes_pass_and_each_direction_ends_by_itself(caller: Instance):
    sent = bytes(range(256)) * 8_000
    with _dial(caller, "echo", "addr") as connection:
        sender = threading.Thread(target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        assert _until_end(connection) == sent + b"<%d>" % len(sent)
        sender.join()


def test_bytes_pass_through_a_tunnel_of_the_proxy(caller: Instance):
    sent = bytes(range(256)) * 8_000
    with _dial(caller, "echo", "connect") as connection:
        sender = threading.Thread(target=lambda: connection.sendall(sent))
        sender.start()
        with connection.makefile("rb") as heard:
            assert heard.read(len(sent)) == sent
        sender.join()


@pytest.mark.parametrize("way", ["addr", "connect"])
def test_a_server_that_speaks_first_is_heard_at_once(caller: Instance, way: str):
    began = time.monotonic()
    with _dial(caller, "first", way) as connection:
        assert connection.recv(100) == b"220 hello\n"
        assert time.monotonic() - began < 5
        connection.sendall(b"HELO")
        assert connection.recv(100) == b"HELO"
