"""What the library is told, read back, means what the View meant: routes, clusters, policies, servers.

The table of routes is the one that proxies get, walked entry by entry; the View is carried out as it is. Invariant: of
every request both make the same, and over many draws as often.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from random import Random

import pytest
from generated import (
    BACKENDS,
    CLUSTERS,
    CORS,
    ENDPOINTS,
    FORWARDS,
    INBOUND,
    MATCHES,
    PORTS,
    REDIRECTS,
    TEXT,
    pairs,
    some,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.envoy.route_tables import proxy_table
from masche.compiler.proxyless import library
from masche.compiler.proxyless.library_clusters import cluster
from masche.compiler.proxyless.library_servers import listener
from masche.compiler.view import statuses
from masche.model.blob import Blob
from masche.model.refs import Kind, Name, Origin, PortRef, Ref
from masche.model.resources.workload import Workload, WorkloadStatus
from masche.model.told import CLIENT_LISTENER, Destination, Table, Told, ToldServer
from masche.model.vantage import Dialect, Placement, Seat, SeatPort, Vantage
from masche.model.view import (
    Cluster,
    Decision,
    Endpoints,
    Forward,
    HashOn,
    HeaderChange,
    Inbound,
    Mirror,
    Outbound,
    PathKind,
    PathRewrite,
    Protocol,
    Refuse,
    RequestMatch,
    Retry,
    RewriteKind,
    Route,
    Traffic,
    View,
)
from masche.traffic.authorize import authorize
from masche.traffic.forward import Answer, Sending, apply, decide
from masche.traffic.match import match
from masche.traffic.request import Connection, Request
from masche.traffic.virtual_hosts import HostIndex
from masche.wire.decode.decoders import decoders
from masche.wire.decode.traffic import EXTENSION, extension
from masche.wire.framing import message_of
from masche.wire.messages import encode
from masche.wire.types import CLUSTER
from stories.loader import names, story

ORDERS = PortRef("shop", "orders", 80)
RUN = settings(
    deadline=None, max_examples=40, suppress_health_check=[*HealthCheck], phases=[Phase.explicit, Phase.generate]
)


def decoded(blob: Blob) -> object:
    return decoders[blob.type_url](blob.name, message_of(blob))


def unique(change: HeaderChange) -> bool:
    """As a resource is validated: a header is named once in each list."""
    return all(len({name for name, _ in some}) == len(some) for some in (change.set, change.add))


CHANGES = st.builds(
    HeaderChange, set=pairs(), add=pairs(), remove=some(st.sampled_from(["x-a", "x-b", "host"]))
).filter(unique)
REWRITES = st.none() | st.builds(
    PathRewrite,
    kind=st.sampled_from((RewriteKind.FULL, RewriteKind.PREFIX)),
    value=st.sampled_from(("/", "/x", "/x/", "/x/y")),
)
MIRRORS = st.builds(Mirror, cluster=PORTS, numerator=st.sampled_from((0, 4)), denominator=st.just(4))
"""Never or always: how often is another test."""

CHOICES = BACKENDS.flatmap(
    lambda each: st.builds(
        lambda rewrite, redirect, mirrors, asked, told: replace(
            each, path_rewrite=rewrite, redirect=redirect, mirrors=mirrors, request_headers=asked, response_headers=told
        ),
        REWRITES,
        st.none() | st.none() | REDIRECTS.map(lambda found: replace(found, path=None)),
        some(MIRRORS, 1),
        CHANGES,
        CHANGES,
    )
)
ACTIONS = (
    st.builds(
        lambda forward, backends, rewrite, mirrors: replace(
            forward, backends=backends, path_rewrite=rewrite, mirrors=mirrors
        ),
        FORWARDS,
        some(CHOICES),
        REWRITES,
        some(MIRRORS, 1),
    )
    | st.builds(lambda found, path: replace(found, path=path), REDIRECTS, REWRITES)
    | st.builds(Refuse, status=st.sampled_from((400, 404, 500)), why=TEXT)
)
ROUTES = st.lists(
    st.builds(
        Route,
        name=st.integers(0, 10**6).map(lambda number: f"rule {number}"),
        match=MATCHES | st.just(RequestMatch()),
        action=ACTIONS,
        request_headers=CHANGES,
        response_headers=CHANGES,
        cors=st.none() | CORS,
    ),
    max_size=4,
    unique_by=lambda each: each.name,
).map(tuple)
DRAWS = [Random(number).getrandbits(53) for number in range(200)]
METHODS = st.sampled_from(("GET", "POST", "DELETE", "PATCH"))
KINDS = st.sampled_from(((), (("content-type", "application/grpc"),), (("upgrade", "websocket"),), (("x-a", "1"),)))


def table_of(routes: tuple[Route, ...]) -> Table:
    way = Outbound(service=ORDERS, protocol=Protocol.HTTP, hosts=("orders",), answers_bare=True, routes=routes)
    found = decoded(proxy_table((way,), is_registry_only=False))
    assert isinstance(found, Table)
    return found


def host_of(table: Table, authority: str = "orders") -> tuple[Route, ...]:
    found = HostIndex.of(table).find(authority)
    assert found is not None
    return found.host.routes


def fitting(wanted: RequestMatch, method: str, more: tuple[tuple[str, str], ...]) -> Request:
    """A request that a match takes, if expressions are simple enough; else one that it nearly takes."""
    path = "/ab" if wanted.path_kind is PathKind.REGEX else wanted.path or "/"
    query = "&".join(f"{each.name}={each.value}" for each in wanted.query)
    headers = tuple((each.name.lower(), each.value) for each in wanted.headers if each.name != "Host")
    return Request(
        method=wanted.method or method,
        target=f"{path}?{query}" if query else path,
        authority="orders",
        headers=(*headers, *more),
    )


def outcome(routes: tuple[Route, ...], request: Request, drawn: int) -> object:
    """All that can be seen of what is done with a request, written so that it can be compared."""
    route = match(routes, request, drawn=drawn)
    if route is None:
        return None
    made = decide(route, request, rng=Random(0), drawn=drawn)
    told = (("x-a", "1"), ("x-b", "2"), ("server", "s"))
    for change in made.response_changes:
        told = apply(change, told)
    if isinstance(made, Answer):
        return made.rule, made.status, made.location, made.why.removesuffix("\n"), tuple(sorted(told))
    return made.rule, sending(made), tuple(sorted(told)), route.cors


def sending(made: Sending) -> object:
    request = replace(made.request, headers=tuple(sorted(made.request.headers)))
    times = tuple(round(each, 6) for each in (made.timeout, made.per_try_timeout, made.idle_timeout, made.hedge_after))
    return made.cluster.path, request, made.mirrors, times, repeats(made.retry)


def repeats(retry: Retry | None) -> object:
    if retry is None:
        return None
    waits = round(retry.backoff, 6), round(retry.max_backoff, 6)
    return replace(retry, backoff=0.0, max_backoff=0.0, codes=tuple(dict.fromkeys(retry.codes))), waits


def is_by_chance(route: Route | None) -> bool:
    action = route.action if route else None
    return isinstance(action, Forward) and len([each for each in action.backends if each.weight]) > 1


@RUN
@given(ROUTES, METHODS, KINDS, st.integers(0, 2**53))
def test_a_request_goes_the_way_that_the_view_means(routes, method: str, more, drawn: int):
    told = host_of(table_of(routes))
    requests = [fitting(each.match, method, more) for each in routes] + [Request(method=method, authority="orders")]
    for request in requests:
        wanted = outcome(routes, request, drawn)
        if not is_by_chance(match(routes, request)):
            assert outcome(told, request, drawn) == wanted


@settings(RUN, max_examples=30)
@given(ROUTES.filter(lambda routes: any(is_by_chance(each) for each in routes)), METHODS)
def test_every_share_gets_as_many_requests_as_the_view_means(routes, method: str):
    told = host_of(table_of(routes))
    for route in routes:
        request = fitting(route.match, method, ())
        wanted = Counter(repr(outcome(routes, request, drawn)) for drawn in DRAWS)
        found = Counter(repr(outcome(told, request, drawn)) for drawn in DRAWS)
        for each in wanted.keys() | found.keys():
            assert abs(wanted[each] - found[each]) <= 0.15 * len(DRAWS), f"{wanted}\n{found}"


def test_a_connect_is_never_taken_for_a_request():
    told = host_of(table_of((Route(name="all", match=RequestMatch(), action=Refuse(status=404, why="no")),)))
    route = match(told, Request(method="CONNECT", target="", authority="orders:80"))
    assert route is not None
    assert isinstance(route.action, Refuse)
    assert route.action.status == 405


def test_what_is_not_of_the_mesh_goes_out_and_is_refused_under_registry_only():
    stranger = Request(authority="example.org")
    free = host_of(table_of(()), "example.org")
    made = decide(free[-1], stranger, rng=Random(0))
    assert isinstance(made, Sending)
    assert (made.cluster.path, made.timeout, made.idle_timeout) == ("passthrough", 0, 0)
    closed = decoded(proxy_table((), is_registry_only=True))
    assert isinstance(closed, Table)
    made = decide(host_of(closed, "example.org")[-1], stranger, rng=Random(0))
    assert isinstance(made, Answer)
    assert made.status == 502


@RUN
@given(CLUSTERS)
def test_a_cluster_is_read_back_as_it_was_with_its_whole_policy(source):
    found = decoded(cluster(source))
    assert isinstance(found, Destination)
    assert found.cluster == replace(source, origins=())
    assert (found.name, found.assignment, found.is_tls) == (source.service.path, source.service.path, True)
    assert found.east_west == ()


@RUN
@given(CLUSTERS, some(TEXT.filter(bool)))
def test_a_cluster_says_who_may_carry_a_call_there(source: Cluster, gateways: tuple[str, ...]):
    found = decoded(cluster(source, gateways))
    assert isinstance(found, Destination)
    assert found.east_west == gateways


VALUES = {
    float: st.floats(0, 1e6),
    int: st.integers(0, 2**31),
    bool: st.booleans(),
    str: TEXT,
    int | None: st.none() | st.integers(0, 2**31),
    HashOn | None: st.none() | st.sampled_from(HashOn),
    tuple[tuple[str, Origin], ...]: some(
        st.tuples(TEXT, st.builds(Origin, st.builds(Ref, st.sampled_from(Kind), TEXT, TEXT), TEXT))
    ),
}


def any_of(kind: type) -> st.SearchStrategy:
    """Every value that a field of this type may have."""
    if kind in VALUES:
        return VALUES[kind]
    if is_dataclass(kind):
        return st.builds(kind, **{each.name: any_of(each.type) for each in fields(kind)})
    return st.sampled_from(kind)


@RUN
@given(any_of(Traffic))
def test_every_value_of_a_policy_is_read_back(traffic: Traffic):
    source = Cluster(service=ORDERS, protocol=Protocol.HTTP, identities=("spiffe://a/ns/b/sa/c",), traffic=traffic)
    body = {"name": "c", "typed_extension_protocol_options": {EXTENSION: extension(source)}, "type": "EDS"}
    told = encode("envoy.config.cluster.v3.Cluster", {**body, "eds_cluster_config": {"eds_config": {"ads": {}}}})
    found = decoders[CLUSTER]("c", told)
    assert isinstance(found, Destination)
    assert found.cluster.traffic == traffic


@RUN
@given(ENDPOINTS)
def test_endpoints_are_read_back_as_they_were(source: Endpoints):
    found = decoded(encoded_endpoints.blob(source))
    assert isinstance(found, Endpoints)
    assert found.service.path == source.service.path
    ranks = {priority: rank for rank, priority in enumerate(sorted({each.priority for each in source.localities}))}
    for one, other in zip(found.localities, source.localities, strict=True):
        assert (one.zone, one.priority) == (other.zone, ranks[other.priority])
        assert one.endpoints == tuple(replace(each, workload="") for each in other.endpoints)


SEAT = Seat(
    workload=Name("shop", "orders-1"), bind="127.0.0.1", ports=(SeatPort(name="web", app_port=8080, mesh_port=0),)
)
CONNECTIONS = st.builds(
    Connection,
    peer=st.none() | st.sampled_from(("mesh.local/ns/shop/sa/web", "mesh.local/ns/a/sa/b", "other/x")),
    source_ip=st.sampled_from(("10.0.0.1", "192.0.2.7", "fd00::1", "::1", "")),
    destination_ip=st.sampled_from(("10.0.0.1", "127.0.0.1")),
    port=st.just(8080),
    sni=st.sampled_from(("", "orders")),
)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(("GET", "POST")),
    target=st.sampled_from(("/", "/a/b", "/a/x/b?c", "/a/", "/q/x/y")),
    authority=st.sampled_from(("orders", "Orders", "")),
    headers=some(st.tuples(st.sampled_from(("x-a", "x-b")), TEXT)),
    connection=CONNECTIONS,
)


def read_back(inbound: Inbound) -> ToldServer:
    found = decoded(listener(inbound, SEAT, SEAT.ports[0]))
    assert isinstance(found, ToldServer)
    return found


def values(inbound: Inbound) -> Iterator[str]:
    for policy in inbound.policies:
        for rule in policy.rules:
            for some_conditions in (*rule.sources, *rule.operations, rule.when):
                for condition in some_conditions:
                    yield from (pattern.value for pattern in (*condition.values, *condition.not_values))


@RUN
@given(INBOUND, st.lists(REQUESTS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_server_that_was_told_judges_as_the_view_means(inbound: Inbound, requests: list[Request], rng):
    named = tuple(
        replace(
            policy,
            name=f"shop/p{index}",
            rules=tuple(replace(rule, name=f"shop/p{index} rules[{at}]") for at, rule in enumerate(policy.rules)),
        )
        for index, policy in enumerate(inbound.policies)
        if policy.decision is not Decision.AUDIT
    )
    inbound = replace(inbound, policies=named, ports=())
    told = read_back(inbound)
    assert told.inbound.mtls is dict(inbound.port_mtls).get(8080, inbound.mtls)
    words = [*values(inbound), "x"]
    for request in requests:
        headers = (*request.headers, (rng.choice(("x-a", "host-like")), rng.choice(words)))
        asked = replace(request, headers=headers)
        wanted, found = authorize(named, asked), authorize(told.inbound.policies, asked)
        assert found.allowed == wanted.allowed
        if wanted.rule and not wanted.allowed:
            assert found.rule in {rule.name for policy in named for rule in policy.rules}


@RUN
@given(INBOUND)
def test_a_server_is_told_what_is_spoken_and_who_allows(inbound: Inbound):
    told = read_back(inbound)
    spoken = next((each for each in inbound.ports if each.target in {8080, "web"}), None)
    if spoken:
        (found,) = told.inbound.ports
        assert found == replace(spoken, target=8080, services=(), concurrency=found.concurrency)
        assert found.concurrency.enabled == spoken.concurrency.enabled
    allowing = [each.name for each in inbound.policies if each.decision is Decision.ALLOW and each.name]
    found_allowing = [each.name for each in told.inbound.policies if each.decision is Decision.ALLOW]
    assert set(allowing) <= set(found_allowing)


def test_the_client_is_told_of_one_table():
    where = Vantage(placement=Placement.LIBRARY, dialect=Dialect.LIBRARY, namespace="shop", service_account="web")
    blobs = library.blobs(View(vantage=where, trust_domain="mesh.local", identity="i"))
    told = [found for found in map(decoded, blobs) if isinstance(found, Told)]
    assert told == [Told(name=CLIENT_LISTENER, table_name="proxy")]


def tunnelled(table: Table, way: Outbound) -> list[tuple[PortRef | None, int]]:
    """Whom a connection to a TCP service reaches, by which part."""
    asked = Request(method="CONNECT", target="", authority=f"{way.hosts[0]}:{way.service.port}", scheme="tcp")
    route = match(host_of(table, asked.authority), asked)
    assert route is not None
    if isinstance(route.action, Refuse):
        return []
    assert isinstance(route.action, Forward)
    assert (route.action.timeout, route.action.retry) == (0, Retry(attempts=2))
    return [(each.cluster and PortRef.parse(each.cluster.path), each.weight) for each in route.action.backends]


@pytest.mark.parametrize("name", names())
def test_of_no_story_does_a_program_with_the_library_ignore_anything(name: str):
    mesh = story(name).mesh
    workloads = {
        ref: replace_status(workload) for ref, workload in mesh.workloads.items() if workload.spec.tls == "MUTUAL"
    }
    said = [each.code for status in statuses(replace(mesh, workloads=workloads)) for each in status.diagnostics]
    assert [code for code in said if code.startswith("ignored-by")] == []


def replace_status(workload: Workload) -> Workload:
    """The same as a program with the library."""
    return workload.model_copy(update={"status": WorkloadStatus(state=workload.state, dialect=Dialect.LIBRARY)})


def test_the_documentation_says_that_the_library_ignores_nothing():
    text = (Path(__file__).parents[3] / "docs" / "library.md").read_text()
    _, _, section = text.partition("## What the library does not carry out\n")
    said = section.partition("\n#")[0]
    assert said.split("\n")[0].startswith("Nothing.")


@pytest.mark.parametrize("name", names())
def test_every_story_is_read_back_as_it_was_told(name: str):
    """Each route of each Service in each View: the library's table takes its requests the same way."""
    for view in story(name).views().values():
        if view.gateway or view.vantage.is_east_west:
            continue
        told = {blob.name: decoded(blob) for blob in library.blobs(view) if blob.name != CLIENT_LISTENER}
        table = next(found for blob in library.blobs(view) if isinstance(found := decoded(blob), Table))
        for cluster_told in view.clusters:
            found = told[cluster_told.service.path]
            assert isinstance(found, Destination)
            assert found.cluster == replace(cluster_told, origins=(), is_repeated=False), (
                "what a route says it reads itself"
            )
        for way in view.outbound:
            if not way.protocol.is_http:
                assert tunnelled(table, way) == [(each.cluster, each.weight) for each in way.backends if each.weight]
            for route in way.routes if way.protocol.is_http else ():
                for method, more in (("GET", ()), ("POST", ()), ("POST", (("content-type", "application/grpc"),))):
                    request = replace(
                        fitting(route.match, method, more), authority=f"{way.hosts[0]}:{way.service.port}"
                    )
                    wanted = {repr(outcome(way.routes, request, draw)) for draw in DRAWS}
                    routes, draws = host_of(table, request.authority), DRAWS if len(wanted) > 1 else DRAWS[:20]
                    assert {repr(outcome(routes, request, draw)) for draw in draws} == wanted
