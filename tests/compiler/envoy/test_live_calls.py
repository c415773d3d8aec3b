"""Two real Envoys, a caller's and a callee's, with mutual TLS between them."""

import http.client
import json
import socket
import ssl
from contextlib import ExitStack, suppress

import h2.config
import h2.connection
import h2.events
import pytest
from applications import greeting, h2c_echo, http_echo, serving, tcp_echo, websocket_like
from envoy_rig import Authority, Envoy, free_port, remove, secrets, short_folder, wait_until
from views import at, cluster, identity, outbound, port, seat, view

from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.shared import blobs
from masche.model.vantage import LocalPort, SeatPort
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
    Traffic,
)

ROOT = Authority.named("root")
EVIL = Authority.named("another root")
ORDERS, DB, LIVE, RPC, MAIL, DOWN = (
    port(name, number)
    for name, number in (("orders", 80), ("db", 5432), ("live", 80), ("rpc", 80), ("mail", 25), ("down", 80))
)
PROTOCOLS = {
    service: Protocol.TCP if service in {DB, MAIL} else Protocol.HTTP for service in (ORDERS, DB, LIVE, RPC, MAIL, DOWN)
}


class Pair:
    """A web workload, and one with six ports: HTTP, TCP, WebSocket, gRPC, TCP that speaks first, and nothing."""

    def __init__(self, stack: ExitStack) -> None:
        self.caller, self.callee = (self._envoy(stack) for _ in range(2))
        self.app = stack.enter_context(http_echo("orders-1"))
        self.apps = {ORDERS: self.app.server_port}
        self.apps[DB] = stack.enter_context(serving(tcp_echo))
        self.apps[LIVE] = stack.enter_context(serving(websocket_like))
        self.apps[RPC] = stack.enter_context(serving(h2c_echo))
        self.apps[MAIL] = stack.enter_context(serving(greeting))
        self.apps[DOWN] = free_port()
        self.mesh_ports = {service: free_port() for service in self.apps}
        self.local_ports = {service: free_port() for service in self.apps}
        self.proxy_port = free_port()
        self.generation = 0

    @staticmethod
    def _envoy(stack: ExitStack) -> Envoy:
        folder = short_folder()
        stack.callback(remove, folder)
        envoy = Envoy(folder)
        stack.callback(envoy.close)
        return envoy

    def serve(self, **inbound) -> None:
        spoken = tuple(InboundPort(target=self.apps[each], protocol=what) for each, what in PROTOCOLS.items())
        seen = view("orders", inbound=Inbound(ports=spoken, **inbound))
        places = tuple(
            SeatPort(name=each.service, app_port=self.apps[each], mesh_port=self.mesh_ports[each]) for each in self.apps
        )
        sat = seat("orders", ports=places)
        self.callee.put((*blobs(seen), *listeners(seen, sat), *secrets(ROOT, seen.identity)))

    def call_from(self, name: str = "web", authority: Authority = ROOT, outbounds=None, clusters=None, **more) -> None:
        seen = view(
            name,
            outbound=outbounds or tuple(outbound(each, protocol=what) for each, what in PROTOCOLS.items()),
            clusters=clusters
            or tuple(
                cluster(each, what, identities=(identity("orders"),), traffic=self._fresh())
                for each, what in PROTOCOLS.items()
            ),
            **more,
        )
        places = tuple(LocalPort(service=each, port=number) for each, number in self.local_ports.items())
        sat = seat(name, local_ports=places, proxy_port=self.proxy_port)
        instances = [at(each, number) for each, number in self.mesh_ports.items()]
        self.caller.put((*blobs(seen), *listeners(seen, sat), *instances, *secrets(authority, seen.identity, ROOT)))

    def _fresh(self) -> Traffic:
        """Another cluster each time, because open connections keep the identity they were made with."""
        self.generation += 1
        return Traffic(connect_timeout=2 + self.generation / 1000)

    def get(self, path: str = "/", method: str = "GET", service=ORDERS, **headers) -> tuple[int, dict, dict]:
        return request(self.local_ports[service], method, path, headers)


def request(number: int, method: str, path: str, headers=None, body=None) -> tuple[int, dict, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", number, timeout=10)
    try:
        named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        text = response.read().decode()
        try:
            content = json.loads(text)
        except ValueError:
            content = {"text": text}
        return response.status, content, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


@pytest.fixture(scope="module")
def pair():
    with ExitStack() as stack:
        yield Pair(stack)


@pytest.fixture(autouse=True)
def fresh(pair):
    pair.app.seen.clear()


@pytest.fixture
def calling(pair):
    pair.serve()
    pair.call_from()
    return pair


def allow(name: str, *, path: str = "", principal: str = "") -> Policy:
    return _policy(name, Decision.ALLOW, path, principal)


def deny(name: str, *, path: str = "", principal: str = "") -> Policy:
    return _policy(name, Decision.DENY, path, principal)


def _policy(name: str, decision: Decision, path: str, principal: str) -> Policy:
    to = ((Condition(attribute=Attribute.PATH, values=(Pattern(PatternKind.PREFIX, path),)),),) if path else ()
    source = (
        ((Condition(attribute=Attribute.PRINCIPAL, values=(Pattern(PatternKind.EXACT, principal),)),),)
        if principal
        else ()
    )
    return Policy(name=name, decision=decision, rules=(Rule(name=f"{name} rules[0]", sources=source, operations=to),))


def test_a_request_arrives_with_the_callers_verified_identity_and_the_services_name(calling) -> None:
    status, seen, headers = calling.get("/a?b=c", x_forwarded_client_cert="URI=spiffe://mesh.local/ns/shop/sa/forged")
    assert (status, seen["path"], seen["host"]) == (200, "/a?b=c", "orders.shop")
    assert seen["headers"]["x-forwarded-client-cert"].endswith(f";URI={identity('web')}")
    assert "x-masche-denied" not in headers


def test_plain_tcp_passes_through(calling) -> None:
    with socket.create_connection(("127.0.0.1", calling.local_ports[DB]), timeout=10) as connection:
        connection.sendall(b"select")
        assert connection.recv(100) == b"SELECT"


def test_a_websocket_is_upgraded_across_both_proxies(calling) -> None:
    with socket.create_connection(("127.0.0.1", calling.local_ports[LIVE]), timeout=10) as connection:
        _upgrade(connection)


def _upgrade(connection: socket.socket) -> None:
    connection.sendall(
        b"GET /chat HTTP/1.1\r\nhost: live\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    connection.sendall(b"hello")
    assert connection.recv(100) == b"HELLO"


def test_http2_with_prior_knowledge_is_understood_and_reaches_an_http1_application(calling) -> None:
    headers, body = _h2_request(calling.local_ports[ORDERS], [(":path", "/two")])
    assert headers[":status"] == "200"
    assert json.loads(body)["path"] == "/two"


def _h2_request(number: int, more, context=None) -> tuple[dict, bytes]:
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    with socket.create_connection(("127.0.0.1", number), timeout=10) as plain:
        connection = context.wrap_socket(plain) if context else plain
        state.initiate_connection()
        pseudo = {":method": "GET", ":scheme": "http", ":authority": "orders", ":path": "/"}
        pseudo.update({name: value for name, value in more if name.startswith(":")})
        rest = [(name, value) for name, value in more if not name.startswith(":")]
        state.send_headers(1, [*pseudo.items(), *rest], end_stream=True)
        connection.sendall(state.data_to_send())
        headers, body = {}, b""
        while data := connection.recv(65536):
            for event in state.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    headers = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return headers, body
            connection.sendall(state.data_to_send())
    return headers, body


def test_grpc_on_an_http_port_reaches_the_application_in_http2(calling) -> None:
    named = [
        (":method", "POST"),
        (":path", "/shop.Orders/List"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    headers, body = _h2_request(calling.local_ports[RPC], named)
    assert headers[":status"] == "200"
    assert json.loads(body)[":path"] == "/shop.Orders/List"


def test_the_proxy_routes_by_name_with_and_without_a_port(calling) -> None:
    for authority in ("orders", "orders.shop", "orders:80", "ORDERS.shop:80"):
        status, seen, _ = request(calling.proxy_port, "GET", f"http://{authority}/x")
        assert (status, seen["name"]) == (200, "orders-1"), authority


def test_a_tunnel_to_an_http_service_ends_in_the_same_routes(calling) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", calling.proxy_port, timeout=10)
    connection.set_tunnel("orders", 80)
    connection.request("GET", "/tunnel")
    assert json.loads(connection.getresponse().read())["path"] == "/tunnel"
    connection.close()


def test_a_websocket_goes_through_a_tunnel(calling) -> None:
    with _tunnel(calling, "live:80") as connection:
        _upgrade(connection)


def test_a_tunnel_to_a_tcp_service_passes_bytes(calling) -> None:
    with _tunnel(calling, "db.shop:5432") as connection:
        connection.sendall(b"select")
        assert connection.recv(100) == b"SELECT"


def _tunnel(pair, authority: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", pair.proxy_port), timeout=10)
    connection.sendall(f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return connection


def test_connect_is_for_names_of_the_mesh_only(calling) -> None:
    for authority in ("example.org:443", "127.0.0.1:80", "localhost:22", "169.254.169.254:80"):
        with socket.create_connection(("127.0.0.1", calling.proxy_port), timeout=10) as connection:
            connection.sendall(f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 403"), authority


def test_what_is_not_of_the_mesh_passes_unless_it_is_this_host(calling) -> None:
    with http_echo("outside") as outside:
        number = outside.server_port
        for host in ("127.0.0.1", "localhost", "127.1.2.3", "[::1]", "0.0.0.0"):
            status, seen, _ = request(calling.proxy_port, "GET", f"http://{host}:{number}/")
            assert (status, "never proxied" in seen["text"]) == (403, True), host
        assert outside.seen == []
    status, _, _ = request(calling.proxy_port, "GET", "http://name.invalid/")
    assert status == 503


def test_a_name_that_resolves_to_loopback_is_refused_as_loopback(calling) -> None:
    with http_echo("outside") as outside:
        status, _, _ = request(calling.proxy_port, "GET", f"http://{0x7F000001}:{outside.server_port}/")
        assert (status, outside.seen) == (403, [])


def test_registry_only_refuses_other_hosts_with_a_reason(pair) -> None:
    pair.call_from(is_registry_only=True)
    status, seen, _ = request(pair.proxy_port, "GET", "http://example.org/")
    assert status == 502
    assert "REGISTRY_ONLY" in seen["text"]


def test_an_instance_that_shows_another_identity_is_refused(pair) -> None:
    pair.serve()
    pair.call_from(clusters=(cluster(ORDERS, identities=(identity("cart"), identity("payment"))),))
    assert pair.get()[0] == 503
    assert pair.app.seen == []
    assert pair.caller.stats("envoy_cluster_ssl_fail_verify_san")


def test_a_caller_of_another_authority_is_refused_in_the_handshake(pair) -> None:
    pair.serve()
    pair.call_from(authority=EVIL)
    assert pair.get()[0] == 503
    assert pair.app.seen == []


def test_plaintext_is_refused_under_strict_and_accepted_under_permissive(pair) -> None:
    pair.serve()
    with pytest.raises((OSError, http.client.HTTPException)):
        request(pair.mesh_ports[ORDERS], "GET", "/plain")
    pair.serve(mtls=MtlsMode.PERMISSIVE)
    status, seen, _ = request(pair.mesh_ports[ORDERS], "GET", "/plain", {"x-forwarded-client-cert": "URI=forged"})
    assert (status, seen["path"]) == (200, "/plain")
    assert "x-forwarded-client-cert" not in seen["headers"]


def test_a_port_can_be_permissive_where_the_workload_is_strict(pair) -> None:
    pair.serve(port_mtls=((pair.apps[ORDERS], MtlsMode.DISABLE),))
    assert request(pair.mesh_ports[ORDERS], "GET", "/plain")[0] == 200


def test_a_denial_names_its_rule_to_an_authenticated_caller_only(pair) -> None:
    pair.serve(mtls=MtlsMode.PERMISSIVE, policies=(deny("shop/no-admin", path="/admin"),))
    pair.call_from()
    status, _, headers = pair.get("/admin/users")
    assert (status, headers["x-masche-denied"]) == (403, "shop/no-admin rules[0]")
    status, _, headers = request(pair.mesh_ports[ORDERS], "GET", "/admin/users")
    assert (status, headers.get("x-masche-denied")) == (403, None)
    assert pair.get("/other")[0] == 200


def test_an_implicit_denial_says_that_no_policy_matched_and_which_there_were(pair) -> None:
    policies = (allow("shop/for-cart", principal="mesh.local/ns/shop/sa/cart"), allow("shop/public", path="/public"))
    pair.serve(policies=policies)
    pair.call_from()
    status, _, headers = pair.get("/x")
    assert status == 403
    assert (
        headers["x-masche-denied"] == "no ALLOW policy of shop/orders-1 matches; considered: shop/for-cart, shop/public"
    )
    assert pair.get("/public/x")[0] == 200
    pair.call_from("cart")
    assert pair.get("/x")[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/%61dmin", 403), ("//admin", 403), ("/x/../admin", 403), ("/x/%2e%2e/admin", 403), ("/x%2f..%2fadmin", 400)],
)
def test_a_path_is_judged_after_it_was_normalised(pair, path, status) -> None:
    pair.serve(policies=(deny("shop/no-admin", path="/admin"),), mtls=MtlsMode.PERMISSIVE)
    assert request(pair.mesh_ports[ORDERS], "GET", path)[0] == status, path
    assert pair.app.seen == []


def test_tcp_is_allowed_by_identity(pair) -> None:
    pair.serve(policies=(allow("shop/for-cart", principal="mesh.local/ns/shop/sa/cart"),))
    for name, answer in (("web", b""), ("cart", b"SELECT")):
        pair.call_from(name)
        with socket.create_connection(("127.0.0.1", pair.local_ports[DB]), timeout=10) as connection:
            connection.sendall(b"select")
            try:
                assert connection.recv(100) == answer
            except ConnectionResetError:
                assert answer == b""


def test_a_server_may_speak_first(calling) -> None:
    with socket.create_connection(("127.0.0.1", calling.local_ports[MAIL]), timeout=10) as connection:
        assert connection.recv(100) == b"220 welcome\r\n"


def test_a_server_that_speaks_first_tells_nothing_to_whom_it_does_not_serve(pair) -> None:
    pair.serve(policies=(allow("shop/for-cart", principal="mesh.local/ns/shop/sa/cart"),))
    pair.call_from()
    with socket.create_connection(("127.0.0.1", pair.local_ports[MAIL]), timeout=1) as connection:
        try:
            assert connection.recv(100) == b""
        except TimeoutError:
            connection.sendall(b"x")
            with suppress(ConnectionResetError):
                assert connection.recv(100) == b""


def test_a_request_that_never_reached_an_application_is_marked_for_the_callers_proxy_alone(pair) -> None:
    pair.serve(mtls=MtlsMode.PERMISSIVE)
    pair.call_from()
    status, _, headers = request(pair.mesh_ports[DOWN], "GET", "/")
    assert (status, headers["x-masche-unreached"]) == (503, "1")
    status, _, headers = pair.get(service=DOWN)
    assert (status, headers.get("x-masche-unreached")) == (503, None)
    retried = pair.caller.stats("envoy_cluster_upstream_rq_retry{")
    assert any(value >= 2 for name, value in retried.items() if DOWN.path in name), retried


def test_an_application_cannot_claim_that_it_was_not_reached(calling) -> None:
    status, _, headers = calling.get(x_answer="503", x_answer_header="x-masche-unreached: 1")
    assert (status, headers.get("x-masche-unreached"), len(calling.app.seen)) == (503, None, 1)


def test_edges_are_counted_on_both_sides_with_bounded_labels(calling) -> None:
    for _ in range(3):
        assert calling.get("/counted", user_agent="x" * 50)[0] == 200
    labels = {"source": identity("web"), "code": "200", "grpc": "", "flags": "-"}
    expected = (
        (calling.caller, {**labels, "reporter": "source", "destination": ORDERS.path}),
        (
            calling.callee,
            {**labels, "reporter": "destination", "destination": f"inbound/shop/orders-1/{calling.apps[ORDERS]}"},
        ),
    )
    for envoy, wanted in expected:

        def counted(envoy=envoy, wanted=wanted) -> bool:
            lines = envoy.stats("envoy_mesh_requests_total{")
            return any(
                value >= 3 and all(f'{name}="{label}"' in line for name, label in wanted.items())
                for line, value in lines.items()
            )

        wait_until(counted, f"{wanted} among {envoy.stats('envoy_mesh_requests_total')}")
        assert envoy.stats("envoy_mesh_request_us_bucket")
    instance = f'instance="127.0.0.1:{calling.mesh_ports[ORDERS]}"'
    for family in ("envoy_mesh_instance_us_count", "envoy_mesh_instance_requests_total"):
        wait_until(
            lambda family=family: any(
                instance in line and value >= 3 for line, value in calling.caller.stats(family).items()
            ),
            f"{family} of {instance}",
        )


def test_a_denial_is_counted_and_logged_with_its_rule(pair) -> None:
    pair.serve(policies=(deny("shop/no-admin", path="/admin"),))
    pair.call_from()
    assert pair.get("/admin")[0] == 403
    wait_until(
        lambda: any('rule="shop/no-admin rules[0]"' in line for line in pair.callee.stats("envoy_mesh_denied_total")),
        "the denial to be counted",
    )
    wait_until(lambda: "rbac_access_denied_matched_policy[shop/no-admin_rules[0]]" in pair.callee.log, "the log line")


def test_a_caller_without_a_certificate_cannot_even_say_a_word(pair) -> None:
    pair.serve()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answer = b""
    with (
        suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("127.0.0.1", pair.mesh_ports[ORDERS]), timeout=10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = connection.recv(100)
    assert (answer, pair.app.seen) == (b"", [])
