"""The words of ``masche.link.v1.Link``: what an agent and a control plane say to each other beside xDS.

Every message is a frozen msgspec Struct in msgpack. A field or a kind of message that the reader does not know is
ignored, so either side may be one version ahead; a message that is too long or has a wrong type raises MessageError.
No message has a place for a private key.
"""

from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from masche.model.refs import Name, PortRef
from masche.model.vantage import Dialect, Placement, Seat
from masche.model.view import Protocol
from masche.telemetry import histogram

PROTOCOL_VERSION: Final = 1
"""Raised only by a change that an older peer could misread."""

MAX_MESSAGE_BYTES: Final = 1 << 20
"""No message of an agent, and no Report, may be longer."""

MAX_SCOPE_BYTES: Final = 8 << 20
"""A Scope grows with the mesh, by some 200 bytes for each port of a Service; this is the most of a control plane."""

MAX_JOIN_BYTES: Final = 64 << 10
"""No message that needs no client certificate (Join, Renew) may be longer."""

Id = Annotated[str, Meta(min_length=1, max_length=253)]
Text = Annotated[str, Meta(max_length=4096)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0)]
Bucket = Annotated[int, Meta(ge=0, le=histogram.bucket(histogram.LARGEST_US))]
Clause = Annotated[str, Meta(max_length=200)]
"""Some words within a sentence that people read."""


class WorkloadPort(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One port of the application: ``port`` is its own, ``mesh_port`` (0 for none) its proxy's, for mutual TLS."""

    name: Text = ""
    port: Port
    mesh_port: Port = 0
    protocol: Protocol = Protocol.HTTP


class ServiceWish(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The Service that is created, owned by this workload, when there is none: it selects ``app=<name>``."""

    name: Id
    ports: tuple[WorkloadPort, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Health of a workload: ``phase`` is STARTING, READY, UNHEALTHY or DRAINING; ``reason`` is the last error."""

    phase: Annotated[str, Meta(pattern="^(STARTING|READY|UNHEALTHY|DRAINING)$")] = "STARTING"
    reason: Text = ""


class Occupant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One workload of a proxy: what it is, how it is, and its Seat (``seat.workload`` is its name).

    ``address`` is where other machines reach its mesh ports; ``dependencies`` None means none were declared.
    For a gateway the Seat's ``bind`` is ``--listen``.
    """

    seat: Seat
    service_account: Id
    labels: dict[str, str] = {}
    zone: Text = ""
    address: Text = ""
    ports: tuple[WorkloadPort, ...] = ()
    dependencies: tuple[str, ...] | None = None
    service: ServiceWish | None = None
    state: State = State()
    exposed: bool = False


class ProxyState(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="proxy"):
    """A proxy of this machine, whole: it registers the proxy and its workloads or replaces what was said before.

    ``proxy`` is Envoy's ``Node.id``. A sidecar and a gateway have one occupant, a node proxy any number.
    """

    proxy: Id
    placement: Placement
    dialect: Dialect = Dialect.ENVOY
    occupants: tuple[Occupant, ...]
    gateway: Name | None = None
    envoy_version: Text = ""


class ProxyGone(Struct, frozen=True, kw_only=True, tag="proxy-gone"):
    """An orderly leave: the proxy's workloads are removed at once."""

    proxy: Id


class Hello(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="hello"):
    """The first message of every stream. ``machine`` must be the one of the client certificate, where there is one.

    ``process`` tells streams of one machine apart: "" is its agent's, every process with the library has one of its
    own. A new stream of the same process takes the place of the old one. Who does not say ``protocol_version`` speaks
    the first; another than its own is refused by the control plane.
    """

    machine: Id
    process: Annotated[str, Meta(max_length=64)] = ""
    agent_version: Text
    zone: Text = ""
    addresses: tuple[str, ...] = ()
    protocol_version: int = 1


class Synced(Struct, frozen=True, kw_only=True, tag="synced"):
    """All proxies of this process have been said since Hello; what is remembered of it beside them is gone."""


class Heartbeat(Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Renews the lease of everything that this stream registered; sent every third of a lease."""


class Accepted(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="accepted"):
    """This state of the proxy is registered. ``created`` names the Services that were created for it."""

    proxy: Id
    created: tuple[Name, ...] = ()


class Refused(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="refused"):
    """This state of the proxy is not registered, ``why``, and what to change; ``proxy`` "" means the whole agent.

    ``workload`` names the only occupant that is refused, where the others of the proxy are registered. ``is_taken``:
    somebody else serves a workload of this name, and another name would do.
    """

    proxy: str
    why: Text
    fix: Text = ""
    is_taken: bool = False
    workload: Name | None = None


class ScopeService(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One (Service, port) that a workload may call, and the names by which it is called from there.

    ``addresses`` are the Service's virtual addresses, of IPv4 and of IPv6, which mesh DNS answers.
    """

    port: PortRef
    protocol: Protocol
    name: Text = ""
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Scope(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="scope"):
    """All that a workload may call, whole: its agent opens a local port for each and sets ``<SERVICE>_URL``."""

    proxy: Id
    workload: Name
    services: tuple[ScopeService, ...] = ()


class Drained(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="drained"):
    """Every connected caller has acknowledged that the draining endpoints of this proxy are gone: CMD may stop.

    ``workload`` is the one that drains, where a proxy serves several.
    """

    proxy: Id
    workload: Name | None = None


class Roots(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="bundle"):
    """The trust bundle: PEM of every root that verifies the trust domain; two while a root is being replaced.

    ``others`` maps foreign trust domains to their roots.
    """

    trust_domain: Id
    roots: str
    others: dict[str, str] = {}


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="verdict"):
    """A proxy has cut an endpoint off, or let it back in, this moment; ``cause`` is what its own rules say.

    Sent beside the Reports, which a second later name all endpoints that are cut off, so one that gets lost is no harm.
    """

    proxy: Id
    service: PortRef
    endpoint: Text
    via: Text = ""
    is_ejected: bool
    cause: Clause = ""


class Plight(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="plight"):
    """What an instance's own agent says of it: it fails whatever it is asked, or (``is_well``) it answers again.

    ``port`` is the application's. Said at once, and again every ``PLIGHT_SECONDS`` while it lasts.
    """

    proxy: Id
    workload: Name
    port: Port
    is_well: bool
    cause: Clause = ""


PLIGHT_SECONDS: Final = 1.0
"""Who is silent for some of these is not in a plight any more."""

FromAgent = Hello | ProxyState | ProxyGone | Synced | Heartbeat | Verdict | Plight
FromControl = Accepted | Refused | Scope | Drained | Roots


class SignRequest(Struct, frozen=True, kw_only=True):
    """Sign this CSR (DER) for one registered workload; its SPIFFE ID comes from the registration."""

    proxy: Id
    workload: Name
    csr: Annotated[bytes, Meta(max_length=16384)]


class SignReply(Struct, frozen=True, kw_only=True):
    """``chain`` is PEM, leaf first, without the root; instants are seconds since the epoch.

    ``lifetime`` is the seconds left by the signer's clock: what the agent counts down, whatever its own clock says.
    """

    chain: str
    not_before: float
    not_after: float
    lifetime: float
    bundle: Roots


class JoinRequest(Struct, frozen=True, kw_only=True):
    """Spend a token for a machine credential; needs no client certificate."""

    token: Annotated[str, Meta(max_length=128)]
    machine: Id
    csr: Annotated[bytes, Meta(max_length=16384)]


class RenewRequest(Struct, frozen=True, kw_only=True):
    """A new machine credential for an old one, which may have expired; needs no client certificate.

    ``chain`` is the old chain in PEM and ``proof`` a signature by its key (see ``identity.credential.prove``).
    """

    chain: Annotated[str, Meta(max_length=32768)]
    csr: Annotated[bytes, Meta(max_length=16384)]
    proof: Annotated[bytes, Meta(max_length=1024)]


class JoinReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine credential of ``machine`` (the name asked for, or another when that was taken).

    ``addresses`` are the control planes' ``host:port`` for link and xDS over mutual TLS.
    """

    machine: Id
    chain: str
    not_before: float
    not_after: float
    lifetime: float
    bundle: Roots
    addresses: tuple[str, ...] = ()


class Histogram(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A log-linear histogram as a delta: counts by bucket index (``telemetry.histogram``), and the sum in microseconds.

    A bucket that no duration falls into is refused: its bounds would be numbers of any length.
    """

    buckets: dict[Bucket, Count] = {}
    sum_us: Count = 0


class EdgeReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One edge since the last Report, as one of its two ends saw it; the rule is ``Route.name`` ("" for none).

    ``direction`` is ``outbound`` (the caller saw it: ``peer`` is "" and ``service`` the destination) or ``inbound``
    (the callee saw it: ``peer`` is the caller's SPIFFE ID or "" for plaintext). ``codes`` counts answers by status
    (0: none came), ``flags`` by Envoy's response flag.
    """

    direction: Annotated[str, Meta(pattern="^(inbound|outbound)$")]
    workload: Name
    service: PortRef | None = None
    peer: Text = ""
    rule: Text = ""
    codes: dict[int, Count] = {}
    flags: dict[str, Count] = {}
    latency: Histogram = Histogram()
    bytes_sent: Count = 0
    bytes_received: Count = 0
    connections: Count = 0


class EndpointReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What this proxy saw of one endpoint (``host:port``) since the last Report; ``is_ejected`` is now.

    ``requests`` are tries, repeats included. ``latency`` is the caller's time until the first byte of each answer that
    was no error, ``service_time`` what the callee's proxy said of its own part; both may come with the next Report, for
    Envoy shows times later than counts. ``timeouts`` of the ``errors`` were given up without an answer, by a limit or
    by the caller; they have no latency. ``active`` wait for an answer now. ``rtt_us`` is the round trip that TCP
    measured, 0 when unknown. ``via`` is the gateway (``host:port``) of a detour, "" for the direct way.
    """

    service: PortRef
    endpoint: Text
    via: Text = ""
    requests: Count = 0
    errors: Count = 0
    timeouts: Count = 0
    active: Count = 0
    is_ejected: bool = False
    latency: Histogram = Histogram()
    service_time: Histogram = Histogram()
    rtt_us: Count = 0


class CertificateReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The certificate that a workload's proxy has now; ``not_after`` in epoch seconds, ``error`` of the renewal."""

    workload: Name
    not_after: float
    serial: Text = ""
    error: Text = ""


class ProxyReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One proxy: counters are deltas since the last Report that was answered; the rest is as of now.

    ``warming`` names the listeners and clusters that Envoy has not made live; ``exposed`` are application ports that
    listen beyond loopback.
    """

    proxy: Id
    edges: tuple[EdgeReport, ...] = ()
    endpoints: tuple[EndpointReport, ...] = ()
    certificates: tuple[CertificateReport, ...] = ()
    is_live: bool = False
    envoy_version: Text = ""
    warming: tuple[str, ...] = ()
    exposed: tuple[int, ...] = ()


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sent once a second. ``sequence`` grows by one with each new Report of one agent process (``epoch``).

    A Report that was not answered is sent again under its number, so that it is counted once.
    """

    machine: Id
    epoch: Id
    sequence: Count
    interval: float = 1.0
    proxies: tuple[ProxyReport, ...] = ()


class ReportReply(Struct, frozen=True, kw_only=True):
    """The Report of this number is counted."""

    sequence: Count


class MessageError(ValueError):
    """The bytes are not a message of the expected kind; the text says what is wrong with them."""


class _Tag(Struct, frozen=True):
    type: str = ""


T = TypeVar("T")

_encoder: Final = msgspec.msgpack.Encoder()
_tag: Final = msgspec.msgpack.Decoder(_Tag)
_from_agent: Final = msgspec.msgpack.Decoder(FromAgent)
_from_control: Final = msgspec.msgpack.Decoder(FromControl)
_AGENT_TAGS: Final = frozenset({"hello", "proxy", "proxy-gone", "synced", "heartbeat", "verdict", "plight"})
_CONTROL_TAGS: Final = frozenset({"accepted", "refused", "scope", "drained", "bundle"})


def encode(message: Struct) -> bytes:
    """The bytes of any message. Raises MessageError when they would be longer than a peer takes."""
    data = _encoder.encode(message)
    limit = MAX_SCOPE_BYTES if isinstance(message, Scope) else MAX_MESSAGE_BYTES
    if len(data) > limit:
        raise MessageError(f"{type(message).__name__} has {len(data)} bytes, more than the {limit} that may be sent")
    return data


def from_agent(data: bytes) -> FromAgent | None:
    """Read a message of the agent; None for a kind of a newer version. Raises MessageError."""
    return _read(data, _from_agent) if _kind(data) in _AGENT_TAGS else None


def from_control(data: bytes) -> FromControl | None:
    """Read a message of the control plane; None for a kind of a newer version. Raises MessageError."""
    if _kind(data, limit=MAX_SCOPE_BYTES) not in _CONTROL_TAGS:
        return None
    return _read(data, _from_control, limit=MAX_SCOPE_BYTES)


def decode(data: bytes, kind: type[T], *, limit: int = MAX_MESSAGE_BYTES) -> T:
    """Read a unary message. Raises MessageError when it is too long or not one."""
    return _read(data, msgspec.msgpack.Decoder(kind), limit=limit)


def _kind(data: bytes, *, limit: int = MAX_MESSAGE_BYTES) -> str:
    return _read(data, _tag, limit=limit).type


def _read(data: bytes, decoder: "msgspec.msgpack.Decoder[T]", *, limit: int = MAX_MESSAGE_BYTES) -> T:
    if len(data) > limit:
        raise MessageError(f"a message of {len(data)} bytes; at most {limit} are taken")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(str(error)) from error
