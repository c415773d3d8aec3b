"""The functions that decide requests in memory and a real Envoy are given the same policies, routes and requests.

Invariant: they never differ. Callers speak mutual TLS straight to the Envoy: no other proxy tidies what they send.
"""

import ssl
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from live.client import Answer, http1, tcp
from live.mesh import APPLICATIONS, PROXIES, Live, free_port, living
from masche.compiler.conditions import operation, source, when
from masche.compiler.envoy import shared
from masche.compiler.envoy.listeners import listeners
from masche.compiler.outbound import by_precedence
from masche.model.refs import Name, PortRef
from masche.model.resources.security import AttributeCondition, Operation, Source
from masche.model.vantage import Dialect, LocalPort, Placement, Seat, SeatPort, Vantage
from masche.model.view import (
    Decision,
    Inbound,
    InboundPort,
    Outbound,
    PathKind,
    Policy,
    Protocol,
    Redirect,
    RequestMatch,
    Route,
    Rule,
    ValueKind,
    ValueMatch,
    View,
)
from masche.traffic.authorize import authorize
from masche.traffic.match import match
from masche.traffic.normalise import normalise
from masche.traffic.request import Connection, Request
from masche.traffic.verdict import Verdict

TRUST_DOMAIN = "mesh.local"
CALLEE = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/orders"
CALLERS = [f"spiffe://{TRUST_DOMAIN}/ns/{each}" for each in ("shop/sa/web", "shop/sa/job", "office/sa/web", "a/sa/b")]
PROXY, APPLICATION = PROXIES + "99", APPLICATIONS + "99"
RUN = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
_app_ports = count(6001)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living() as running:
        yield running


@pytest.fixture(scope="module")
def contexts(live: Live) -> dict[str, ssl.SSLContext]:
    return {caller: live.context(caller) for caller in CALLERS}


# -- what may be written ----------------------------------------------------------------------------------------------


def few(values: st.SearchStrategy[str] | list[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    one = st.sampled_from(values) if isinstance(values, list) else values
    return st.lists(one, max_size=most, unique=True).map(tuple)


PATHS = [
    "/a",
    "/a*",
    "*/b",
    "*",
    "/",
    "/a/b",
    "/a/{*}",
    "/{*}/b",
    "/a/{**}",
    "/{**}",
    "/a/{*}/{**}/c",
    "/A",
    "/a.b",
    "/a b",
]
HOSTS = ["orders", "orders.shop", "orders*", "*.shop", "ORDERS", "*", "orders:80"]
METHODS = ["GET", "POST", "P*", "*", "*T", "get"]
VALUES = ["one", "two", "o*", "*o", "*", "one,two"]
PRINCIPALS = [
    "mesh.local/ns/shop/sa/web",
    "mesh.local/ns/shop/*",
    "*/sa/web",
    "*",
    "cluster.local/ns/a/sa/b",
    "spiffe://x",
]
NAMESPACES = ["shop", "off*", "*ice", "*", "s", "sho.", "SHOP"]
ACCOUNTS = ["shop/web", "office/web", "web", "a/b"]
BLOCKS = ["127.0.0.0/8", "127.0.0.1", "10.0.0.0/8", "::1/128", "0.0.0.0/0"]
KEYS = [
    "source.ip",
    "source.namespace",
    "source.principal",
    "destination.ip",
    "request.headers[x-a]",
    "request.headers[X-B]",
]
BY_KEY = {
    "source.ip": BLOCKS,
    "destination.ip": [*BLOCKS, PROXY],
    "source.namespace": NAMESPACES,
    "source.principal": PRINCIPALS,
    "request.headers[x-a]": VALUES,
    "request.headers[X-B]": VALUES,
}

SOURCES = st.builds(
    Source,
    principals=few(PRINCIPALS),
    not_principals=few(PRINCIPALS, 1),
    namespaces=few(NAMESPACES),
    not_namespaces=few(NAMESPACES, 1),
    service_accounts=few(ACCOUNTS, 1),
    ip_blocks=few(BLOCKS, 1),
    not_ip_blocks=few(BLOCKS, 1),
)
OPERATIONS = st.builds(
    Operation,
    hosts=few(HOSTS),
    not_hosts=few(HOSTS, 1),
    methods=few(METHODS),
    not_methods=few(METHODS, 1),
    paths=few(PATHS),
    not_paths=few(PATHS, 1),
)


@st.composite
def conditions(draw: st.DrawFn) -> AttributeCondition:
    key = draw(st.sampled_from([*KEYS, *KEYS[-2:]]))
    values = st.lists(st.sampled_from(BY_KEY[key]), min_size=1, max_size=2, unique=True).map(tuple)
    if draw(st.booleans()):
        return AttributeCondition(key=key, values=draw(values))
    return AttributeCondition(key=key, not_values=draw(values))


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, ...]:
    return tuple(
        Policy(
            name=f"shop/p{index}",
            decision=draw(st.sampled_from([Decision.ALLOW, Decision.DENY])),
            rules=tuple(_rule(draw, f"shop/p{index} rules[{number}]") for number in range(draw(st.integers(0, 2)))),
        )
        for index in range(draw(st.integers(1, 2)))
    )


def _rule(draw: st.DrawFn, name: str) -> Rule:
    """Mostly of one kind, so that requests often meet it."""
    kind = draw(st.sampled_from(["from", "to", "when", "when", "all"]))
    sources = draw(st.lists(SOURCES, min_size=1, max_size=2)) if kind in {"from", "all"} else []
    operations = draw(st.lists(OPERATIONS, min_size=1, max_size=2)) if kind in {"to", "all"} else []
    conditions_ = draw(st.lists(conditions(), min_size=1, max_size=2)) if kind in {"when", "all"} else []
    return Rule(
        name=name,
        sources=tuple(each for each in (source(one, "shop", TRUST_DOMAIN) for one in sources) if each),
        operations=tuple(each for each in map(operation, operations) if each),
        when=tuple(when(each, "shop", TRUST_DOMAIN) for each in conditions_),
    )


# -- what may be asked ------------------------------------------------------------------------------------------------

PLAIN = ["a", "b", "A", "c", "a.b"]
SPELLED = ["", ".", "..", "%61", "%2e", "%2E%2e", "a;b", "..;x", "%20", "a%", "%25", "%62", "b", "%2f", "%5c", "\\"]
SEGMENTS = st.sampled_from(PLAIN) | st.sampled_from(PLAIN) | st.sampled_from(SPELLED)
TARGETS = st.builds(
    lambda parts, query: "/" + "/".join(parts) + query,
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from(["", "", "", "?", "?x=one", "?x=one", "?q=1", "?q=/a", "?x=one&x=two", "?x=%6fne", "?x", "?q=1#f"]),
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["x-a", "x-a", "X-A", "x-b"]), st.sampled_from(["one", "one", "two", "", "o", "one,two"])
    ),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    return Request(
        method=draw(st.sampled_from(["GET", "GET", "POST", "PUT", "DELETE"])),
        target=draw(TARGETS),
        authority=draw(st.sampled_from(["orders", "ORDERS", "orders.shop", "orders:80", "other"])),
        headers=tuple(draw(HEADERS)),
        connection=Connection(peer=draw(st.sampled_from(CALLERS))),
    )


# -- both answers -----------------------------------------------------------------------------------------------------


def told(**more: object) -> View:
    vantage = Vantage(placement=Placement.SIDECAR, dialect=Dialect.ENVOY, namespace="shop", service_account="orders")
    return View(vantage=vantage, trust_domain=TRUST_DOMAIN, identity=CALLEE, **more)


def guard(live: Live, held: tuple[Policy, ...], protocol: Protocol) -> tuple[int, int]:
    """Let the Envoy guard an application port with these policies, and return it with the port to call."""
    app_port, mesh_port = 6000 if protocol is Protocol.HTTP else next(_app_ports), free_port()
    live.open(APPLICATION, app_port)
    inbound = Inbound(policies=held, ports=(InboundPort(target=app_port, protocol=protocol),))
    port = SeatPort(name="", app_port=app_port, mesh_port=mesh_port)
    seat = Seat(workload=Name("shop", "orders-1"), bind=PROXY, ports=(port,), app_address=APPLICATION)
    live.hold(CALLEE, listeners(told(inbound=inbound), seat))
    return app_port, mesh_port


def seen(request: Request, app_port: int) -> Request:
    """The request as the callee's proxy sees it, but for its path."""
    peer = (request.connection.peer or "").removeprefix("spiffe://")
    connection = Connection(peer=peer, source_ip="127.0.0.1", destination_ip=PROXY, port=app_port)
    headers = tuple((name.lower(), value) for name, value in request.headers)
    return Request(
        method=request.method,
        target=request.target,
        authority=request.authority,
        headers=headers,
        connection=connection,
    )


def verdict(held: tuple[Policy, ...], request: Request) -> int:
    """The status that the deciders foretell."""
    target = normalise(request.target)
    if isinstance(target, Verdict):
        return target.status
    return authorize(held, request.to(target)).status or 200


@RUN
@given(held=policies(), asked=st.lists(requests(), min_size=8, max_size=12))
def test_authorize_and_envoy_agree_on_requests(
    live: Live, contexts: dict[str, ssl.SSLContext], held: tuple[Policy, ...], asked: list[Request]
):
    app_port, mesh_port = guard(live, held, Protocol.HTTP)
    for request in asked:
        context = contexts[request.connection.peer or ""]
        answer = _send((PROXY, mesh_port), request, context)
        assert answer.status == verdict(held, seen(request, app_port)), (request, answer)


@settings(RUN, max_examples=20)
@given(held=policies())
def test_authorize_and_envoy_agree_on_connections(
    live: Live, contexts: dict[str, ssl.SSLContext], held: tuple[Policy, ...]
):
    app_port, mesh_port = guard(live, held, Protocol.TCP)
    for caller in CALLERS:
        call = seen(Request(connection=Connection(peer=caller)), app_port).connection
        answer = tcp((PROXY, mesh_port), context=contexts[caller])
        assert bool(answer.echo) is authorize(held, call).allowed, (caller, answer)


# -- routes -----------------------------------------------------------------------------------------------------------

ROUTE_PATHS = ["/", "/a", "/b", "/a/", "/a/b", "/A", "/a/b/c", "/a.b"]
EXPRESSIONS = ["/a.*", "/[ab]", "/a/(b|c)", ".*b", "/", "/a/?"]
VALUE_MATCHES = [
    (ValueKind.EXACT, "one"),
    (ValueKind.EXACT, "one,two"),
    (ValueKind.REGEX, "o.*"),
    (ValueKind.EXACT, ""),
]


@st.composite
def matches(draw: st.DrawFn) -> RequestMatch:
    kind = draw(st.sampled_from([PathKind.EXACT, PathKind.PREFIX, PathKind.REGEX]))
    return RequestMatch(
        path_kind=kind,
        path=draw(st.sampled_from(EXPRESSIONS if kind is PathKind.REGEX else ROUTE_PATHS)),
        method=draw(st.sampled_from(["", "", "", "GET", "POST"])),
        headers=draw(_values(["x-a", "x-b", "host"])),
        query=draw(_values(["x", "q"])),
    )


def _values(names: list[str]) -> st.SearchStrategy[tuple[ValueMatch, ...]]:
    one = st.tuples(st.sampled_from(names), st.sampled_from(VALUE_MATCHES))
    several = st.just([]) | st.just([]) | st.lists(one, max_size=2, unique_by=lambda each: each[0])
    return several.map(
        lambda found: tuple(ValueMatch(name=name, kind=kind, value=value) for name, (kind, value) in found)
    )


def _send(to: tuple[str, int], request: Request, context: ssl.SSLContext | None = None) -> Answer:
    return http1(to, request.method, request.target, request.authority, request.headers, context=context)


@settings(RUN, max_examples=80)
@given(wanted=st.lists(matches(), min_size=1, max_size=8), asked=st.lists(requests(), min_size=8, max_size=12))
def test_match_and_envoy_choose_the_same_route(live: Live, wanted: list[RequestMatch], asked: list[Request]):
    routes = tuple(
        by_precedence(
            Route(name=f"r{index}", match=each, action=Redirect(host=f"r{index}.example"))
            for index, each in enumerate(wanted)
        )
    )
    service = PortRef("shop", "orders", 80)
    way = Outbound(service=service, protocol=Protocol.HTTP, hosts=("orders",), answers_bare=True, routes=routes)
    port = free_port()
    view = told(outbound=(way,))
    seat = Seat(workload=Name("shop", "orders-1"), bind=PROXY, local_ports=(LocalPort(service=service, port=port),))
    live.hold(CALLEE, (*shared.blobs(view), *listeners(view, seat)))
    for request in asked:
        answer = _send(("127.0.0.1", port), request)
        assert _chosen(answer) == _foretold(routes, seen(request, 0)), (request, answer)


def _chosen(answer: Answer) -> str:
    where = answer.header("location") or ""
    return where.partition("//")[2].partition(".")[0] if answer.status == 302 else str(answer.status)


def _foretold(routes: tuple[Route, ...], request: Request) -> str:
    target = normalise(request.target)
    if isinstance(target, Verdict):
        return str(target.status)
    found = match(routes, request.to(target))
    return found.name if found else "404"
