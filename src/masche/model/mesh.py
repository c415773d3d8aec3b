"""Every Resource and every discovered fact at one revision: immutable, shared, compared by identity.

A table that did not change between two revisions is the same object in both, which is how the compiler knows what it
need not do again.
"""

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from masche.model.frozen import frozen
from masche.model.refs import Name
from masche.model.resources.core import EndpointSlice, Namespace, Secret, Service
from masche.model.resources.fault_policy import FaultPolicy
from masche.model.resources.gateway_api import Gateway, GatewayClass, HTTPRoute, ReferenceGrant
from masche.model.resources.grpc_route import GRPCRoute
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.rate_limit_policy import RateLimitPolicy
from masche.model.resources.security import AuthorizationPolicy, PeerAuthentication
from masche.model.resources.traffic_policy import TrafficPolicy
from masche.model.resources.workload import Workload

Resource = (
    Namespace
    | Service
    | EndpointSlice
    | Secret
    | Workload
    | GatewayClass
    | Gateway
    | HTTPRoute
    | GRPCRoute
    | ReferenceGrant
    | AuthorizationPolicy
    | PeerAuthentication
    | TrafficPolicy
    | RateLimitPolicy
    | FaultPolicy
    | MeshConfig
)


def _empty() -> Mapping[Name, Any]:
    return MappingProxyType({})


@frozen
class Mesh:
    """The world at ``revision``. Tables map a Name to a resource; ``config`` is the effective MeshConfig."""

    revision: int = 0
    config: MeshConfig = field(default_factory=MeshConfig.default)
    namespaces: Mapping[Name, Namespace] = field(default_factory=_empty)
    services: Mapping[Name, Service] = field(default_factory=_empty)
    endpoint_slices: Mapping[Name, EndpointSlice] = field(default_factory=_empty)
    secrets: Mapping[Name, Secret] = field(default_factory=_empty, repr=False)
    workloads: Mapping[Name, Workload] = field(default_factory=_empty)
    gateway_classes: Mapping[Name, GatewayClass] = field(default_factory=_empty)
    gateways: Mapping[Name, Gateway] = field(default_factory=_empty)
    http_routes: Mapping[Name, HTTPRoute] = field(default_factory=_empty)
    grpc_routes: Mapping[Name, GRPCRoute] = field(default_factory=_empty)
    reference_grants: Mapping[Name, ReferenceGrant] = field(default_factory=_empty)
    authorization_policies: Mapping[Name, AuthorizationPolicy] = field(default_factory=_empty)
    peer_authentications: Mapping[Name, PeerAuthentication] = field(default_factory=_empty)
    traffic_policies: Mapping[Name, TrafficPolicy] = field(default_factory=_empty)
    rate_limit_policies: Mapping[Name, RateLimitPolicy] = field(default_factory=_empty)
    fault_policies: Mapping[Name, FaultPolicy] = field(default_factory=_empty)
