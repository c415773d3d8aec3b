"""What captured workloads call, and are called by, through one real Envoy: every protocol, and everything refused."""

import http.client
import json
import socket
import ssl
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from applications import greeting, h2c_echo, http_echo, serving, tcp_echo, websocket_like
from envoy_rig import Authority, free_port, wait_until
from node_rig import ROOT, Member, Node, node, port, virtual
from views import identity, route

from masche.agent.capture.sockets import in_namespace
from masche.model.refs import PortRef
from masche.model.vantage import Placement
from masche.model.view import (
    Attribute,
    Backend,
    Condition,
    Cors,
    Decision,
    Forward,
    Inbound,
    MtlsMode,
    Pattern,
    PatternKind,
    Policy,
    Protocol,
    Retry,
    Rule,
)

ORDERS, DB, MAIL, LIVE, RPC = (
    port(name, number) for name, number in (("orders", 80), ("db", 5432), ("mail", 25), ("live", 82), ("rpc", 83))
)
PROMPT = 0.4
"""Seconds; what stalls, stalls for at least half a second."""


class Machine:
    """A caller, and a callee with ports of five protocols."""

    def __init__(self, stack: ExitStack) -> None:
        self.node: Node = stack.enter_context(node())
        for name in ("web", "orders"):
            self.node.add(name)
        self.callee = callee = self.node.members["orders"]
        self.app = callee.within(lambda: stack.enter_context(http_echo("orders-1")))
        self.node.serve("orders", ORDERS, self.app.server_port)
        for service, handle, protocol in (
            (DB, tcp_echo, Protocol.TCP),
            (MAIL, greeting, Protocol.TCP),
            (LIVE, websocket_like, Protocol.HTTP),
            (RPC, h2c_echo, Protocol.HTTP),
        ):
            number = callee.within(lambda handle=handle: stack.enter_context(serving(handle)))
            self.node.serve("orders", service, number, protocol)

    @property
    def web(self) -> Member:
        return self.node.members["web"]

    def change(self, **inbound) -> None:
        """Receive calls otherwise; fields of Inbound."""
        callee = self.callee
        callee.view = replace(callee.view, inbound=replace(Inbound(ports=callee.view.inbound.ports), **inbound))
        self.node.put()

    def get(self, service: PortRef = ORDERS, path: str = "/", *, caller: str = "web", ipv6=False, **headers):
        return request(self.node.members[caller].call(service, ipv6=ipv6), path, headers)


def request(connected: socket.socket, path: str = "/", headers=None, method="GET") -> tuple[int, dict, dict]:
    with closing(http.client.HTTPConnection("whoever")) as connection:
        connection.sock = connected
        connection.request(
            "GET", path, headers={name.replace("_", "-"): each for name, each in (headers or {}).items()}
        )
        response = connection.getresponse()
        text = response.read().decode()
        content = json.loads(text) if text.startswith("{") else {"text": text}
        return response.status, content, {name.lower(): value for name, value in response.getheaders()}


@pytest.fixture(scope="module")
def running():
    with ExitStack() as stack:
        yield Machine(stack)


@pytest.fixture(params=["local", "tls"])
def machine(running: Machine, request: pytest.FixtureRequest) -> Machine:
    """Within the proxy, or by mutual TLS of the proxy with itself; without policies."""
    running.node.is_local = request.param == "local"
    running.node.is_registry_only = False
    running.change()
    return running


@pytest.fixture
def local(running: Machine) -> Machine:
    running.node.is_local, running.node.is_registry_only = True, False
    running.change()
    return running


def policy(name: str, decision: Decision, attribute: Attribute, kind: PatternKind, value: str = "") -> Policy:
    source = ((Condition(attribute=attribute, values=(Pattern(kind, value),)),),)
    return Policy(name=name, decision=decision, rules=(Rule(name=f"{name} rules[0]", sources=source),))


# -------------------------------------------------------------------------------------------------------- what arrives


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_a_request_arrives_with_its_callers_identity_and_nothing_that_the_caller_claimed(machine: Machine, ipv6: bool):
    forged = {
        "host": "db:5432",
        "x_forwarded_client_cert": f"URI={identity('forged')}",
        "x_masche_destination": f"{virtual(LIVE)[0]}:82",
        "x_masche_service_us": "1",
        "x_envoy_expected_rq_timeout_ms": "1",
    }
    status, seen, _ = machine.get(path="/a?b=c", ipv6=ipv6, **forged)
    assert (status, seen["path"], seen["host"]) == (200, "/a?b=c", "orders.shop")
    told = seen["headers"]
    assert told["x-forwarded-client-cert"].startswith(f"By={identity('orders')};")
    assert told["x-forwarded-client-cert"].endswith(f";URI={identity('web')}")
    assert told["x-forwarded-proto"] == "https"
    assert not [name for name in told if name.startswith(("x-masche-", "x-envoy-"))]


def test_a_neighbour_is_known_by_its_own_address(local: Machine):
    _, seen, _ = local.get(x_forwarded_for="10.9.9.9")
    assert seen["headers"]["x-forwarded-for"].endswith(local.web.place.address)


def test_a_workload_may_call_itself(machine: Machine):
    status, seen, _ = machine.get(caller="orders")
    assert status == 200
    assert seen["headers"]["x-forwarded-client-cert"].endswith(f";URI={identity('orders')}")


def test_bytes_pass_and_each_side_may_end_its_half(machine: Machine):
    with machine.web.call(DB) as connection:
        connection.sendall(b"select")
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(100):
            received += data
        assert received == b"SELECT"


def test_a_server_that_speaks_first_is_heard_at_once(machine: Machine):
    began = time.monotonic()
    with machine.web.call(MAIL) as connection:
        assert connection.recv(100) == b"220 welcome\r\n"
    assert time.monotonic() - began < PROMPT


def test_a_websocket_is_upgraded(machine: Machine):
    with machine.web.call(LIVE) as connection:
        connection.sendall(
            b"GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        connection.sendall(b"hello")
        assert connection.recv(100) == b"HELLO"


def test_grpc_reaches_the_application_in_http2(machine: Machine):
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    state.initiate_connection()
    pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "rpc"), (":path", "/shop.Orders/List")]
    state.send_headers(1, [*pseudo, ("content-type", "application/grpc"), ("te", "trailers")], end_stream=True)
    with machine.web.call(RPC) as connection:
        connection.sendall(state.data_to_send())
        body = b""
        while not body:
            for event in state.receive_data(connection.recv(65536)):
                body += event.data if isinstance(event, h2.events.DataReceived) else b""
    assert json.loads(body)[":path"] == "/shop.Orders/List"


def test_filters_that_sleep_are_woken_by_the_routes_that_need_them(local: Machine):
    repeated = Forward(backends=(Backend(cluster=ORDERS),), retry=Retry(attempts=1, codes=(503,)))
    local.node.routes_of[ORDERS] = (
        route("default", cors=Cors(allow_origins=("http://there",), allow_methods=("GET",)), action=repeated),
    )
    local.node.put()
    asked = {"origin": "http://there", "access_control_request_method": "GET"}
    try:
        status, _, answered = request(local.web.call(ORDERS), "/", asked, method="OPTIONS")
        assert (status, answered["access-control-allow-origin"]) == (200, "http://there")
        assert not [seen for seen in local.app.seen if seen[0] == "OPTIONS"]
        status, _, answered = local.get(x_answer="503")
        assert (status, answered["x-envoy-ratelimited"]) == (503, "1")
    finally:
        del local.node.routes_of[ORDERS]


# ------------------------------------------------------------------------------------------------------------ policies


def test_a_policy_judges_a_neighbour_as_it_judges_anybody(machine: Machine):
    web = identity("web").removeprefix("spiffe://")
    machine.change(policies=(policy("shop/no-web", Decision.DENY, Attribute.PRINCIPAL, PatternKind.EXACT, web),))
    status, _, headers = machine.get()
    assert (status, headers["x-masche-denied"]) == (403, "shop/no-web rules[0]")
    assert machine.get(caller="orders")[0] == 200
    machine.change(policies=(policy("shop/only-shop", Decision.ALLOW, Attribute.NAMESPACE, PatternKind.EXACT, "shop"),))
    assert machine.get()[0] == 200
    machine.change(policies=(policy("shop/only-x", Decision.ALLOW, Attribute.NAMESPACE, PatternKind.EXACT, "x"),))
    status, _, headers = machine.get()
    assert status == 403
    assert headers["x-masche-denied"].startswith("no ALLOW policy of shop/orders-1 matches")


def test_a_policy_on_addresses_sees_the_neighbours_own(local: Machine):
    address = local.web.place.address
    local.change(policies=(policy("shop/ip", Decision.DENY, Attribute.SOURCE_IP, PatternKind.EXACT, address),))
    assert local.get()[0] == 403
    assert local.get(caller="orders")[0] == 200
    network = f"{address}/8"
    local.change(policies=(policy("shop/ip", Decision.ALLOW, Attribute.REMOTE_IP, PatternKind.EXACT, network),))
    assert local.get()[0] == 200


def test_a_policy_judges_bytes_too(machine: Machine):
    web = identity("web").removeprefix("spiffe://")
    machine.change(policies=(policy("shop/no-web", Decision.DENY, Attribute.PRINCIPAL, PatternKind.EXACT, web),))
    with machine.web.call(DB) as connection:
        connection.sendall(b"select")
        assert ended(connection)
    with machine.callee.call(DB) as connection:
        connection.sendall(b"select")
        assert connection.recv(100) == b"SELECT"


def ended(connection: socket.socket) -> bool:
    try:
        return not connection.recv(100)
    except ConnectionResetError:
        return True


# ---------------------------------------------------------------------------------------------- what is not of the mesh


def test_a_port_that_a_service_does_not_have_is_nobodys(local: Machine):
    status, said, _ = request(local.web.connect(virtual(ORDERS)[0], 8099))
    assert (status, said["text"]) == (404, "no port of a Service that this workload may call has this address\n")


@pytest.fixture
def stranger(local: Machine):
    """A server on the machine, beside the mesh: its address in the namespaces' network."""
    gateway = in_namespace(local.web.place.namespace_path, _default_gateway)
    with closing(socket.create_server((gateway, free_port()))) as listening:
        listening.settimeout(10)
        yield listening


def _default_gateway() -> str:
    """The kernel's table of the calling thread's namespace."""
    table = Path("/proc/thread-self/net/route").read_text().splitlines()
    fields = next(line.split() for line in table if line.split()[1] == "00000000")
    return socket.inet_ntoa(bytes.fromhex(fields[2])[::-1])


def test_what_is_not_of_the_mesh_is_connected_to_as_it_was_meant(local: Machine, stranger: socket.socket):
    with local.web.connect(*stranger.getsockname()) as connection:
        accepted, _ = stranger.accept()
        with accepted:
            accepted.sendall(b"220 stranger\r\n")
            assert connection.recv(100) == b"220 stranger\r\n"
            connection.sendall(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
            assert accepted.recv(100) == b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n"


def test_where_only_the_mesh_may_be_called_a_connection_to_anybody_else_ends(local: Machine, stranger: socket.socket):
    local.node.is_registry_only = True
    local.node.put()
    wait_until(lambda: _closed(local.web, *stranger.getsockname()), "the way out to be closed")
    assert local.get()[0] == 200


def test_link_local_addresses_are_those_of_the_machine_and_not_reached(local: Machine):
    assert _closed(local.web, "169.254.169.254", 80)


def _closed(member: Member, host: str, number: int) -> bool:
    with member.connect(host, number) as connection:
        connection.settimeout(1)
        try:
            return ended(connection)
        except TimeoutError:
            return False


# ------------------------------------------------------------------------------------------- straight to a workload


@pytest.mark.parametrize("shown", [None, Authority.named("another root")], ids=["none", "another root's"])
def test_a_mesh_port_lets_nobody_in_without_a_certificate_that_it_trusts(
    local: Machine, shown: Authority | None, tmp_path: Path
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if shown:
        (tmp_path / "own.pem").write_bytes(b"".join(shown.issue(identity("web"))))
        context.load_cert_chain(tmp_path / "own.pem")
    assert not _answers_over(context, local.callee.seat.ports[0].mesh_port)


def test_a_mesh_port_lets_in_whose_certificate_it_trusts(local: Machine, tmp_path: Path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    (tmp_path / "own.pem").write_bytes(b"".join(ROOT.issue(identity("web"))))
    context.load_cert_chain(tmp_path / "own.pem")
    assert _answers_over(context, local.callee.seat.ports[0].mesh_port)


def _answers_over(context: ssl.SSLContext, number: int) -> bool:
    with socket.create_connection(("127.0.0.1", number), timeout=10) as plain:
        try:
            with context.wrap_socket(plain) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                return connection.recv(100).startswith(b"HTTP/1.1 200")
        except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
            return False


def test_a_node_may_take_detours_and_each_workload_shows_the_gateway_its_own_certificate(local: Machine):
    local.node.gateways = ("spiffe://mesh.local/ns/masche-system/sa/east-west",)
    try:
        local.node.put()
        assert local.get()[0] == 200
        dump = json.loads(local.node.envoy.admin("/config_dump?resource=dynamic_active_clusters"))["configs"]
        detour = next(each["cluster"] for each in dump if each["cluster"]["name"] == "detour")
        assert "on_demand_secret" in json.dumps(detour["transport_socket"])
    finally:
        local.node.gateways = ()


def test_under_strict_nobody_gets_in_in_the_clear_past_the_mesh_port(local: Machine):
    with local.web.connect(local.callee.place.address, local.app.server_port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert ended(connection)


def test_under_permissive_a_stranger_gets_in_without_an_identity_and_only_where_a_port_is_declared(local: Machine):
    local.change(mtls=MtlsMode.PERMISSIVE)
    there = (local.callee.place.address, local.app.server_port)
    claimed = {"x-forwarded-client-cert": f"URI={identity('web')}"}
    wait_until(lambda: request(local.web.connect(*there))[0] == 200, "the listener to be another")
    status, seen, _ = request(local.web.connect(*there), "/", claimed)
    assert status == 200
    assert "x-forwarded-client-cert" not in seen["headers"]
    undeclared = local.callee.within(lambda: socket.create_server(("0.0.0.0", 0)))
    with closing(undeclared):
        assert _closed(local.web, local.callee.place.address, undeclared.getsockname()[1])


# ------------------------------------------------------------------------------------------------------ come and go


def test_a_workload_that_comes_or_goes_disturbs_no_other(local: Machine):
    counters = ("listener_modified", "listener_in_place_updated", "total_filter_chains_draining", "lds.update_rejected")

    def counted() -> dict[str, int]:
        lines = (line.split(": ") for line in local.node.envoy.admin("/stats?filter=listener_manager").splitlines())
        return {name: int(value) for name, value in lines if name.removeprefix("listener_manager.") in counters}

    draining = "listener_manager.total_filter_chains_draining"
    wait_until(lambda: counted()[draining] == 0, "what the tests before have changed to be gone")
    before, blobs = counted(), {name: member.blobs for name, member in local.node.members.items()}
    with local.web.call(DB) as held, closing(http.client.HTTPConnection("x")) as kept:
        held.sendall(b"a")
        assert held.recv(10) == b"A"
        kept.sock = local.web.call(ORDERS)
        local.node.add("guest")
        local.node.put()
        assert local.get(caller="guest")[0] == 200
        local.node.remove("guest")
        assert {name: member.blobs for name, member in local.node.members.items()} == blobs
        assert counted() == before
        held.sendall(b"b")
        assert held.recv(10) == b"B"
        kept.request("GET", "/")
        assert kept.getresponse().status == 200


def test_a_sidecar_may_capture_as_well():
    with ExitStack() as stack:
        alone = stack.enter_context(node(Placement.SIDECAR))
        member = alone.add("web")
        app = member.within(lambda: stack.enter_context(http_echo("web-1")))
        alone.serve("web", ORDERS, app.server_port)
        alone.is_local = False
        alone.put()
        status, seen, _ = request(member.call(ORDERS))
        assert (status, seen["host"]) == (200, "orders.shop")
        assert seen["headers"]["x-forwarded-client-cert"].endswith(f";URI={identity('web')}")
        with member.connect("240.64.0.77", 80) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 404")
