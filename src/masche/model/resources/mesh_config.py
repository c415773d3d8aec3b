"""MeshConfig: what holds for the whole mesh. There is one, named ``default``."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field

from masche.model.refs import Kind
from masche.model.resources.meta import Manifest, ObjectMeta, Part
from masche.model.resources.scalars import DnsName, NamespaceName
from masche.model.resources.traffic_policy import TrafficSettings
from masche.model.view import MtlsMode

ON_DEMAND_ABOVE = 50
"""Services: more than most workloads call, and few enough to be held by all, so that no first call waits."""


class OutboundTrafficPolicy(StrEnum):
    """What happens to calls that leave the mesh."""

    ALLOW_ANY = "ALLOW_ANY"
    REGISTRY_ONLY = "REGISTRY_ONLY"


class SameMachine(StrEnum):
    """How two workloads of one node proxy reach each other: within it, or by mutual TLS as from afar."""

    LOCAL = "local"
    TLS = "tls"


class MeshConfigSpec(Part):
    """``mtls`` acts as a PeerAuthentication of the root namespace; ``defaults`` as the weakest TrafficPolicy.

    A workload that may call more Services than ``onDemandAbove`` is given those that it called lately, and the others
    when it first calls them.
    """

    trust_domain: DnsName = "mesh.local"
    root_namespace: NamespaceName = "masche-system"
    mtls: MtlsMode = MtlsMode.STRICT
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy.ALLOW_ANY
    same_machine: SameMachine = SameMachine.LOCAL
    defaults: TrafficSettings = TrafficSettings()
    on_demand_above: Annotated[int, Field(ge=0, le=100_000)] = ON_DEMAND_ABOVE


class MeshConfig(Manifest):
    """Mesh-wide settings."""

    api_version: ClassVar[str] = "masche.dev/v1"
    kind: ClassVar[Kind] = Kind.MESH_CONFIG
    is_namespaced: ClassVar[bool] = False
    NAME: ClassVar[str] = "default"

    spec: MeshConfigSpec = MeshConfigSpec()

    @classmethod
    def default(cls) -> Self:
        """The configuration of a mesh that nobody configured."""
        return cls(metadata=ObjectMeta(name=cls.NAME))
