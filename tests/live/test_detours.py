"""Three zones of real Envoys: an instance is called by a detour through a gateway, which nobody else can make use of.

The gateway carries bytes that it cannot read, to nothing but the instances of the mesh, and for workloads of the mesh
alone; when it dies, no call is lost.
"""

import json
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from live.client import Answer, http1, tcp
from live.mesh import Live, here, living
from masche.compiler.east_west import authority, gateways
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.view import Endpoints, EndpointView, Locality
from stories.loader import read_mesh

WORKLOAD = """---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{{label}}}}}
spec:
  address: 127.0.1.{host}
  serviceAccount: {name}
  zone: {zone}
  ports: [{{port: {port}{mesh_port}}}]
  {more}
"""
PLAINTEXT = "tls: DISABLE"
SERVICE = """---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{port: 80, targetPort: 8080}]}
"""
LEDGER = """---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec: {selector: {app: ledger}, ports: [{port: 81, targetPort: 8080, appProtocol: tcp}]}
"""


def workload(name: str, host: int, zone: str, *, label: str, namespace: str = "shop", port: int = 8080, more: str = ""):
    return WORKLOAD.format(
        name=name,
        host=host,
        zone=zone,
        label=label,
        namespace=namespace,
        port=port,
        mesh_port="" if more == PLAINTEXT else f", meshPort: {21000 + host}",
        more=more,
    )


GATEWAY = workload(
    "east-west", 13, "c", label="masche.dev/gateway: east-west", namespace="masche-system", port=15008,
    more="placement: gateway",
)  # fmt: skip
ZONES = (
    SERVICE
    + workload("web", 11, "a", label="app: web")
    + workload("orders", 12, "b", label="app: orders")
    + LEDGER
    + workload("ledger", 15, "b", label="app: ledger")
    + workload("legacy", 14, "b", label="app: legacy", more=PLAINTEXT)
    + GATEWAY
)
WEB, ORDERS, CARRIER = Name("shop", "web-1"), Name("shop", "orders-1"), Name("masche-system", "east-west-1")
PORT = PortRef("shop", "orders", 80)


def zones() -> Mesh:
    return read_mesh(here(ZONES), file="zones.yaml")


def spread(mesh: Mesh, *, direct: int, detour: int, service: PortRef = PORT) -> Endpoints:
    """The one instance of a service, as a share of calls each way."""
    name = Name(service.namespace, f"{service.service}-1")
    spec = mesh.workloads[name].spec
    straight = EndpointView(address=spec.address, port=spec.ports[0].mesh_port or 0, workload=str(name))
    around = replace(straight, via=gateways(mesh)["c"][0].via)
    ways = (
        Locality(zone="b", priority=0, endpoints=(straight,), weight=direct),
        Locality(zone="b", priority=0, endpoints=(around,), weight=detour, via="c"),
    )
    return Endpoints(service=service, localities=tuple(each for each in ways if each.weight))


@pytest.fixture(scope="module")
def living_zones() -> Iterator[Live]:
    with living() as live:
        yield live


@pytest.fixture
def live(living_zones: Live) -> Live:
    """Three zones in which the only way from web to orders is the detour."""
    mesh = zones()
    living_zones.load(mesh, {WEB})
    living_zones.instead = {PORT: spread(mesh, direct=0, detour=1)}
    living_zones.change(mesh)
    return living_zones


def call(live: Live, path: str = "/", method: str = "GET") -> Answer:
    return http1(live.standing[WEB].local(PORT), method, path, "orders")


def carrier(live: Live) -> tuple[str, int]:
    seat = live.standing[CARRIER].seat
    return seat.bind, seat.ports[0].mesh_port


def asked(live: Live, line: str, *, context: ssl.SSLContext | None) -> bytes:
    """The gateway's answer to one request line, over TLS when there is a context; empty when it hung up."""
    host = line.split()[1]
    try:
        plain = socket.create_connection(carrier(live), timeout=5)
        with plain, context.wrap_socket(plain) if context else plain as connection:
            connection.sendall(f"{line} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            return connection.recv(4096)
    except (ConnectionError, ssl.SSLError):
        return b""


def orders(live: Live) -> str:
    seat = live.standing[ORDERS].seat
    return authority(seat.bind, seat.ports[0].mesh_port)


def member(live: Live) -> ssl.SSLContext:
    return live.context("spiffe://mesh.local/ns/shop/sa/web")


def tunnelled(live: Live) -> list[dict[str, object]]:
    """The gateway's lines about tunnels that were open."""
    lines = [json.loads(line) for line in live.proxy(CARRIER).log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["method"] == "CONNECT" and line["code"] == 200]


def carried(live: Live) -> int:
    """How many connections the gateway has made so far."""
    page = live.proxy(CARRIER).ask("/stats?filter=inbound/tunnels.upstream_cx_total")
    return int(page.rpartition(":")[2] or 0)


def open_tunnels(live: Live) -> int:
    """As ``agent.admin`` counts what a proxy still carries."""
    page = live.proxy(CARRIER).ask(r"/stats?filter=^cluster\.inbound.*upstream_rq_active$")
    return sum(int(line.rpartition(":")[2]) for line in page.splitlines() if ":" in line)


# -- what a detour is --------------------------------------------------------------------------------------------------


def test_an_instance_that_is_called_by_a_detour_sees_who_calls(live: Live):
    before = carried(live)
    answer = call(live)
    assert answer.status == 200
    assert answer.echo["peer"] == "spiffe://mesh.local/ns/shop/sa/web"
    assert carried(live) == before + 1


def test_connections_of_any_protocol_take_detours(live: Live):
    ledger = PortRef("shop", "ledger", 81)
    live.instead = {ledger: spread(live.mesh, direct=0, detour=1, service=ledger)}
    live.change(live.mesh)
    before = carried(live)
    answer = tcp(live.standing[WEB].local(ledger))
    assert answer.backend == "shop/ledger-1"
    assert carried(live) == before + 1


def test_an_open_tunnel_is_seen_by_whoever_waits_for_its_end(live: Live):
    """An agent that drains a gateway waits for what this counts."""
    plain = socket.create_connection(carrier(live), timeout=5)
    with plain, member(live).wrap_socket(plain) as connection:
        connection.sendall(f"CONNECT {orders(live)} HTTP/1.1\r\nhost: {orders(live)}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        _until(lambda: open_tunnels(live) > 0)


def test_the_gateway_sees_who_calls_which_instance_and_no_more(live: Live):
    before = len(tunnelled(live))
    assert call(live, "/secret-path").status == 200
    live.instead = {PORT: spread(live.mesh, direct=1, detour=0)}
    live.change(live.mesh)
    _until(lambda: len(tunnelled(live)) > before)
    last = tunnelled(live)[-1]
    assert (last["peer"], last["authority"]) == ("spiffe://mesh.local/ns/shop/sa/web", orders(live))
    assert "secret-path" not in live.proxy(CARRIER).log


def test_the_callers_statistics_name_the_gateway_beside_the_instance(live: Live):
    assert call(live).status == 200
    page = live.proxy(WEB).ask("/clusters")
    via = authority(*carrier(live))
    assert f"envoy://detour/{orders(live)}@{via}" in page


def test_a_tunnel_is_counted_for_its_caller(live: Live):
    assert asked(live, f"CONNECT {orders(live)}", context=member(live)).startswith(b"HTTP/1.1 200")
    counted = 'envoy_mesh_requests_total{.*source="spiffe://mesh.local/ns/shop/sa/web".*masche-system/east-west-1/15008'
    _until(lambda: re.search(counted, live.proxy(CARRIER).ask("/stats/prometheus")))


# -- who may not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stranger",
    [
        "spiffe://elsewhere.org/ns/shop/sa/web",
        "spiffe://mesh.local/machine/laptop",
        "spiffe://mesh.local/control-plane",
    ],
)
def test_who_is_no_workload_of_the_mesh_gets_no_tunnel(live: Live, stranger: str):
    assert asked(live, f"CONNECT {orders(live)}", context=live.context(stranger)) == b""


def test_who_shows_no_certificate_gets_no_tunnel(live: Live):
    anonymous = ssl.create_default_context()
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    assert asked(live, f"CONNECT {orders(live)}", context=anonymous) == b""
    assert not asked(live, f"CONNECT {orders(live)}", context=None).startswith(b"HTTP/1.1 2")


@pytest.mark.parametrize(
    "authority_",
    [
        "127.0.0.1:22", "169.254.169.254:80", "localhost:22", "0.0.0.0:22", "[::1]:22", "example.org:443",
        "{orders}0", "{orders_host}:8080", "{orders_host}:80", "{application}", "{gateway}", "{legacy}",
        "orders:80", "orders.shop:80",
    ],
)  # fmt: skip
def test_a_tunnel_leads_to_no_address_that_takes_no_mutual_tls(live: Live, authority_: str):
    seat = live.standing[ORDERS].seat
    legacy = live.mesh.workloads[Name("shop", "legacy-1")].spec
    wanted = authority_.format(
        orders=orders(live),
        orders_host=seat.bind,
        application=authority(seat.app_address, 8080),
        gateway=authority(*carrier(live)),
        legacy=authority(legacy.address, legacy.ports[0].port),
    )
    answer = asked(live, f"CONNECT {wanted}", context=member(live))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:60]


@pytest.mark.parametrize("line", ["GET http://{orders}/", "GET /", "POST http://{orders}/", "OPTIONS *"])
def test_the_gateway_answers_nothing_but_connect(live: Live, line: str):
    answer = asked(live, line.format(orders=orders(live)), context=member(live))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:60]


def test_a_gateway_that_is_no_gateway_of_the_mesh_carries_nothing(live: Live):
    """A detour by whoever has another identity ends in the handshake: here by the instance itself."""
    detour = spread(live.mesh, direct=0, detour=1)
    (locality,) = detour.localities
    wrong = tuple(replace(each, via=orders(live)) for each in locality.endpoints)
    live.instead = {PORT: replace(detour, localities=(replace(locality, endpoints=wrong),))}
    live.change(live.mesh)
    assert call(live).status == 503


def test_an_instance_that_goes_is_no_longer_led_to(live: Live):
    assert asked(live, f"CONNECT {orders(live)}", context=member(live)).startswith(b"HTTP/1.1 200")
    gone = {name: each for name, each in live.mesh.workloads.items() if name != ORDERS}
    live.standing.pop(ORDERS)
    where = authority(live.mesh.workloads[ORDERS].spec.address, 21012)
    live.change(replace(live.mesh, workloads=gone))
    assert asked(live, f"CONNECT {where}", context=member(live)).startswith(b"HTTP/1.1 404")


# -- when it breaks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direct", "detour"), [(1, 9), (5, 995)])
def test_when_the_gateway_dies_no_call_is_lost(live: Live, direct: int, detour: int):
    """Calls that may be repeated all succeed; they go the direct way instead."""
    live.instead = {PORT: spread(live.mesh, direct=direct, detour=detour)}
    live.change(live.mesh)
    found: Counter[int] = Counter()
    is_over = threading.Event()
    callers = [threading.Thread(target=_keep_calling, args=(live, found, is_over)) for _ in range(4)]
    for each in callers:
        each.start()
    try:
        _until(lambda: found[200] > 100)
        with live.without(CARRIER):
            before = found[200]
            _until(lambda: found[200] > before + 200)
    finally:
        is_over.set()
        for each in callers:
            each.join()
    assert set(found) == {200}, found


def test_when_the_gateway_leaves_in_order_not_even_calls_that_must_not_be_repeated_are_lost(live: Live):
    """The order of an agent: callers are told, open tunnels end, then the proxy does."""
    live.instead = {PORT: spread(live.mesh, direct=1, detour=9)}
    live.change(live.mesh)
    found: Counter[int] = Counter()
    is_over = threading.Event()
    callers = [threading.Thread(target=_keep_calling, args=(live, found, is_over, "POST")) for _ in range(4)]
    for each in callers:
        each.start()
    try:
        _until(lambda: found[200] > 100)
        assert open_tunnels(live) > 0
        live.instead = {PORT: spread(live.mesh, direct=1, detour=0)}
        live.change(live.mesh)
        _until(lambda: open_tunnels(live) == 0)
        with live.without(CARRIER):
            before = found[200]
            _until(lambda: found[200] > before + 200)
    finally:
        is_over.set()
        for each in callers:
            each.join()
    assert set(found) == {200}, found


def _keep_calling(live: Live, found: Counter[int], is_over: threading.Event, method: str = "GET") -> None:
    while not is_over.is_set():
        found[call(live, method=method).status] += 1


def _until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
