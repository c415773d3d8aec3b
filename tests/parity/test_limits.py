"""Limits of requests in a time by sidecars, by the library and by the one Envoy of a machine: the same are refused.

What is right is said by ``traffic.limit``, which property tests hold. Buckets are filled so slowly here that none gets
a token while a test runs.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic, sleep

import pytest

from live.client import Answer, http1
from live.mesh import PROXIES, Live, here
from live.watched import Watched
from masche.model.refs import Name, PortRef
from masche.testing.check_placement import Asked, Seen
from masche.traffic.limit import Limiter
from masche.traffic.normalise import normalise
from masche.traffic.request import Connection, Request
from masche.wire.limits import DENIED
from parity.nodes import LocalSidecars, Nodes, machine
from parity.placements import Libraries, Placed, Sidecars
from parity.serving import SERVERS, serving
from parity.shop import gateway, service, workload
from stories.loader import read_mesh

WEB, CRON, EDGE = (Name("shop", name) for name in ("web-1", "cron-1", "edge-1"))
MESH = (
    workload("web", "127.0.1.1")
    + workload("cron", "127.0.1.2")
    + workload("edge", "127.0.1.4")
    + service("orders")
    + workload("orders", "127.0.1.3")
    + gateway("orders")
    + """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{to: [{operation: {paths: [/all/secret]}}]}]
---
apiVersion: masche.dev/v1
kind: RateLimitPolicy
metadata: {name: outside, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public}]
  local: [{requests: 2, per: 24h}]
---
apiVersion: masche.dev/v1
kind: RateLimitPolicy
metadata: {name: orders, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  local:
  - {requests: 3, per: 24h, matches: [{path: {value: /all}}]}
  - {requests: 2, per: 24h, matches: [{path: {value: /each/}}], key: {type: Client}}
  - {requests: 1, per: 24h, matches: [{path: {value: /tenant}}], key: {type: Header, name: X-Tenant}}
  - requests: 2
    per: 24h
    matches:
    - {path: {type: Exact, value: /either}, method: POST}
    - {path: {value: /either}, headers: [{name: X-Mode, value: heavy}]}
  - {requests: 4, per: 24h, burst: 1, matches: [{path: {value: /all/burst}}]}
  - {requests: 4, per: 2s, burst: 3, matches: [{path: {value: /filled}}]}
"""
)
GRPC = (("content-type", "application/grpc"), ("te", "trailers"))
A_DAY = 86_400


def ask(target: str, *headers: tuple[str, str], caller: Name = WEB, method: str = "GET") -> Asked:
    return Asked(caller=str(caller), authority="orders", target=target, headers=headers, method=method)


EVERY = (
    # What policy refuses takes no token; clients share this bucket.
    *(ask("/all/secret"),) * 4,
    *(
        ask("/all"),
        ask("/all/x?y=1", caller=CRON),
        ask("/allx"),
        ask("/all?"),
        ask("/x/../all/b"),
        ask("/all"),
        ask("/al"),
    ),
    # Each client has its own here.
    *(ask("/each"), ask("/each/a"), ask("/each"), ask("/each", caller=CRON), ask("/each/", caller=CRON)),
    *(ask("/each", caller=CRON), ask("/each?each=1"), ask("/eachother")),
    # Each value of a header; those without it share one.
    *(ask("/tenant", ("x-tenant", "a")), ask("/tenant", ("x-tenant", "b")), ask("/tenant", ("x-tenant", "a"))),
    *(ask("/tenant"), ask("/tenant", caller=CRON), ask("/tenant", ("x-tenant", "a"), ("x-tenant", "b"))),
    *(ask("/tenant", ("x-tenant", "a,b")), ask("/tenant", ("x-tenant", "b"))),
    # One request is counted once, though two matches would take it.
    *(ask("/either"), ask("/either", ("x-mode", "heavy"), method="POST"), ask("/either/b", method="POST")),
    *(ask("/either?b", method="POST"), ask("/either/b", ("x-mode", "heavy")), ask("/either", method="POST")),
    ask("/either", ("x-mode", "light"), ("x-mode", "heavy")),
    # gRPC has words of its own.
    ask("/all", *GRPC, method="POST"),
)


@pytest.fixture
def world(live: Live) -> Live:
    live.load(read_mesh(here(MESH), file="mesh.yaml"), {WEB, CRON, EDGE}, {EDGE: Name("shop", "public")})
    return live


def wanted(live: Live) -> list[tuple[str, int]]:
    """Which rule refuses each request, "" for none, and with which status."""
    limiter = Limiter(live.standing[Name("shop", "orders-1")].view.inbound.limits, now=0.0)
    return [_wanted(limiter, each, live.standing[Name(*each.caller.split("/"))].view.identity) for each in EVERY]


def _wanted(limiter: Limiter, asked: Asked, identity: str) -> tuple[str, int]:
    if asked.target == "/all/secret":
        return "shop/no-secrets rules[0]", 403
    target = normalise(asked.target)
    assert isinstance(target, str)
    caller = Connection(peer=identity.removeprefix("spiffe://"))
    request = Request(method=asked.method, target=target, authority="orders", headers=asked.headers, connection=caller)
    exceeded = limiter.take(request, now=0.0)
    return (exceeded.limit.name, 200 if ("te", "trailers") in asked.headers else 429) if exceeded else ("", 200)


def check(live: Live, placed: Placed) -> None:
    got = [placed.ask(each) for each in EVERY]
    assert [(_header(each, DENIED), each.status) for each in got] == wanted(live)
    refused = [each for each in got if each.status == 429]
    assert len(refused) > 8
    assert all(A_DAY / 4 - 60 < int(_header(each, "retry-after")) <= A_DAY for each in refused)
    last = got[-1]
    assert (_header(last, "grpc-status"), last.by) == ("8", None)
    assert not any(_header(each, "retry-after") for each in got if each.by)


def _header(seen: Seen, name: str) -> str:
    return next((value for key, value in seen.headers or () if key == name), "")


def test_sidecars_refuse_what_is_beyond_a_limit_and_name_it(world: Live):
    with Sidecars(world) as sidecars:
        check(world, sidecars)


def test_the_library_refuses_what_sidecars_refuse(world: Live):
    with serving(world), Libraries(world, moved=(PROXIES, SERVERS)) as libraries:
        check(world, libraries)


@pytest.mark.root
@pytest.mark.parametrize("is_local", [True, False])
def test_a_node_refuses_what_sidecars_refuse(world: Live, is_local: bool):
    with machine(world) as found, Nodes(found, is_local=is_local) as nodes:
        check(world, nodes)


def test_ways_to_an_instance_are_counted_together(world: Live):
    with Sidecars(world) as proxied, LocalSidecars(world) as local:
        statuses = [each.ask(ask("/all")).status for each in (proxied, local) * 3]
    assert statuses == [200, 200, 200, 429, 429, 429]


@pytest.mark.parametrize("is_library", [False, True])
def test_a_bucket_is_filled_steadily_and_no_token_is_early(world: Live, is_library: bool):
    """Two a second: the first that passes again does so half a second after the last that found a token."""
    with ExitStack() as stack:
        moved = (PROXIES, SERVERS) if is_library else ("", "")
        if is_library:
            stack.enter_context(serving(world))
        placed = stack.enter_context(Libraries(world, moved=moved))
        began = monotonic()
        passed: list[float] = []
        while len(passed) < 6:
            if placed.ask(ask("/filled")).status == 200:
                passed.append(monotonic() - began)
            assert monotonic() - began < 20
            sleep(0.01)
    early = [at for number, at in enumerate(passed[3:], 1) if at < number / 2 - 0.001]
    assert not early, passed


def test_a_gateway_counts_what_is_out_there_and_names_no_rule(world: Live):
    to = world.standing[EDGE].gateway(80)
    assert to
    answers = [http1(to, "GET", "/free", "a.example") for _ in range(4)]
    assert [each.status for each in answers] == [200, 200, 429, 429]
    assert _retry_after(answers)
    assert not any(each.header(DENIED) for each in answers)


def _retry_after(answers: Sequence[Answer]) -> bool:
    return A_DAY / 2 - 60 < int(answers[-1].header("retry-after") or 0) <= A_DAY / 2


def test_what_a_limit_refused_is_counted_by_client_and_rule(world: Live):
    with Sidecars(world) as sidecars:
        for _ in range(7):
            sidecars.ask(ask("/all"))
    page = world.proxy(Name("shop", "orders-1")).ask("/stats/prometheus")
    denied = [line for line in page.splitlines() if line.startswith("envoy_mesh_denied_total{")]
    assert [line.rpartition(" ")[2] for line in denied] == ["4"]
    assert 'rule="shop/orders local[0]"' in denied[0]
    assert 'source="spiffe://mesh.local/ns/shop/sa/web"' in denied[0]


def test_a_refusal_is_taken_for_no_latency(world: Live):
    """An instance that turns callers away at once would seem the fastest, and be given more of them."""
    watched = Watched(world.proxy(WEB))
    with Sidecars(world) as sidecars:
        statuses = [sidecars.ask(ask(target)).status for target in (*["/all"] * 7, "/free")]
    assert statuses == [200] * 3 + [429] * 4 + [200]
    seen = watched.until_seen(PortRef("shop", "orders", 80), 8, timed=4)
    assert (seen.requests, seen.errors, seen.latency.count) == (8, 0, 4)


def test_the_first_limit_comes_to_connections_that_are_open_already(world: Live):
    before = read_mesh(here(MESH).rpartition("---")[0], file="mesh.yaml")
    world.load(before, {WEB, CRON})
    with Sidecars(world) as sidecars:
        assert [sidecars.ask(ask("/all")).status for _ in range(5)] == [200] * 5
        world.change(read_mesh(here(MESH), file="mesh.yaml"))
        assert 429 in [sidecars.ask(ask("/all")).status for _ in range(8)]
