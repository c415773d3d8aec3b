"""A workload that may call more than it is given unasked: its first calls, and what is learned of them."""

import http.client
import json
import sys
import time

import pytest

from e2e.mesh import SERVERS, Instance, Mesh, service
from e2e.reaching import exchange, proxy, tunnel
from e2e.test_clients import CLIENTS
from e2e.waiting import until
from masche.compiler.envoy.on_demand import TIMEOUT

WEB = [sys.executable, str(SERVERS / "web.py")]
IDLE = [sys.executable, str(CLIENTS / "idle.py")]

LARGE = """
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {onDemandAbove: 1}
---
"""

ODD = """
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 9000, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: both, namespace: bank}
spec:
  selector: {app: both}
  ports: [{name: http, port: 80, targetPort: http}, {name: http-admin, port: 9001, targetPort: http}]
---
"""

RULED = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ruled, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: ruled}]
  rules:
  - matches: [{path: {value: /gone}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /here}}}]
  - backendRefs: [{name: web, port: 80}]
---
"""


def through_proxy(caller: Instance, url: str, *, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*proxy(caller), timeout=10)
    try:
        return exchange(connection, method, url, body=body)
    finally:
        connection.close()


def clusters(instance: Instance) -> set[str]:
    """The Services of which its Envoy has a cluster."""
    return {name.split("/")[2] for name in instance.admin.endpoints() if name.startswith("outbound/")}


@pytest.fixture(scope="module")
def large(mesh: Mesh) -> Mesh:
    """A mesh in which nobody is given everything."""
    mesh.apply(LARGE + "".join(map(service, ("web", "stock", "ruled", "empty"))) + ODD + RULED)
    servers = [mesh.run(name, WEB) for name in ("web", "stock")]
    mesh.await_ready(*servers)
    return mesh


def started(mesh: Mesh, name: str, *options: str) -> Instance:
    """A caller."""
    caller = mesh.run(name, IDLE, has_port=False, options=options)
    mesh.await_ready(caller)
    return caller


def urls(instance: Instance) -> set[str]:
    return {name for name in instance.environment if name.endswith("_URL")}


@pytest.fixture(scope="module")
def caller(large: Mesh) -> Instance:
    """One whose calls no test counts on."""
    return started(large, "caller")


@pytest.fixture(scope="module")
def speller(large: Mesh) -> Instance:
    """One that calls a service by many names, of which each may be the first."""
    return started(large, "speller")


def test_who_has_called_nothing_yet_is_given_nothing_but_the_explicit_proxy(large: Mesh):
    fresh = started(large, "fresh")
    assert "HTTP_PROXY" in fresh.environment
    assert (urls(fresh), clusters(fresh)) == (set(), set())
    assert large.is_in_sync(), "what waits to be asked for is not missing"


def test_a_first_call_gets_its_answer_and_a_request_with_a_body_too(large: Mesh):
    first = started(large, "first")
    status, body = through_proxy(first, "http://web.shop.svc/x")
    assert (status, json.loads(body)["name"]) == (200, "web-1")
    status, body = through_proxy(first, "http://stock/x", method="POST", body=b"x" * 100_000)
    assert (status, json.loads(body)["name"]) == (200, "stock-1")
    assert clusters(first) == {"web", "stock"}


@pytest.mark.parametrize(
    "host",
    [
        *("web", "WEB", "web.shop", "web.shop.svc", "Web.Shop.mesh", "web.shop.svc.cluster.local", "web:80"),
        *("web.shop.mesh:80", "web.shop.svc.", "odd", "odd:9000", "odd.shop.svc:9000"),
    ],
)
def test_every_name_of_a_service_means_it_at_the_first_call(speller: Instance, host: str):
    status, body = through_proxy(speller, f"http://{host}/x")
    assert (status, json.loads(body)["name"]) == (200, "web-1")


@pytest.mark.parametrize("host", ["both.bank", "both.bank:80", "both.bank.svc:9001"])
def test_a_name_of_another_namespace_is_its_cluster_and_no_other(speller: Instance, host: str):
    assert through_proxy(speller, f"http://{host}/x") == (503, b"no healthy upstream")


def test_a_service_with_a_rule_of_its_own_is_called_by_that_rule_the_first_time(large: Mesh):
    follower = started(large, "follower")
    assert through_proxy(follower, "http://ruled/gone")[0] == 302
    status, body = through_proxy(follower, "http://ruled/x")
    assert (status, json.loads(body)["name"]) == (200, "web-1")


def test_a_tunnel_to_what_was_never_called_is_opened(large: Mesh):
    with tunnel(started(large, "digger"), "web:80") as opened:
        opened.sendall(b"GET /x HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
        assert b" 200 " in opened.recv(65_536).partition(b"\r\n")[0]


def test_what_nobody_has_is_refused_at_once(caller: Instance):
    """Nobody waits for a cluster that does not come, which every call would; so the quickest of three is looked at."""
    for host in ("empty", "nowhere.shop.svc"):
        took: list[float] = []
        for _ in range(3):
            began = time.monotonic()
            assert through_proxy(caller, f"http://{host}/x")[0] == 503
            took.append(time.monotonic() - began)
        assert min(took) < TIMEOUT / 2, took


def test_why_explains_a_call_that_was_never_made(large: Mesh, caller: Instance):
    ended = large.masche("why", "shop/caller", "stock")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_next_of_its_like_has_a_url_of_what_was_called(large: Mesh):
    one = started(large, "twin")
    through_proxy(one, "http://web/x")
    kept = large.data / "habits.json"
    until(lambda: kept.exists() and b"shop/twin" in kept.read_bytes(), "the call is remembered", within=15)
    other = started(large, "twin")
    assert urls(other) == {"WEB_URL"}
    assert other.reaches("web")


def test_a_declared_dependency_has_its_url_from_the_start(large: Mesh):
    teller = started(large, "teller", "--depends-on", "stock")
    assert urls(teller) == {"STOCK_URL"}
    assert teller.reaches("stock")


def test_a_control_plane_that_forgot_everything_takes_no_cluster_away(large: Mesh, caller: Instance):
    assert through_proxy(caller, "http://stock/x")[0] == 200
    before = clusters(caller)
    large.kill_plane()
    assert through_proxy(caller, "http://stock/x")[0] == 200, "nobody is needed for what is known"
    (large.data / "habits.json").unlink(missing_ok=True)
    large.start_plane()
    until(large.is_in_sync, "all are in sync again")
    assert clusters(caller) >= before
    for name in ("stock", "web"):
        assert through_proxy(caller, f"http://{name}/x")[0] == 200
