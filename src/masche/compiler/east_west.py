"""The gateways between zones: which Workloads are gateways, who they are, and where they may lead.

A gateway is a Workload of the root namespace with the service account and the label below, so nobody becomes one who
may not write there, or run that account. Invariant: a gateway leads to nothing but a port at which an instance of the
mesh takes mutual TLS, and never to another gateway.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Literal, NamedTuple

from masche.compiler.names import spiffe_id
from masche.compiler.remember import by_identity
from masche.compiler.selection import roster
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.workload import Workload, WorkloadPort, WorkloadState

LABEL, EAST_WEST = "masche.dev/gateway", "east-west"
"""The label of a gateway between zones, and its value."""

ACCOUNT = "east-west"
"""The service account of every gateway between zones: what a machine must be allowed to run."""

PORT = 15008
"""The port of such a Workload at which tunnels are opened; ``meshPort`` says where that really is."""


Scope = Literal["network", "loopback", "nowhere"]
"""From where an address can be reached."""


class Gateway(NamedTuple):
    """One gateway: the Workload, and the ``host:port`` where it takes tunnels."""

    workload: Workload
    via: str


class Reach(NamedTuple):
    """Where tunnels may lead, as ``host:port``, sorted: over the network, and on the gateway's own machine alone."""

    network: tuple[str, ...] = ()
    loopback: tuple[str, ...] = ()


def authority(host: str, port: int) -> str:
    """Write ``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_east_west(mesh: Mesh, workload: Workload) -> bool:
    """Say whether the Workload is a gateway between zones, whatever its state."""
    return (
        workload.metadata.namespace == mesh.config.spec.root_namespace
        and workload.metadata.labels.get(LABEL) == EAST_WEST
        and workload.spec.service_account == ACCOUNT
    )


def identities(mesh: Mesh) -> tuple[str, ...]:
    """Return the SPIFFE IDs that gateways between zones show; empty when there is none."""
    spec = mesh.config.spec
    return (
        (spiffe_id(spec.trust_domain, spec.root_namespace, ACCOUNT),) if _members(mesh.workloads, mesh.config) else ()
    )


def gateways(mesh: Mesh) -> Mapping[str, tuple[Gateway, ...]]:
    """Return the gateways that take new tunnels now, by zone, sorted by name. One without a zone is on no way."""
    return _by_zone(mesh.workloads, mesh.config)


@by_identity
def _by_zone(workloads: Mapping[Name, Workload], config: MeshConfig) -> Mapping[str, tuple[Gateway, ...]]:
    found: defaultdict[str, list[Gateway]] = defaultdict(list)
    for each in _members(workloads, config):
        if each.spec.zone and each.state is WorkloadState.READY:
            found[each.spec.zone].append(Gateway(each, authority(each.spec.address, _port(each))))
    return {zone: tuple(some) for zone, some in found.items()}


def _members(workloads: Mapping[Name, Workload], config: MeshConfig) -> tuple[Workload, ...]:
    labelled = roster(workloads).labelled(config.spec.root_namespace, LABEL, EAST_WEST)
    return tuple(each for each in labelled if each.spec.service_account == ACCOUNT)


def _port(gateway: Workload) -> int:
    return next((_mesh_port(port) for port in gateway.spec.ports), PORT)


def _mesh_port(port: WorkloadPort) -> int:
    return port.mesh_port or port.port


def reach(mesh: Mesh) -> Reach:
    """Return where tunnels may lead: to every port at which a Workload takes mutual TLS, and nowhere else.

    Loopback is kept apart: only who is on the machine already may be led to its loopback. What no machine of the mesh
    can have as its address (link-local, so that of a cloud's metadata too, multicast, unspecified) is in neither.
    """
    return _reach(mesh.workloads, mesh.config)


@by_identity
def _reach(workloads: Mapping[Name, Workload], config: MeshConfig) -> Reach:
    gateways_too = {each.name for each in _members(workloads, config)}
    found: dict[Scope, set[str]] = {"network": set(), "loopback": set(), "nowhere": set()}
    for name, workload in workloads.items():
        if name not in gateways_too and workload.spec.tls == "MUTUAL" and workload.state is not WorkloadState.STARTING:
            host = workload.spec.address
            found[_scope(host)].update(authority(host, _mesh_port(port)) for port in workload.spec.ports)
    return Reach(network=tuple(sorted(found["network"])), loopback=tuple(sorted(found["loopback"])))


@lru_cache(maxsize=131_072)
def _scope(host: str) -> Scope:
    """Say from where an address can be reached; an IPv4 address in IPv6's clothes is judged as what it is."""
    try:
        address = ip_address(host)
    except ValueError:
        return "nowhere"
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return "loopback"
    return "nowhere" if address.is_link_local or address.is_multicast or address.is_unspecified else "network"
