"""Folds what a Source says into the next Mesh, and says what that touched. Pure.

Only the tables that a Change touches become new objects; when nothing differs, the Mesh is the same object and nobody
downstream has anything to do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from masche.model.mesh import Mesh, Resource
from masche.model.ports import Change, Snapshot
from masche.model.refs import Kind, Name, Ref
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.workload import Workload

TABLES: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.NAMESPACE: "namespaces",
        Kind.SERVICE: "services",
        Kind.ENDPOINT_SLICE: "endpoint_slices",
        Kind.SECRET: "secrets",
        Kind.WORKLOAD: "workloads",
        Kind.GATEWAY_CLASS: "gateway_classes",
        Kind.GATEWAY: "gateways",
        Kind.HTTP_ROUTE: "http_routes",
        Kind.GRPC_ROUTE: "grpc_routes",
        Kind.REFERENCE_GRANT: "reference_grants",
        Kind.AUTHORIZATION_POLICY: "authorization_policies",
        Kind.PEER_AUTHENTICATION: "peer_authentications",
        Kind.TRAFFIC_POLICY: "traffic_policies",
        Kind.RATE_LIMIT_POLICY: "rate_limit_policies",
        Kind.FAULT_POLICY: "fault_policies",
    }
)
"""The table of the Mesh that holds each kind; MeshConfig is ``Mesh.config``."""

Wanted = dict[Ref, Resource | None]


def from_snapshot(snapshot: Snapshot) -> Mesh:
    """The Mesh that a snapshot describes."""
    mesh = _fold(Mesh(), {entry.ref: entry.resource for entry in snapshot.entries}, snapshot.revision)
    return replace(mesh, revision=snapshot.revision)


def merge(mesh: Mesh, change: Change) -> Mesh:
    """The Mesh after ``change``; the same object when nothing differs."""
    return merge_all(mesh, (change,))


def merge_all(mesh: Mesh, changes: Iterable[Change]) -> Mesh:
    """The Mesh after several Changes in order, each touched table copied once; the same object when nothing differs."""
    wanted: Wanted = {}
    revision = mesh.revision
    for change in changes:
        wanted.update((entry.ref, entry.resource) for entry in change.entries)
        wanted.update((ref, None) for ref in change.deleted)
        revision = change.revision
    return _fold(mesh, wanted, revision)


def _fold(mesh: Mesh, wanted: Wanted, revision: int) -> Mesh:
    by_kind: dict[Kind, dict[Name, Resource | None]] = {}
    for ref, resource in wanted.items():
        by_kind.setdefault(ref.kind, {})[Name(ref.namespace, ref.name)] = resource
    config = _config(mesh.config, by_kind.pop(Kind.MESH_CONFIG, {}))
    differing: dict[str, Any] = {} if config is mesh.config else {"config": config}
    for kind, edits in by_kind.items():
        before: Mapping[Name, Any] = getattr(mesh, TABLES[kind])
        after = _table(before, edits)
        if after is not before:
            differing[TABLES[kind]] = after
    return replace(mesh, revision=revision, **differing) if differing else mesh


def _table(before: Mapping[Name, Any], edits: Mapping[Name, Resource | None]) -> Mapping[Name, Any]:
    differing = {name: resource for name, resource in edits.items() if before.get(name) != resource}
    if not differing:
        return before
    after = {**before, **differing}
    for name, resource in differing.items():
        if resource is None:
            del after[name]
    return MappingProxyType(after)


def _config(before: MeshConfig, edits: Mapping[Name, Resource | None]) -> MeshConfig:
    """Only the one named ``default`` counts; without it the defaults hold."""
    name = Name("", MeshConfig.NAME)
    if name not in edits:
        return before
    after = edits[name]
    config = after if isinstance(after, MeshConfig) else MeshConfig.default()
    return before if before == config else config


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """What differs between two Meshes: kinds whose table differs, and the Workloads that came, went or changed."""

    kinds: frozenset[Kind] = frozenset()
    workloads: frozenset[Name] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.kinds)


def touched(before: Mesh, after: Mesh) -> Touched:
    """Compare two Meshes table by table, by identity, and their Workloads one by one."""
    kinds = {kind for kind, table in TABLES.items() if getattr(before, table) is not getattr(after, table)}
    if before.config is not after.config:
        kinds.add(Kind.MESH_CONFIG)
    workloads = _differing(before.workloads, after.workloads) if Kind.WORKLOAD in kinds else frozenset[Name]()
    return Touched(kinds=frozenset(kinds), workloads=workloads)


def _differing(before: Mapping[Name, Workload], after: Mapping[Name, Workload]) -> frozenset[Name]:
    changed = [name for name, workload in after.items() if before.get(name) is not workload]
    gone = before.keys() - after.keys() if len(before) + len(changed) > len(after) else ()
    return frozenset((*changed, *gone))


Shape = tuple[object, ...]


def _shape(workload: Workload) -> Shape:
    """Everything about a Workload that a View may depend on: who it is, what selects it and what it offers.

    Not its address, zone, proxy or state: these are the business of endpoints.
    """
    spec, metadata = workload.spec, workload.metadata
    ports = tuple((port.name, port.port, port.protocol) for port in spec.ports)
    return (
        metadata.namespace,
        spec.service_account,
        metadata.labels,
        ports,
        spec.tls,
        spec.placement,
        spec.dependencies,
    )


def endpoints_only(before: Mesh, after: Mesh) -> bool:
    """Whether every View of ``before`` still holds in ``after``, so that only endpoints need to be made anew.

    So it is when nothing but Workloads differs and each of those that came, went or changed has, or leaves behind, a
    twin: another Workload of the same shape (namespace, service account, labels, ports, TLS, placement, dependencies).
    A new replica, a replica that leaves and a change of health are of this sort; the first and the last of a kind are
    not. EndpointSlices may differ in their endpoints alone.
    """
    what = touched(before, after)
    if not what.kinds <= {Kind.WORKLOAD, Kind.ENDPOINT_SLICE} or _outlines(before) != _outlines(after):
        return False
    lost = {_shape(w) for name in what.workloads if (w := before.workloads.get(name))}
    found = {_shape(w) for name in what.workloads if (w := after.workloads.get(name))}
    return _all_present(lost - found, after) and _all_present(found - lost, before)


def _outlines(mesh: Mesh) -> dict[Name, Shape]:
    return {
        name: (piece.service, piece.address_type, piece.ports, bool(piece.endpoints))
        for name, piece in mesh.endpoint_slices.items()
    }


def _all_present(shapes: set[Shape], mesh: Mesh) -> bool:
    if not shapes:
        return True
    accounts = {(shape[0], shape[1]) for shape in shapes}
    missing = set(shapes)
    for workload in mesh.workloads.values():
        if (workload.metadata.namespace, workload.spec.service_account) in accounts:
            missing.discard(_shape(workload))
            if not missing:
                return True
    return False
