"""Where a backendRef leads: to one port of one Service that may be referred to, or to nothing, with the reason.

Invariant: what cannot be resolved never becomes a destination; its share of requests gets a 500 (Gateway API).
"""

from collections.abc import Collection
from dataclasses import dataclass

from masche.compiler.grants import is_granted
from masche.compiler.protocol import ports
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name, PortRef
from masche.model.resources.gateway_api import API_VERSION
from masche.model.resources.references import BackendObjectReference

GATEWAY_GROUP = API_VERSION.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """Why a reference leads nowhere; ``reason`` is the Gateway API's word for it."""

    reason: str
    why: str
    fix: str


def resolve(
    mesh: Mesh,
    ref: BackendObjectReference,
    *,
    namespace: str,
    kind: Kind = Kind.HTTP_ROUTE,
    called: Collection[Name] = (),
) -> PortRef | Unresolved:
    """Follow a reference made by a route of ``kind`` in ``namespace``, for callers who call one of ``called`` by
    themselves: to send them where they meant to go needs no grant.
    """
    target = Name(ref.namespace or namespace, ref.name)
    if (ref.group, ref.kind) != ("", Kind.SERVICE):
        why = f"{ref.kind} of group {ref.group or 'core'!r} cannot be a backend"
        return Unresolved(reason="InvalidKind", why=why, fix="name a Service")
    source = (GATEWAY_GROUP, str(kind), namespace)
    if target not in called and not is_granted(
        mesh.reference_grants, source=source, group="", kind=Kind.SERVICE, target=target
    ):
        why = f"no ReferenceGrant of namespace {target.namespace} lets {kind}s of {namespace} refer to {target}"
        return Unresolved(reason="RefNotPermitted", why=why, fix=f"add a ReferenceGrant in {target.namespace}")
    return _port(mesh, target, ref.port)


def _port(mesh: Mesh, target: Name, number: int | None) -> PortRef | Unresolved:
    service = mesh.services.get(target)
    if service is None:
        return Unresolved(
            reason="BackendNotFound", why=f"there is no Service {target}", fix="create it, or correct the name"
        )
    known = [port.port for port in ports(service)]
    if number not in known:
        listed = ", ".join(map(str, known)) or "none"
        return Unresolved(
            reason="BackendNotFound", why=f"Service {target} has no TCP port {number}", fix=f"its ports: {listed}"
        )
    return PortRef(target.namespace, target.name, number)
