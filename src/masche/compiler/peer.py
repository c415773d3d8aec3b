"""Must callers of a workload show a certificate? The effective PeerAuthentication, per workload and per port.

Istio's order: a policy that selects the workload, one for its namespace, one for the mesh (of the root namespace), the
MeshConfig; UNSET inherits, the oldest wins among equals. With nothing written it is what
the MeshConfig says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from masche.compiler.precedence import age
from masche.compiler.selection import matches
from masche.model.mesh import Mesh
from masche.model.refs import Origin
from masche.model.resources.security import MutualTLS, PeerAuthentication, PeerMode
from masche.model.view import MtlsMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """The mode of a workload, those of single application ports, and where they come from."""

    mode: MtlsMode
    ports: tuple[tuple[int, MtlsMode], ...]
    origins: tuple[Origin, ...]


def effective(mesh: Mesh, *, namespace: str, labels: Mapping[str, str]) -> Authentication:
    """Return what holds for workloads of a namespace with these labels."""
    root = mesh.config.spec.root_namespace
    by_age = sorted(mesh.peer_authentications.values(), key=_seniority)
    mine = [each for each in by_age if each.metadata.namespace == namespace and _is_selective(each)]
    own = _first(each for each in mine if namespace != root and matches(_selector(each), labels))
    general = [each for each in by_age if not _is_selective(each)]
    wide = _first(each for each in general if each.metadata.namespace == namespace != root)
    everywhere = _first(each for each in general if each.metadata.namespace == root)
    inherited = _mode(everywhere) or mesh.config.spec.mtls
    inherited = _mode(wide) or inherited
    mode = _mode(own) or inherited
    ports: Mapping[int, MutualTLS] = own.spec.port_level_mtls if own else {}
    return Authentication(
        mode=mode,
        ports=tuple(sorted((port, _written(each.mode) or mode) for port, each in ports.items())),
        origins=tuple(Origin(each.ref, "spec.mtls") for each in (own, wide, everywhere) if each)
        or (Origin(mesh.config.ref, "spec.mtls"),),
    )


def _seniority(policy: PeerAuthentication) -> tuple[bool, float, str]:
    return (*age(policy.metadata.creation_timestamp), str(policy.name))


def _selector(policy: PeerAuthentication) -> Mapping[str, str]:
    return policy.spec.selector.match_labels if policy.spec.selector else {}


def _is_selective(policy: PeerAuthentication) -> bool:
    return bool(_selector(policy))


def _first(policies: Iterable[PeerAuthentication]) -> PeerAuthentication | None:
    return next(iter(policies), None)


def _mode(policy: PeerAuthentication | None) -> MtlsMode | None:
    return _written(policy.spec.mtls.mode) if policy and policy.spec.mtls else None


def _written(mode: PeerMode) -> MtlsMode | None:
    """A mode that somebody wrote; UNSET is none."""
    match mode:
        case PeerMode.UNSET:
            return None
        case PeerMode.STRICT:
            return MtlsMode.STRICT
        case PeerMode.PERMISSIVE:
            return MtlsMode.PERMISSIVE
        case PeerMode.DISABLE:
            return MtlsMode.DISABLE
        case _:
            assert_never(mode)
