"""What a workload standing at one Vantage must be given: the intermediate representation between the resources that
people wrote and the messages that a proxy reads.

Every part is immutable, fully resolved (no name is left to look up) and carries the Origins it came from. Order is
meaning: routes are sorted by the precedence of the Gateway API, and the first match decides.
"""

from dataclasses import field
from enum import StrEnum

from masche.model.calling import (  # noqa: F401 # for the same reason
    UNLIMITED,
    UNSAID,
    AdaptiveConcurrency,
    Algorithm,
    CircuitBreaker,
    HashOn,
    Hedging,
    LocalityRules,
    OutlierEjection,
    RetryBudget,
    SteeringMode,
    Traffic,
    ZonePreference,
)

# The parts of a Traffic are parts of a View, and are found here too.
# pyright: reportUnusedImport=false
from masche.model.frozen import frozen
from masche.model.limits import Limit
from masche.model.matching import PathKind, RequestMatch, ValueKind, ValueMatch  # noqa: F401 # parts of a View, too
from masche.model.policies import (  # noqa: F401 # parts of a View, too
    Attribute,
    Condition,
    Decision,
    Pattern,
    PatternKind,
    Policy,
    Rule,
)
from masche.model.refs import Origin, PortRef
from masche.model.vantage import Vantage


class Protocol(StrEnum):
    """What is spoken on a port. HTTP: version 1 or 2, as the caller likes; HTTP2 and GRPC: prior knowledge (h2c)."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"

    @property
    def is_http(self) -> bool:
        """Whether requests, not only bytes, can be seen on such a port."""
        return self is not Protocol.TCP


@frozen
class HeaderChange:
    """Set replaces, add appends, remove deletes; names in lower case.

    ``set_present`` replaces only what is there, and ``set_absent`` adds only what is not.
    """

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()
    set_present: tuple[tuple[str, str], ...] = ()
    set_absent: tuple[tuple[str, str], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.set or self.add or self.remove or self.set_present or self.set_absent)


class RewriteKind(StrEnum):
    """What a path modifier replaces. MATCHED (exactly the characters that were matched) and REGEX are words of xDS."""

    FULL = "ReplaceFullPath"
    PREFIX = "ReplacePrefixMatch"
    MATCHED = "ReplaceMatched"
    REGEX = "ReplaceRegularExpression"


@frozen
class PathRewrite:
    """Replaces the whole path, or what the route matched of it, or (REGEX) each match of ``pattern``.

    Then ``value`` may hold ``\\1``, what the first group matched, and a backslash is written twice.
    """

    kind: RewriteKind
    value: str
    pattern: str = ""


@frozen
class Backend:
    """One weighted destination. ``cluster`` None means an invalid backendRef: its share of requests is answered with
    the ``lacking_status`` of its Forward.

    With ``redirect`` its share is answered with one instead; ``mirrors`` get copies of its share alone.
    """

    cluster: PortRef | None
    weight: int = 1
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()
    host_rewrite: str = ""
    path_rewrite: PathRewrite | None = None
    redirect: "Redirect | None" = None
    mirrors: "tuple[Mirror, ...]" = ()


@frozen
class Mirror:
    """A copy of ``numerator``/``denominator`` of the requests, whose answers are dropped."""

    cluster: PortRef
    numerator: int = 100
    denominator: int = 100


@frozen
class Retry:
    """Repeats of a request. ``attempts`` counts repeats, not the first try; ``backoff`` in seconds.

    ``codes`` are answers that are repeated when the method is idempotent (RFC 9110, 9.2.2); what never reached an
    application (connect failure, refused stream) is repeated whatever the method.

    The rest is said by xDS alone. ``any_method``: the method does not matter, for the route was chosen by it.
    ``unreached`` and ``unanswered``: whether what reached nobody, and what got no answer, is repeated. ``grpc_codes``
    are repeated like ``codes``. ``max_backoff`` 0 is ten times ``backoff``.
    """

    attempts: int = 2
    codes: tuple[int, ...] = ()
    backoff: float = 0.025
    max_backoff: float = 0.0
    any_method: bool = False
    unreached: bool = True
    unanswered: bool = True
    grpc_codes: tuple[int, ...] = ()


@frozen
class Cors:
    """The Gateway API's HTTPCORSFilter."""

    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    allow_credentials: bool = False
    max_age_seconds: int = 5


class HashKind(StrEnum):
    """What of a request a consistent hash is made of. CALLER: the same for all requests of one caller."""

    HEADER = "Header"
    COOKIE = "Cookie"
    QUERY = "Query"
    CALLER = "Caller"


@frozen
class Hashed:
    """One ingredient of the hash; ``is_last`` ends the mixture when this one was there.

    ``rewrite`` changes a header's value before. ``lifetime`` is how long a cookie lives that is made where there is
    none, in seconds; 0 for as long as the session, None: none is made.
    """

    kind: HashKind
    name: str = ""
    is_last: bool = False
    rewrite: PathRewrite | None = None
    lifetime: float | None = None
    path: str = ""


@frozen
class Fault:
    """Trouble made on purpose (gRFC A33): so many percent of the requests wait, and so many are refused.

    ``status`` is HTTP's, or ``grpc_status`` that of gRPC; -1 for none. At most ``max_active`` at a time, 0: no limit.
    """

    delay: float = 0.0
    delay_percent: float = 0.0
    status: int = 0
    grpc_status: int = -1
    abort_percent: float = 0.0
    max_active: int = 0
    headers: tuple[ValueMatch, ...] = ()


@frozen
class Forward:
    """Send it on. With no backend of positive weight, or where the chosen one cannot be resolved, every request gets
    ``lacking_status``. Timeouts in seconds, 0 for none.

    ``idle_timeout`` is how long nothing may move on a request, ``stream_idle_timeout`` the same for streams (gRPC and
    upgraded connections), and ``stream_timeout`` how long a try of one may take to begin its answer. An idempotent
    request that got no answer after ``hedge_after`` is sent a second time, and the first answer counts; 0 never.
    Where a backend's cluster does not exist the answer is ``absent_status``; ``hashes`` are what a hash is made of.
    """

    backends: tuple[Backend, ...]
    host_rewrite: str = ""
    path_rewrite: PathRewrite | None = None
    mirrors: tuple[Mirror, ...] = ()
    timeout: float = 0.0
    per_try_timeout: float = 0.0
    idle_timeout: float = 0.0
    stream_idle_timeout: float = 0.0
    stream_timeout: float = 0.0
    hedge_after: float = 0.0
    retry: Retry | None = None
    hashes: tuple[Hashed, ...] = ()
    absent_status: int = 503
    lacking_status: int = 500


@frozen
class Redirect:
    """Answer with a redirect; empty parts keep what the request had. ``port`` 0 keeps or derives it from the scheme.

    ``keeps_port``: with a new scheme, too, a port that the request wrote is kept, unless it is the usual one.
    """

    status: int = 302
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: PathRewrite | None = None
    keeps_port: bool = False
    strips_query: bool = False


@frozen
class Refuse:
    """Answer ``status`` at once, because the resource is wrong in a way that must not be ignored."""

    status: int
    why: str


Action = Forward | Redirect | Refuse


@frozen
class Route:
    """One match and what happens then. ``name`` is unique in its table and names the rule to people and statistics."""

    name: str
    match: RequestMatch
    action: Action
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()
    cors: Cors | None = None
    fault: Fault | None = None
    origins: tuple[Origin, ...] = ()


@frozen
class Outbound:
    """One (Service, port) as this Vantage reaches it.

    ``hosts`` are the names by which it is called from here, without ports (``orders``, ``orders.shop``, ...), and
    ``answers_bare`` says whether a name without a port means this port of the Service. ``routes`` is the whole table,
    first match wins, none matching is 404; for TCP only ``backends`` counts. ``addresses`` are the Service's virtual
    addresses, IPv4 first.
    """

    service: PortRef
    protocol: Protocol
    hosts: tuple[str, ...]
    answers_bare: bool
    addresses: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    backends: tuple[Backend, ...] = ()
    origins: tuple[Origin, ...] = ()


@frozen
class Cluster:
    """One (Service, port) as a destination: who may answer there (SPIFFE IDs) and how it is used.

    ``identities`` is never empty: a peer that shows none of them is refused inside the handshake. ``has_plaintext``
    says that some instance has no proxy (``EndpointView.is_mtls`` False), and ``has_library`` that some instance takes
    mutual TLS itself, in its own server: either way an HTTP port cannot count on HTTP/2. ``is_repeated`` says that some
    route, whoever it is for, has answers from here repeated.
    """

    service: PortRef
    protocol: Protocol
    identities: tuple[str, ...]
    traffic: Traffic = UNSAID
    has_plaintext: bool = False
    has_library: bool = False
    is_repeated: bool = False
    origins: tuple[Origin, ...] = ()


class MtlsMode(StrEnum):
    """Istio's PeerAuthentication modes."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"


@frozen
class InboundPort:
    """What is spoken on a port of the application: ``target`` is its number or name, as Services point at it.

    ``idle_timeout`` is how long nothing may move on a request, ``stream_idle_timeout`` the same for streams (gRPC and
    upgraded connections), in seconds, 0 for ever; ``concurrency`` is how its load is limited. After so many
    ``consecutive_errors`` of all its callers it is looked into whether it fails them all; 0: never.
    """

    target: int | str
    protocol: Protocol
    services: tuple[PortRef, ...] = ()
    idle_timeout: float = 300.0
    stream_idle_timeout: float = 0.0
    concurrency: AdaptiveConcurrency = UNLIMITED
    consecutive_errors: int = 0


@frozen
class Inbound:
    """How calls to this workload are received. ``port_mtls`` overrides ``mtls`` for application ports.

    Evaluation order of policies: DENY first, then ALLOW; with no ALLOW policy everything not denied is allowed. What is
    allowed takes a token of each of the ``limits`` that count it, in their order.
    """

    mtls: MtlsMode = MtlsMode.STRICT
    port_mtls: tuple[tuple[int, MtlsMode], ...] = ()
    ports: tuple[InboundPort, ...] = ()
    policies: tuple[Policy, ...] = ()
    limits: tuple[Limit, ...] = ()
    origins: tuple[Origin, ...] = ()


@frozen
class VirtualHost:
    """Hostnames (``*``, ``*.example.org``, ``example.org``) of one gateway listener and their table of routes."""

    hosts: tuple[str, ...]
    routes: tuple[Route, ...]


@frozen
class GatewayListener:
    """One port of a Gateway: HTTP, or HTTPS with certificates chosen by server name.

    ``hosts`` of several Gateway listeners on one port are folded together; ``certificates`` pairs a hostname pattern
    (``""`` for any) with the name of the Secret whose certificate is shown.
    """

    name: str
    port: int
    is_tls: bool
    virtual_hosts: tuple[VirtualHost, ...]
    certificates: tuple[tuple[str, str], ...] = ()
    origins: tuple[Origin, ...] = ()


@frozen
class View:
    """All of it. Tuples are sorted by name, so that equal meshes give equal Views.

    ``east_west`` are the SPIFFE IDs of the gateways between zones: who may carry a detour; empty when there is none.
    ``is_troubled``: on some route of a way out there is a Fault.
    """

    vantage: Vantage
    trust_domain: str
    identity: str
    outbound: tuple[Outbound, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    inbound: Inbound = Inbound()
    gateway: tuple[GatewayListener, ...] = ()
    is_registry_only: bool = False
    east_west: tuple[str, ...] = ()
    is_troubled: bool = False


class Health(StrEnum):
    """Whether an endpoint takes traffic. DRAINING keeps open calls and gets no new ones."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


@frozen
class EndpointView:
    """One reachable instance. ``weight`` 1 to 1000, relative within its locality; ``is_mtls`` False means plaintext.

    ``via`` is the ``host:port`` of the gateway through which it is reached, "" for the direct way.
    """

    address: str
    port: int
    workload: str
    health: Health = Health.HEALTHY
    weight: int = 100
    is_mtls: bool = True
    via: str = ""


@frozen
class Locality:
    """The endpoints of one zone, reached directly or ``via`` a third zone's gateway. ``priority`` 0 is tried first.

    ``weight`` is its share of the calls relative to the localities of its priority; 0: by the number of its endpoints.
    """

    zone: str
    priority: int
    endpoints: tuple[EndpointView, ...]
    via: str = ""
    weight: int = 0


@frozen
class Endpoints:
    """The instances of one (Service, port) as one caller zone sees them, sorted."""

    service: PortRef
    localities: tuple[Locality, ...] = field(default=())
