"""What is looked up of a route is what would be worked out of it, whatever the table and the request."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from library.core.scripted import ORDERS, orders, strangers
from masche.library.core.plain_routes import PlainRoutes
from masche.library.core.ports import Known
from masche.library.core.router import Send, Sent, plain, route, tidied
from masche.model.refs import PortRef
from masche.model.view import (
    Backend,
    Cors,
    Forward,
    HeaderChange,
    Mirror,
    PathKind,
    PathRewrite,
    RequestMatch,
    Retry,
    RewriteKind,
    Route,
    ValueKind,
    ValueMatch,
    VirtualHost,
)
from masche.traffic.request import Request

PATHS = st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab", "/A", "/a?x=1", "/a/b/c?x=1&y=2"])
TRACE = (("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"), ("x-request-id", "the-id"))

MATCHES = st.builds(
    RequestMatch,
    path_kind=st.sampled_from([PathKind.EXACT, PathKind.PREFIX, PathKind.STARTS, PathKind.REGEX, PathKind.CONNECT]),
    path=st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab"]),
    method=st.sampled_from(["", "GET", "POST"]),
    headers=st.sampled_from(
        [
            (),
            (ValueMatch(name="x-a", kind=ValueKind.EXACT, value="1"),),
            (ValueMatch(name="x-forwarded-proto", kind=ValueKind.EXACT, value="http"),),
            (ValueMatch(name=":method", kind=ValueKind.REGEX, value="GET|PUT"),),
            (ValueMatch(name=":method", kind=ValueKind.EXACT, value="GET", is_inverted=True),),
            (ValueMatch(name="upgrade", kind=ValueKind.PRESENT, value=""),),
            (ValueMatch(name="upgrade", kind=ValueKind.PRESENT, value="", is_inverted=True),),
            (ValueMatch(name="upgrade", kind=ValueKind.EXACT, value="", is_missing_empty=True),),
            (ValueMatch(name="host", kind=ValueKind.EXACT, value="orders"),),
        ]
    ),
    is_grpc=st.sampled_from([False, False, True]),
    path_ignores_case=st.booleans(),
    share=st.sampled_from([None, None, None, (1, 2)]),
)
CHANGES = st.sampled_from(
    [
        HeaderChange(),
        HeaderChange(remove=("x-envoy-internal", "x-masche-unreached")),
        HeaderChange(remove=("x-a",)),
        HeaderChange(remove=("x-request-id",)),
        HeaderChange(set=(("x-set", "1"),)),
    ]
)
BACKENDS = st.sampled_from(
    [
        (Backend(cluster=ORDERS),),
        (Backend(cluster=ORDERS), Backend(cluster=PortRef("shop", "other", 80), weight=0)),
        (Backend(cluster=ORDERS, weight=2), Backend(cluster=None)),
        (Backend(cluster=None),),
        (Backend(cluster=PortRef("shop", "gone", 80)),),
        (Backend(cluster=ORDERS, host_rewrite="other"),),
    ]
)
ACTIONS = st.builds(
    Forward,
    backends=BACKENDS,
    path_rewrite=st.sampled_from([None, None, PathRewrite(kind=RewriteKind.PREFIX, value="/z")]),
    mirrors=st.sampled_from([(), (), (Mirror(cluster=ORDERS, numerator=1, denominator=2),)]),
    timeout=st.sampled_from([0.0, 3.0]),
    retry=st.sampled_from([None, Retry(any_method=True), Retry(attempts=0, any_method=True), Retry(codes=(503,))]),
)
ROUTES = st.builds(
    Route,
    name=st.sampled_from(["one", "two"]),
    match=MATCHES,
    action=ACTIONS,
    request_headers=CHANGES,
    response_headers=CHANGES,
    cors=st.sampled_from([None, None, Cors(allow_origins=("*",))]),
)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "CONNECT"]),
    target=PATHS,
    authority=st.just("orders"),
    headers=st.sampled_from(
        [(), (("x-a", "1"),), (("x-a", "2"), ("accept", "*/*")), (("content-type", "application/grpc"),)]
    ),
)


def known(*routes: Route) -> Known:
    return replace(orders(), host=VirtualHost(hosts=("orders",), routes=routes))


def find(table: PlainRoutes, request: Request) -> Send | None:
    names = plain(request)
    assert names is not None
    return table.find(request, names)


@given(st.lists(ROUTES, max_size=4), REQUESTS, st.integers())
def test_what_is_found_is_what_the_router_decides(routes: list[Route], request: Request, seed: int) -> None:
    table = known(*routes)
    names = plain(request)
    assert names is not None
    found = PlainRoutes(table).find(request, names)
    tidy = tidied(request, trace=TRACE)
    assert isinstance(tidy, Request)
    assert tidy.headers == request.headers + names.added(TRACE)
    if found is not None:
        decided = route(table, tidy, rng=Random(seed))
        assert decided == Sent(found, tidy)


def test_a_plain_route_is_found() -> None:
    to = Forward(backends=(Backend(cluster=ORDERS),), timeout=3.0, retry=Retry(any_method=True))
    rules = Route(name="rule", match=RequestMatch(path="/a"), action=to)
    found = find(PlainRoutes(known(rules)), Request(target="/a/b?c=d", authority="orders"))
    assert found is not None
    assert (found.rule, found.rules.timeout, found.destination.name) == ("rule", 3.0, ORDERS.path)


def test_the_table_that_proxies_are_given_is_looked_up_whatever_the_method() -> None:
    """A route for tunnels, one for other protocols, one for what may be made twice, one for gRPC, and one for the rest;
    all take off what only proxies say.
    """
    to = Forward(backends=(Backend(cluster=ORDERS),), retry=Retry(any_method=True))
    twice = ValueMatch(name=":method", kind=ValueKind.REGEX, value="DELETE|GET|HEAD")
    matches = {
        "tunnels": RequestMatch(path_kind=PathKind.CONNECT, path=""),
        "upgrades": RequestMatch(
            path_kind=PathKind.STARTS, headers=(ValueMatch(name="upgrade", kind=ValueKind.PRESENT, value=""),)
        ),
        "twice": RequestMatch(path_kind=PathKind.STARTS, headers=(twice,)),
        "grpc": RequestMatch(path_kind=PathKind.STARTS, is_grpc=True),
        "rest": RequestMatch(path_kind=PathKind.STARTS),
    }
    without = HeaderChange(remove=("x-envoy-internal",))
    table = PlainRoutes(
        known(
            *(Route(name=name, match=each, action=to, request_headers=without) for name, each in matches.items()),
        )
    )
    grpc = (("content-type", "application/grpc"),)
    found = [
        find(table, Request(method=method, target="/a", authority="orders", headers=headers))
        for method, headers in (("GET", ()), ("POST", ()), ("POST", grpc), ("HEAD", ()))
    ]
    assert [each and each.rule for each in found] == ["twice", "rest", "grpc", "twice"]


def test_strangers_are_for_the_router() -> None:
    assert find(PlainRoutes(strangers()), Request(authority="elsewhere")) is None


def test_odd_requests_are_for_the_router() -> None:
    odd = (
        Request(authority="orders", target="/a//b"),
        Request(authority="orders", target="/a/../b"),
        Request(authority="orders", target="/%41"),
        Request(authority="orders."),
        Request(authority="orders", method="BREW"),
        Request(authority="orders", headers=(("x_a", "1"),)),
        Request(authority="orders", headers=(("x-a", "1"), ("x-a", "2"))),
        Request(authority="orders", headers=(("x-envoy-a", "1"),)),
        Request(authority="orders", headers=(("connection", "x-a"),)),
        Request(authority="orders", headers=(("x-a", "1\t"),)),
    )
    assert [plain(each) for each in odd] == [None] * len(odd)
