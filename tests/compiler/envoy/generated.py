"""Hypothesis strategies for Views and Seats: everything that a resource can say, in any combination."""

import string

from hypothesis import strategies as st
from views import TRUST_DOMAIN

from masche.model.refs import Kind, Name, Origin, PortRef, Ref
from masche.model.vantage import Dialect, LocalPort, Placement, Seat, SeatPort, Vantage
from masche.model.view import (
    AdaptiveConcurrency,
    Algorithm,
    Attribute,
    Backend,
    CircuitBreaker,
    Cluster,
    Condition,
    Cors,
    Decision,
    Endpoints,
    EndpointView,
    Forward,
    GatewayListener,
    HashOn,
    HeaderChange,
    Health,
    Inbound,
    InboundPort,
    Locality,
    Mirror,
    MtlsMode,
    Outbound,
    OutlierEjection,
    PathKind,
    PathRewrite,
    Pattern,
    PatternKind,
    Policy,
    Protocol,
    Redirect,
    Refuse,
    RequestMatch,
    Retry,
    RetryBudget,
    RewriteKind,
    Route,
    Rule,
    Traffic,
    ValueKind,
    ValueMatch,
    View,
    VirtualHost,
)

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
TOKENS = st.from_regex(r"x-[a-z0-9]{1,8}", fullmatch=True)
TEXT = st.text(string.ascii_letters + string.digits + "%*.$\\/ -_=[]{}()|^+?", max_size=12)
PATHS = st.from_regex(r"/[a-z0-9._~%-]{0,6}(/[a-z]{0,4}){0,2}", fullmatch=True)
SECONDS = st.sampled_from((0.0, 0.25, 1.0, 15.0, 3600.0))
POSITIVE = st.sampled_from((0.1, 1.0, 30.0))
PORTS = st.builds(PortRef, st.sampled_from(("shop", "other")), NAMES, st.integers(1, 65535))


def some(strategy, most: int = 3):
    return st.lists(strategy, max_size=most).map(tuple)


def pairs(most: int = 2):
    return some(st.tuples(TOKENS, TEXT), most)


HEADER_CHANGES = st.builds(HeaderChange, set=pairs(), add=pairs(), remove=some(TOKENS | st.just("host"), 2))
REWRITES = st.builds(
    PathRewrite, kind=st.sampled_from((RewriteKind.FULL, RewriteKind.PREFIX)), value=PATHS | st.just("")
)
FULL_OR_PREFIX = st.none() | REWRITES
VALUES = st.builds(ValueMatch, name=TOKENS | st.just("Host"), kind=st.just(ValueKind.EXACT), value=TEXT) | st.builds(
    ValueMatch, name=TOKENS, kind=st.just(ValueKind.REGEX), value=st.sampled_from((".*", "[a-z]+", "(a|b){2}"))
)
PATH_MATCHES = st.tuples(st.sampled_from((PathKind.EXACT, PathKind.PREFIX)), PATHS) | st.just(
    (PathKind.REGEX, "/[a-z]+/?")
)
MATCHES = st.builds(
    lambda path, **more: RequestMatch(path_kind=path[0], path=path[1], **more),
    PATH_MATCHES,
    method=st.sampled_from(("", "GET", "POST")),
    headers=some(VALUES, 2),
    query=some(VALUES, 2),
)
BACKENDS = st.builds(
    Backend,
    cluster=st.none() | PORTS,
    weight=st.integers(0, 1000),
    request_headers=HEADER_CHANGES,
    response_headers=HEADER_CHANGES,
    host_rewrite=NAMES | st.just(""),
    path_rewrite=FULL_OR_PREFIX,
)
RETRIES = st.builds(Retry, attempts=st.integers(1, 5), codes=some(st.integers(400, 599)), backoff=SECONDS)
FORWARDS = st.builds(
    Forward,
    backends=some(BACKENDS),
    host_rewrite=NAMES | st.just(""),
    path_rewrite=FULL_OR_PREFIX,
    mirrors=some(st.builds(Mirror, cluster=PORTS, numerator=st.integers(0, 50), denominator=st.integers(50, 1000)), 2),
    timeout=SECONDS,
    per_try_timeout=SECONDS,
    idle_timeout=SECONDS,
    stream_idle_timeout=SECONDS,
    stream_timeout=SECONDS,
    hedge_after=SECONDS,
    retry=st.none() | RETRIES,
)
REDIRECTS = st.builds(
    Redirect,
    status=st.sampled_from((301, 302, 303, 307, 308)),
    scheme=st.sampled_from(("", "http", "https")),
    host=NAMES | st.just(""),
    port=st.integers(0, 65535),
    path=FULL_OR_PREFIX,
)
CORS = st.builds(
    Cors,
    allow_origins=some(st.sampled_from(("*", "https://a.b", "https://*.b.c", "http://x:8080"))),
    allow_methods=some(st.sampled_from(("*", "GET", "PUT"))),
    allow_headers=some(TOKENS),
    expose_headers=some(TOKENS),
    allow_credentials=st.booleans(),
    max_age_seconds=st.integers(0, 10000),
)
ORIGINS = some(st.builds(Origin, st.builds(Ref, st.sampled_from(Kind), NAMES, NAMES), st.just("rules[0]")), 2)
ROUTES = st.builds(
    Route,
    name=TEXT,
    match=MATCHES,
    action=FORWARDS | REDIRECTS | st.builds(Refuse, status=st.sampled_from((400, 404, 500)), why=TEXT),
    request_headers=HEADER_CHANGES,
    response_headers=HEADER_CHANGES,
    cors=st.none() | CORS,
    origins=ORIGINS,
)
OUTBOUNDS = st.builds(
    Outbound,
    service=PORTS,
    protocol=st.sampled_from(Protocol),
    hosts=some(NAMES),
    answers_bare=st.booleans(),
    routes=some(ROUTES, 2),
    backends=some(BACKENDS, 2),
    origins=ORIGINS,
)
TRAFFIC = st.builds(
    Traffic,
    algorithm=st.sampled_from(Algorithm),
    hash_on=st.none() | st.sampled_from(HashOn),
    hash_name=TOKENS,
    slow_start=SECONDS,
    connect_timeout=POSITIVE,
    request_timeout=SECONDS,
    per_try_timeout=SECONDS,
    idle_timeout=SECONDS,
    keepalive=SECONDS,
    max_connection_age=SECONDS,
    outlier=st.builds(
        OutlierEjection,
        consecutive_errors=st.integers(0, 10),
        error_percent=st.integers(0, 100),
        interval=POSITIVE,
        base_ejection=POSITIVE,
        max_ejected_percent=st.integers(0, 100),
    ),
    breaker=st.builds(
        CircuitBreaker, max_connections=st.integers(1, 5000), max_retries=st.none() | st.integers(0, 1000)
    ),
    budget=st.builds(RetryBudget, percent=st.floats(0, 100), min_concurrent=st.integers(0, 100)),
)
CLUSTERS = st.builds(
    Cluster,
    service=PORTS,
    protocol=st.sampled_from(Protocol),
    identities=st.lists(
        NAMES.map(lambda name: f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/{name}"), min_size=1, max_size=3
    ).map(tuple),
    traffic=TRAFFIC,
    has_plaintext=st.booleans(),
    has_library=st.booleans(),
    origins=ORIGINS,
)
STRINGS = st.builds(
    Pattern,
    st.sampled_from((PatternKind.EXACT, PatternKind.PREFIX, PatternKind.SUFFIX)),
    TEXT.filter(bool),
) | st.just(Pattern(PatternKind.PRESENT))
TEMPLATES = st.sampled_from(("/a/{*}/b", "/a/{**}", "/{*}/x/{**}")).map(
    lambda path: Pattern(PatternKind.TEMPLATE, path)
)
ADDRESSES = st.sampled_from(("10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1")).map(
    lambda cidr: Pattern(PatternKind.EXACT, cidr)
)


def conditions(*attributes: Attribute):
    def of(attribute: Attribute):
        values = {
            Attribute.SOURCE_IP: ADDRESSES,
            Attribute.REMOTE_IP: ADDRESSES,
            Attribute.DESTINATION_IP: ADDRESSES,
            Attribute.DESTINATION_PORT: st.integers(1, 65535).map(
                lambda number: Pattern(PatternKind.EXACT, str(number))
            ),
            Attribute.PATH: STRINGS | TEMPLATES,
        }.get(attribute, STRINGS)
        return st.builds(
            Condition, attribute=st.just(attribute), name=TOKENS, values=some(values, 2), not_values=some(values, 2)
        )

    return some(st.sampled_from(attributes).flatmap(of), 2)


SOURCES = (
    Attribute.PRINCIPAL,
    Attribute.NAMESPACE,
    Attribute.SERVICE_ACCOUNT,
    Attribute.SOURCE_IP,
    Attribute.REMOTE_IP,
)
WRITTEN = tuple(each for each in Attribute if each is not Attribute.PEER_URI)
"""What people can write a condition about."""

OPERATIONS = tuple(each for each in WRITTEN if each not in SOURCES)
RULES = st.builds(
    Rule,
    name=TEXT.filter(bool),
    sources=some(conditions(*SOURCES), 2),
    operations=some(conditions(*OPERATIONS), 2),
    when=conditions(*WRITTEN),
)
POLICIES = st.builds(Policy, name=TEXT, decision=st.sampled_from(Decision), rules=some(RULES, 2), origins=ORIGINS)
INBOUND = st.builds(
    Inbound,
    mtls=st.sampled_from(MtlsMode),
    port_mtls=some(st.tuples(st.sampled_from((8080, 9090)), st.sampled_from(MtlsMode)), 2),
    ports=some(
        st.builds(
            InboundPort,
            target=st.sampled_from((8080, 9090, "web")),
            protocol=st.sampled_from(Protocol),
            idle_timeout=SECONDS,
            stream_idle_timeout=SECONDS,
            concurrency=st.builds(
                AdaptiveConcurrency,
                enabled=st.booleans(),
                max_concurrency=st.integers(1, 100_000),
                base_latency=st.sampled_from((0.0, 0.001, 60.0)),
            ),
        ),
        2,
    ),
    policies=some(POLICIES),
)


@st.composite
def sidecars(draw) -> tuple[View, Seat]:
    """A View of a sidecar, and a Seat whose listeners bind whatever is free."""
    outbounds = draw(st.lists(OUTBOUNDS, max_size=3, unique_by=lambda each: each.service).map(tuple))
    clusters = draw(st.lists(CLUSTERS, max_size=3, unique_by=lambda each: each.service).map(tuple))
    view = View(
        vantage=_vantage(Placement.SIDECAR),
        trust_domain=TRUST_DOMAIN,
        identity=f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/web",
        outbound=outbounds,
        clusters=clusters,
        inbound=draw(INBOUND),
        is_registry_only=draw(st.booleans()),
        east_west=draw(st.sampled_from(((), (f"spiffe://{TRUST_DOMAIN}/ns/masche-system/sa/east-west",)))),
    )
    seat = Seat(
        workload=Name("shop", "web-1"),
        bind="127.0.0.1",
        ports=(SeatPort(name="web", app_port=8080, mesh_port=0), SeatPort(name="more", app_port=9090, mesh_port=0)),
        proxy_port=draw(st.sampled_from((0, 1))),
        local_ports=tuple(LocalPort(service=each.service, port=0) for each in outbounds),
    )
    return view, seat


@st.composite
def gateways(draw) -> tuple[View, Seat]:
    hosts = st.sampled_from(("*", "*.example.org", "example.org", "a.example.org"))
    tables = some(st.builds(VirtualHost, hosts=some(hosts, 2), routes=some(ROUTES, 2)), 3)
    certificates = some(st.tuples(hosts | st.just(""), st.just("default")), 3)
    listeners = tuple(
        GatewayListener(
            name=f"listener-{port}",
            port=port,
            is_tls=is_tls,
            virtual_hosts=draw(tables),
            certificates=(("", "default"), *draw(certificates)) if is_tls else (),
        )
        for port, is_tls in ((8080, False), (8443, True))
    )
    view = View(
        vantage=_vantage(Placement.GATEWAY),
        trust_domain=TRUST_DOMAIN,
        identity=f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/gateway",
        clusters=draw(st.lists(CLUSTERS, max_size=2, unique_by=lambda each: each.service).map(tuple)),
        gateway=listeners,
    )
    seat = Seat(workload=Name("shop", "gateway"), bind="127.0.0.1", gateway_ports=((8080, 0), (8443, 0)))
    return view, seat


def _vantage(placement: Placement) -> Vantage:
    return Vantage(placement=placement, dialect=Dialect.ENVOY, namespace="shop", service_account="web")


INSTANCES = st.builds(
    EndpointView,
    address=st.sampled_from(("10.0.0.1", "fd00::1", "127.0.0.1")),
    port=st.integers(1, 65535),
    workload=NAMES,
    health=st.sampled_from(Health),
    weight=st.integers(1, 1000),
    is_mtls=st.booleans(),
)
ENDPOINTS = st.builds(
    Endpoints,
    service=PORTS,
    localities=st.lists(
        st.builds(Locality, zone=NAMES | st.just(""), priority=st.integers(0, 5), endpoints=some(INSTANCES)),
        max_size=3,
        unique_by=lambda each: (each.zone, each.priority),
    ).map(tuple),
)
