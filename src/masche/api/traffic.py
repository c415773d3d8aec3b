"""What the API says about calls: who calls whom, how fast, how each instance and each link stands, and the picture.

The conventions are those of ``api.messages``.
"""

from enum import StrEnum

from masche.api.messages import Event, MeshStatus, Message


class Rate(Message, frozen=True, kw_only=True):
    """How calls went in a window.

    ``success`` is the share without a 5xx or a transport error (1.0 when there were none), latencies are milliseconds
    as the caller's proxy saw them, 0.0 when there were no calls.
    """

    requests_per_second: float
    success: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class InstanceState(StrEnum):
    """Whether an instance takes calls.

    ADMITTED; EJECTED: its callers are kept off it for a time; PROBING: that time is served, and a few calls show
    whether it is well; UNHEALTHY and DRAINING: its own machine says so.
    """

    ADMITTED = "ADMITTED"
    EJECTED = "EJECTED"
    PROBING = "PROBING"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"


class Way(StrEnum):
    """How calls travel: by mutual TLS, or within the one proxy of a machine, which encrypts nothing and knows callers
    by their network namespace. MIXED: some the one way and some the other.
    """

    TLS = "tls"
    LOCAL = "local"
    MIXED = "mixed"


class CallerView(Message, frozen=True, kw_only=True):
    """One instance as the callers of one zone have it now.

    ``weight`` is steered, in percent of a fair share within its zone; ``until_at`` is when an ejection ends and
    ``reason`` a sentence. Latencies are means, smoothed: ``latency_ms`` of the caller, ``service_ms`` of the instance's
    own part and ``network_ms`` of the way there and back, 0.0 where that is not known. ``is_dry_run``: it would be so.
    """

    zone: str
    weight: int
    state: InstanceState = InstanceState.ADMITTED
    until_at: float = 0.0
    reason: str = ""
    latency_ms: float = 0.0
    service_ms: float = 0.0
    network_ms: float = 0.0
    is_dry_run: bool = False


class EdgeEndpoint(Message, frozen=True, kw_only=True):
    """The part of an edge that one instance served, and how the instance stands.

    ``callers`` tells it zone by zone, where something was measured; the rest is what is worst among them: the least
    ``weight`` (in percent of a fair share), the ``state`` with its ``until_at`` and ``reason``. ``is_ejected``: some
    caller keeps off it.
    """

    workload: str
    zone: str
    rate: Rate
    weight: int = 100
    is_ejected: bool = False
    state: InstanceState = InstanceState.ADMITTED
    until_at: float = 0.0
    reason: str = ""
    callers: tuple[CallerView, ...] = ()
    way: Way = Way.TLS


class Edge(Message, frozen=True, kw_only=True):
    """Calls from one service to one port of another. ``denied_per_second`` were refused by a policy.

    ``is_mtls``: all of them are encrypted; ``way`` says of which it is that they are not.
    ``panic`` says, in a sentence, that no instance is healthy and all of them are called; it is "" mostly.
    """

    source: str
    destination: str
    port: int
    protocol: str
    rate: Rate
    is_mtls: bool = True
    denied_per_second: float = 0.0
    endpoints: tuple[EdgeEndpoint, ...] = ()
    panic: str = ""
    way: Way = Way.TLS


class Edges(Message, frozen=True, kw_only=True):
    """All edges with traffic in the last ``window`` seconds before ``at``, sorted by source, destination and port."""

    at: float
    window: float
    edges: tuple[Edge, ...]


class ZoneLink(Message, frozen=True, kw_only=True):
    """The way of calls from a zone to instances of a zone, directly or ``via`` the gateway of a third one.

    ``share`` is the part of all calls of the ``source`` zone that go this way. ``network_ms`` is what the network alone
    costs now, ``usual_ms`` what it costs when all is well (0.0 where it is not known), ``lost`` the share of calls that
    were not answered, and ``is_bad`` that traffic is being moved off it.
    """

    source: str
    destination: str
    via: str = ""
    rate: Rate
    share: float = 0.0
    network_ms: float = 0.0
    usual_ms: float = 0.0
    lost: float = 0.0
    is_bad: bool = False


class ZoneShare(Message, frozen=True, kw_only=True):
    """Which part of the calls, from 0.0 to 1.0, the instances of a ``zone`` get, directly or ``via`` a gateway."""

    zone: str
    share: float
    via: str = ""


class ZoneShift(Message, frozen=True, kw_only=True):
    """How steering divides the calls of one zone to one port (``shop/orders:80``) between zones."""

    service: str
    caller_zone: str
    shares: tuple[ZoneShare, ...]


class Zones(Message, frozen=True, kw_only=True):
    """The links between zones with traffic in the last ``window`` seconds before ``at`` or with something measured.

    ``shifts`` are the ports whose calls are steered between zones now. Without zones the one link is from "" to "".
    """

    at: float
    window: float
    links: tuple[ZoneLink, ...] = ()
    shifts: tuple[ZoneShift, ...] = ()


class NodeWorkload(Message, frozen=True, kw_only=True):
    """One instance of a node of the graph, as in ProxyStatus."""

    workload: str
    state: str
    placement: str
    machine: str
    zone: str
    identity: str
    certificate_expires_at: float
    is_connected: bool
    is_in_sync: bool
    is_exposed: bool = False
    last_error: str = ""


class NodeKind(StrEnum):
    """What a node of the graph is."""

    SERVICE = "service"
    GATEWAY = "gateway"
    CLIENT = "client"
    EXTERNAL = "external"


class Node(Message, frozen=True, kw_only=True):
    """A service (or what else calls and is called) with its instances; ``id`` is what edges name."""

    id: str
    kind: NodeKind
    namespace: str
    name: str
    ports: tuple[int, ...] = ()
    workloads: tuple[NodeWorkload, ...] = ()


class Graph(Message, frozen=True, kw_only=True):
    """The picture: nodes and the edges between them over ``window`` seconds before ``at``, at ``revision``."""

    revision: int
    at: float
    window: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


LiveMessage = Event | Edges | Zones | Graph | MeshStatus
"""What the live stream carries; the SSE event is named ``event``, ``edges``, ``zones``, ``graph`` or ``status``."""
