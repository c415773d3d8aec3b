"""What the API says: every request and answer as a frozen record, from which the JSON follows with camelCase keys.

Units, everywhere: a field that ends in ``_at`` is an instant in Unix seconds (UTC, fractions allowed, 0.0 for "none");
``_ms`` is milliseconds; ``_bytes`` is bytes; a bare duration is seconds; ``success`` is a share from 0.0 to 1.0. A
workload or service is written ``namespace/name``, an identity as its SPIFFE ID, a resource as a Ref. An empty string
means "none" or "not known"; no field is ever null except where the type says so.
"""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from masche.model.diagnostic import Diagnostic
from masche.model.refs import Ref

MAX_BODY_BYTES = 8 * 1024 * 1024
"""The largest body that the API reads."""


class Message(Struct, frozen=True, kw_only=True, rename="camel"):
    """An answer: new fields may come, so readers ignore what they do not know."""


class Request(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A question: an unknown field is a mistake and is refused."""


class Error(Message, frozen=True, kw_only=True):
    """Why a request failed.

    ``code`` is a stable kebab-case word, ``message`` the reason, ``fix`` what to do, ``diagnostics`` the findings in
    what was sent, when there are any.
    """

    code: str
    message: str
    fix: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()


class Failure(Message, frozen=True, kw_only=True):
    """The body of every answer with a status of 400 or above: ``{"error": {...}}``."""

    error: Error


# Writing


class Document(Request, frozen=True, kw_only=True):
    """One file: ``file`` is the name that diagnostics carry, ``text`` its YAML, of one or more documents."""

    file: str
    text: str


class ApplyRequest(Request, frozen=True, kw_only=True):
    """Store all resources of all ``documents`` as one revision, or none; ``dry_run`` stores nothing."""

    documents: tuple[Document, ...]
    dry_run: bool = False


class DeleteRequest(Request, frozen=True, kw_only=True):
    """Delete ``refs`` and every resource that ``documents`` name, as one revision."""

    refs: tuple[Ref, ...] = ()
    documents: tuple[Document, ...] = ()
    dry_run: bool = False


class DiffRequest(Request, frozen=True, kw_only=True):
    """Compare ``documents`` with what is stored."""

    documents: tuple[Document, ...]


class Verb(StrEnum):
    """What became, or would become, of one resource."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


class Changed(Message, frozen=True, kw_only=True):
    """One resource and what became of it."""

    ref: Ref
    verb: Verb


class Impact(Message, frozen=True, kw_only=True):
    """The blast radius of a dry run for one connected workload.

    ``sentences`` say what would change for it, one change each: ``route outbound/shop/orders/80 sends 10 % to
    shop/orders-v2``.
    """

    workload: str
    proxy: str
    sentences: tuple[str, ...]


class Applied(Message, frozen=True, kw_only=True):
    """What an apply or a delete did.

    ``revision`` is the one that it made; the current one when nothing changed or it was a dry run. ``diagnostics`` are
    warnings only, as an error refuses all. ``impact`` is filled for dry runs: a workload that is not named would not
    change.
    """

    revision: int
    changed: tuple[Changed, ...]
    diagnostics: tuple[Diagnostic, ...] = ()
    is_dry_run: bool = False
    impact: tuple[Impact, ...] = ()


class Difference(Message, frozen=True, kw_only=True):
    """One resource that would change: ``lines`` are a unified diff of its YAML, stored against given."""

    ref: Ref
    verb: Verb
    lines: tuple[str, ...] = ()


class Differences(Message, frozen=True, kw_only=True):
    """What applying would change, unchanged resources left out, against ``revision``."""

    revision: int
    differences: tuple[Difference, ...]
    diagnostics: tuple[Diagnostic, ...] = ()


# Rollout


class Rejection(Message, frozen=True, kw_only=True):
    """One xDS resource that a proxy refused: its type, its name, the proxy's own ``words`` and the resources behind."""

    type_url: str
    name: str
    words: str
    refs: tuple[Ref, ...] = ()


class RolloutProxy(Message, frozen=True, kw_only=True):
    """One proxy of a rollout. ``waiting_for`` says what a pending one has not acknowledged or is still warming."""

    proxy: str
    workload: str
    machine: str = ""
    rejections: tuple[Rejection, ...] = ()
    waiting_for: str = ""


class RolloutState(StrEnum):
    """LIVE when nothing is pending or rejected; REJECTED as soon as one proxy refused; PENDING otherwise."""

    LIVE = "live"
    REJECTED = "rejected"
    PENDING = "pending"


class Rollout(Message, frozen=True, kw_only=True):
    """How far ``revision`` has come, over the proxies whose configuration it changed.

    ``live`` have acknowledged it and warm nothing; ``absent`` are registered but not connected and are not waited for.
    ``is_compiled`` is False while the control plane has not compiled the revision yet; the state is then PENDING.
    """

    revision: int
    state: RolloutState
    is_compiled: bool = True
    live: tuple[RolloutProxy, ...] = ()
    rejected: tuple[RolloutProxy, ...] = ()
    pending: tuple[RolloutProxy, ...] = ()
    absent: tuple[RolloutProxy, ...] = ()


# Reading


class Condition(Message, frozen=True, kw_only=True):
    """A status condition as the Gateway API names them: ``Accepted``, ``ResolvedRefs``, ``Programmed``."""

    type: str
    is_true: bool
    reason: str


class Item(Message, frozen=True, kw_only=True):
    """One stored resource.

    ``manifest`` is the resource as YAML would spell it, without defaults; the values of a Secret's data are never in
    it. ``revision`` last wrote it and ``created_revision`` made it.
    """

    ref: Ref
    revision: int
    created_revision: int
    manifest: dict[str, Any]
    conditions: tuple[Condition, ...] = ()


class Listing(Message, frozen=True, kw_only=True):
    """Resources of one kind, sorted by namespace and name, as of ``revision``."""

    revision: int
    items: tuple[Item, ...]


class Effective(Message, frozen=True, kw_only=True):
    """One field of the policy in force on a port of a Service, and which resource set it (``default`` for nobody)."""

    port: int
    field: str
    value: str
    origin: str


class EndpointRow(Message, frozen=True, kw_only=True):
    """One instance of a port of a Service: where it is reached, how it is and its weight (1 to 1000, 100 is fair)."""

    port: int
    workload: str
    address: str
    zone: str
    health: str
    weight: int
    is_mtls: bool = True


class ProxyRejection(Message, frozen=True, kw_only=True):
    """A proxy and what it refused."""

    proxy: str
    workload: str
    rejection: Rejection


class Description(Message, frozen=True, kw_only=True):
    """Everything known about one resource.

    ``effective`` and ``endpoints`` are filled for a Service, ``rejected`` for whatever some proxy refuses now.
    """

    item: Item
    conditions: tuple[Condition, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    effective: tuple[Effective, ...] = ()
    endpoints: tuple[EndpointRow, ...] = ()
    rejected: tuple[ProxyRejection, ...] = ()


# Status


class PortFact(Message, frozen=True, kw_only=True):
    """One port of a workload: where the application listens and where its proxy accepts mutual TLS (0 for none)."""

    name: str
    app_port: int
    mesh_port: int


class ProxyStatus(Message, frozen=True, kw_only=True):
    """One proxy, or one workload of a proxy that serves several.

    ``state`` is the workload's: STARTING, READY, UNHEALTHY, DRAINING; ``last_error`` the last words of its probe or
    its proxy. ``is_in_sync`` says that it holds what ``revision`` of the mesh gives it. ``is_connected`` False means
    that it is registered but has no stream; ``connected_since_at`` is then 0.0. ``is_silent``: its Envoy does not
    answer its agent, so whatever ``state`` says of the application, calls do not get there.
    """

    proxy: str
    workload: str
    service: str
    placement: str
    machine: str
    zone: str
    identity: str
    certificate_expires_at: float
    state: str
    is_connected: bool
    is_in_sync: bool
    revision: int
    address: str = ""
    ports: tuple[PortFact, ...] = ()
    last_error: str = ""
    rejections: tuple[Rejection, ...] = ()
    is_exposed: bool = False
    is_silent: bool = False
    envoy_version: str = ""
    connected_since_at: float = 0.0


class LeaseFacts(Message, frozen=True, kw_only=True):
    """Whether leases are counted now, how many expired ones are held back instead of removed, and why."""

    is_counting: bool
    held_back: int = 0
    reason: str = ""


class PlaneFacts(Message, frozen=True, kw_only=True):
    """The control plane itself: ``store`` names its store (``sqlite /path``), ``uptime`` is seconds.

    ``panics`` are sentences about Services without a healthy instance.
    """

    version: str
    revision: int
    store: str
    trust_domain: str
    uptime: float
    started_at: float
    data_folder: str = ""
    link_address: str = ""
    leases: LeaseFacts = LeaseFacts(is_counting=True)
    waiting_for: tuple[str, ...] = ()
    findings: tuple[Diagnostic, ...] = ()
    panics: tuple[str, ...] = ()


class MeshStatus(Message, frozen=True, kw_only=True):
    """The control plane and every proxy, sorted by workload."""

    plane: PlaneFacts
    proxies: tuple[ProxyStatus, ...]


# Events


class Event(Message, frozen=True, kw_only=True):
    """Something that happened: ``sequence`` grows by one, ``kind`` is a kebab-case word, ``about`` a Ref or a name.

    ``severity`` is ``info``, ``warning`` or ``error``.
    """

    sequence: int
    at: float
    kind: str
    severity: str
    about: str
    message: str


class EventPage(Message, frozen=True, kw_only=True):
    """Events with a sequence above the one asked for, oldest first. ``oldest`` is the first one still kept."""

    events: tuple[Event, ...]
    oldest: int
    latest: int
