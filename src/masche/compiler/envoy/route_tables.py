"""Encode RouteConfigurations: one per (Service, port), one for the explicit proxy, one per port of a Gateway.

Decided from the Outbounds and the gateway listeners of a View. Routes are encoded once and their bytes joined, so that
the change of one HTTPRoute costs one table's worth of work, and nothing in the proxy's table but a copy. Invariant: no
name stands in two virtual hosts of one table, for Envoy would refuse the whole.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from masche.compiler.envoy import limits, on_demand, passthrough
from masche.compiler.envoy.failing import INSTANCE
from masche.compiler.envoy.inbound import DENIED
from masche.compiler.envoy.parts import INTERNAL_HEADERS, refs_of
from masche.compiler.envoy.rbac import http_rules
from masche.compiler.envoy.retries import UNREACHED
from masche.compiler.envoy.routes import ROUTE, cluster_name, refusal, routes, routes_together
from masche.compiler.remember import by_identity
from masche.model.blob import Blob
from masche.model.refs import Name, Origin, Ref
from masche.model.told import TUNNELS
from masche.model.view import GatewayListener, Inbound, Outbound, Route
from masche.wire import framing, stats, types
from masche.wire.framing import field, text
from masche.wire.messages import Body, encode

PROXY = "proxy"
"""The RouteConfiguration of the explicit HTTP proxy."""

PROXY_CONNECT = TUNNELS
"""The cluster, and the internal listener behind it, in which a CONNECT to an HTTP service ends."""

NEVER_PROXIED = (
    "localhost",
    "localhost:*",
    "127.*",
    "0.*",
    "169.254.*",
    "[::1]",
    "[::1]:*",
    "[::]",
    "[::]:*",
    "[fe80:*",
    "[::ffff:*",
)
"""Domains by which a caller could reach what is meant for this host alone."""

_TOGETHER = "on-demand"
"""The beginning of the names of virtual hosts that many Services share."""

_IGNORE_PORT = b"\x70\x01"
"""``RouteConfiguration.ignore_port_in_host_matching`` (number 14), true."""

_HIDDEN = b"".join(text(5, name) for name in (UNREACHED, stats.SERVICE_HEADER, INSTANCE)) + b"".join(
    text(8, name) for name in INTERNAL_HEADERS
)
"""Words between proxies: ``response_headers_to_remove`` (number 5) and ``request_headers_to_remove`` (number 8)."""

_TABLE = "envoy.config.route.v3.RouteConfiguration"

_DO_NOT_VALIDATE = field(7, b"")
"""``validate_clusters`` (number 7), false: routes come after clusters, and an invalid backend's never comes."""


@lru_cache(maxsize=65_536)
def service_table(outbound: Outbound) -> Blob:
    """Return the table of one (Service, port).

    Whoever is sent here has chosen the Service, so any host will do, and it is rewritten to the Service's name.
    """
    name = outbound.service.path
    hosts = virtual_host(
        name, ("*",), table_of(outbound.routes, f"{outbound.service.service}.{outbound.service.namespace}")
    )
    return configuration(name, (hosts,), refs_of_outbound(outbound))


def proxy_table(outbounds: Iterable[Outbound], *, is_registry_only: bool) -> Blob:
    """Return the table of the explicit proxy: the mesh by its names, and what happens to everything else."""
    taken: set[str] = set()
    hosts = [_refused_host()]
    taken.update(NEVER_PROXIED)
    refs: set[Ref] = set()
    for outbound in outbounds:
        domains = _untaken(_domains(outbound), taken)
        if domains:
            hosts.append(_named_host(outbound, domains))
            refs |= refs_of_outbound(outbound)
    hosts.append(_other_host(is_registry_only=is_registry_only))
    return configuration(PROXY, hosts, frozenset(refs))


def narrowed_proxy_table(
    outbounds: tuple[Outbound, ...], *, given: Collection[Name], namespace: str, is_registry_only: bool
) -> Blob:
    """Return the same table for a caller of a large mesh: only the Services ``given``, and those with a rule of their
    own, have a virtual host of their own."""
    entries, refs, chooser = _entries(outbounds, namespace)
    hosts = [_refused_host()]
    together: defaultdict[Route, list[bytes]] = defaultdict(list)
    for each in entries:
        if each.kind is None or each.outbound.service.owner in given:
            hosts.append(_named_host(each.outbound, each.domains))
        else:
            together[each.kind].append(each.encoded)
    for number, (kind, some) in enumerate(together.items()):
        ways = _connect(PROXY_CONNECT) + routes_together(kind, on_demand.CHOSEN)
        hosts.append(virtual_host(f"{_TOGETHER}/{number}", (), b"".join(some) + ways))
    hosts.append(_other_host(is_registry_only=is_registry_only))
    return configuration(PROXY, hosts, refs, chooser)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One Outbound in a table of many: the names that are its own, also encoded, and of which kind it is, if of any."""

    outbound: Outbound
    domains: tuple[str, ...]
    encoded: bytes
    kind: Route | None


@by_identity
def _entries(outbounds: tuple[Outbound, ...], namespace: str) -> tuple[tuple[_Entry, ...], frozenset[Ref], bytes]:
    """What does not depend on what is given: an entry for each with a name, all resources, and the chooser."""
    taken: set[str] = set(NEVER_PROXIED)
    named = ((each, _untaken(_domains(each), taken)) for each in outbounds)
    entries = tuple(
        _Entry(each, domains, b"".join(text(2, domain) for domain in domains), on_demand.kind_of(each))
        for each, domains in named
        if domains
    )
    refs = frozenset(chain.from_iterable(refs_of_outbound(each) for each in outbounds))
    chooser = on_demand.chooser(namespace, (each.outbound for each in entries if each.kind is not None))
    return entries, refs, encode(_TABLE, {"cluster_specifier_plugins": [chooser]})


def gateway_table(listener: GatewayListener, received: Inbound | None = None) -> Blob:
    """Return the table of one port of a Gateway, whose virtual hosts go by name, with the policies and limits that hold
    there as it is ``received``."""
    held = received or Inbound()
    taken: set[str] = set()
    hosts: list[bytes] = []
    origins: list[Origin] = list(listener.origins)
    for index, host in enumerate(listener.virtual_hosts):
        domains = _untaken((domain.lower() for domain in host.hosts), taken)
        if domains:
            hosts.append(virtual_host(f"{listener.name}/{index}", domains, table_of(host.routes)))
        origins += (origin for route in host.routes for origin in route.origins)
    origins += (origin for rule in (*held.policies, *held.limits) for origin in rule.origins)
    # Which rule refused is for callers of the mesh alone.
    asked: Body = {**http_rules(held.policies, listener.port), **limits.by_table(held.limits)}
    rules = encode(_TABLE, {"typed_per_filter_config": asked}) + text(5, DENIED)
    return configuration(f"gateway/{listener.port}", hosts, refs_of(origins), _IGNORE_PORT + rules)


def _untaken(domains: Iterable[str], taken: set[str]) -> tuple[str, ...]:
    """Return the domains that no virtual host of the table has yet, each once, and take them."""
    found = tuple(domain for domain in dict.fromkeys(domains) if domain not in taken)
    taken.update(found)
    return found


def virtual_host(name: str, domains: Iterable[str], table: bytes) -> bytes:
    """Return the field ``virtual_hosts`` (number 2) around routes that are encoded already."""
    return field(2, text(1, name) + b"".join(text(2, domain) for domain in domains) + table)


def configuration(name: str, hosts: Iterable[bytes], refs: frozenset[Ref], more: bytes = b"") -> Blob:
    """Return a table of virtual hosts, and of ``more`` fields, that are encoded already."""
    body = text(1, name) + b"".join(hosts) + _HIDDEN + _DO_NOT_VALIDATE + more
    return framing.blob(types.ROUTES, name, body, refs)


def table_of(source: tuple[Route, ...], authority: str = "", *, is_shared: bool = False) -> bytes:
    """Return the routes of a virtual host, which rewrite the authority unless it is ``""``."""
    return b"".join(routes(each, authority, is_shared=is_shared) for each in source)


def refs_of_outbound(outbound: Outbound) -> frozenset[Ref]:
    """Return the resources that a way out came from."""
    return refs_of((*outbound.origins, *(origin for route in outbound.routes for origin in route.origins)))


def _domains(outbound: Outbound) -> tuple[str, ...]:
    """Names with their port, and without where a bare name means this port."""
    port = outbound.service.port
    numbered = tuple(f"{host}:{port}".lower() for host in outbound.hosts)
    return numbered + (tuple(host.lower() for host in outbound.hosts) if outbound.answers_bare else ())


@lru_cache(maxsize=65_536)
def _named_host(outbound: Outbound, domains: tuple[str, ...]) -> bytes:
    name = outbound.service.path
    if outbound.protocol.is_http:
        return virtual_host(name, domains, _connect(PROXY_CONNECT) + table_of(outbound.routes))
    backends = tuple(backend for backend in outbound.backends if backend.weight > 0)
    tunnel = _connect_weighted(tuple((cluster_name(each.cluster), each.weight) for each in backends))
    why = f"{outbound.service} speaks TCP: open a tunnel with CONNECT"
    return virtual_host(
        name, domains, tunnel + _route({"match": {"prefix": "/"}, "direct_response": refusal(400, why)})
    )


def _refused_host() -> bytes:
    why = passthrough.WHY_NEVER
    return virtual_host("refused", NEVER_PROXIED, _connect_refused(why) + answer(403, why))


def _other_host(*, is_registry_only: bool) -> bytes:
    refused = _connect_refused("CONNECT is for services of the mesh; reach other hosts directly")
    if is_registry_only:
        rest = answer(502, "not a service of the mesh, and outboundTrafficPolicy is REGISTRY_ONLY")
    else:
        # How long a stranger may be silent is between the application and the stranger.
        action: Body = {"cluster": passthrough.NAME, "timeout": 0, "idle_timeout": 0}
        rest = _route({"match": {"prefix": "/"}, "route": action, "typed_per_filter_config": passthrough.AWAKE})
    return virtual_host(passthrough.NAME, ("*",), refused + rest)


@lru_cache(maxsize=64)
def answer(status: int, why: str) -> bytes:
    """Return a route that answers whatever comes on the spot."""
    return _route({"match": {"prefix": "/"}, "direct_response": refusal(status, why)})


@lru_cache(maxsize=64)
def _connect_refused(why: str) -> bytes:
    return _route({"match": {"connect_matcher": {}}, "direct_response": refusal(403, why)})


@lru_cache(maxsize=64)
def _connect(cluster: str) -> bytes:
    return _connect_weighted(((cluster, 1),))


def _connect_weighted(clusters: tuple[tuple[str, int], ...]) -> bytes:
    """End a CONNECT here and send its bytes on."""
    if not clusters:
        return _connect_refused("no backend takes this connection")
    weighted: Body = {"clusters": [{"name": name, "weight": weight} for name, weight in clusters]}
    action: Body = {
        "weighted_clusters": weighted,
        "timeout": 0,
        # What flows in a tunnel is watched where it ends.
        "idle_timeout": 0,
        "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
    }
    return _route({"match": {"connect_matcher": {}}, "route": action})


def _route(body: Body) -> bytes:
    return field(3, encode(ROUTE, body))
