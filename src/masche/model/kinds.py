"""Which kinds there are: by which group and versions they are written, their type and the rules that hold for them.

A kind that others know and masche does not carry out has an entry too, so that its author learns what to do instead.
"""

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType

from masche.model import (
    validate_core,
    validate_faults,
    validate_gateways,
    validate_limits,
    validate_mesh,
    validate_routes,
    validate_security,
)
from masche.model.frozen import frozen
from masche.model.resources.core import EndpointSlice, Namespace, Secret, Service
from masche.model.resources.fault_policy import FaultPolicy
from masche.model.resources.gateway_api import Gateway, GatewayClass, HTTPRoute, ReferenceGrant
from masche.model.resources.grpc_route import GRPCRoute
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.meta import Manifest, Part
from masche.model.resources.other_routes import TCPRoute, TLSRoute
from masche.model.resources.rate_limit_policy import RateLimitPolicy
from masche.model.resources.references import GROUP
from masche.model.resources.security import AuthorizationPolicy, PeerAuthentication
from masche.model.resources.traffic_policy import TrafficPolicy
from masche.model.resources.workload import Workload
from masche.model.spot import Beyond, Findings, Rules, Spot


def _no_rules(_spot: Spot) -> Findings:
    yield from ()


@frozen
class Entry:
    """One kind. ``manifest`` is None for kinds that are checked and then refused as not carried out."""

    kind: str
    group: str
    api_versions: tuple[str, ...]
    shape: type[Part]
    manifest: type[Manifest] | None
    rules: Rules = _no_rules
    beyond: Beyond = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_namespaced(self) -> bool:
        """Whether its resources live in a namespace."""
        return self.manifest is None or self.manifest.is_namespaced


def _carried(manifest: type[Manifest], rules: Rules = _no_rules, beyond: Beyond | None = None, *others: str) -> Entry:
    group, _, version = manifest.api_version.rpartition("/")
    has_status = "status" in manifest.model_fields
    common: Beyond = {**validate_core.METADATA_BEYOND, **({} if has_status else validate_core.STATUS_BEYOND)}
    return Entry(
        kind=str(manifest.kind),
        group=group,
        api_versions=tuple(f"{group}/{one}" if group else one for one in (version, *others)),
        shape=manifest,
        manifest=manifest,
        rules=rules,
        beyond={**common, **(beyond or {})},
    )


def _checked(kind: str, shape: type[Part], rules: Rules, *versions: str) -> Entry:
    beyond: Beyond = {**validate_core.METADATA_BEYOND, **validate_core.STATUS_BEYOND}
    return Entry(
        kind=kind,
        group=GROUP,
        api_versions=tuple(f"{GROUP}/{version}" for version in versions),
        shape=shape,
        manifest=None,
        rules=rules,
        beyond=beyond,
    )


_SECURITY_BEYOND: Beyond = {
    ("spec", "provider"): lambda spot: spot.not_carried_out("an authorization provider", "remove it"),
    ("spec", "targetRef"): lambda spot: spot.not_carried_out("targetRef", "write targetRefs, a list"),
}

ENTRIES = (
    _carried(Namespace, validate_core.namespace, validate_core.NAMESPACE_BEYOND),
    _carried(Service, validate_core.service, validate_core.SERVICE_BEYOND),
    _carried(EndpointSlice, validate_core.endpoint_slice, validate_core.SLICE_BEYOND),
    _carried(Secret, validate_core.secret, validate_core.SECRET_BEYOND),
    _carried(Workload, validate_mesh.workload),
    _carried(GatewayClass, validate_gateways.gateway_class, None, "v1beta1"),
    _carried(Gateway, validate_gateways.gateway, None, "v1beta1"),
    _carried(HTTPRoute, validate_routes.http_route, None, "v1beta1"),
    _carried(GRPCRoute, validate_routes.grpc_route, None, "v1alpha2"),
    _carried(ReferenceGrant, _no_rules, None, "v1beta1"),
    _carried(AuthorizationPolicy, validate_security.authorization_policy, _SECURITY_BEYOND, "v1beta1"),
    _carried(PeerAuthentication, validate_security.peer_authentication, None, "v1beta1"),
    _carried(TrafficPolicy, validate_mesh.traffic_policy, validate_mesh.TRAFFIC_BEYOND),
    _carried(RateLimitPolicy, validate_limits.rate_limit_policy, validate_limits.LIMITS_BEYOND),
    _carried(FaultPolicy, validate_faults.fault_policy),
    _carried(MeshConfig, validate_mesh.mesh_config),
    _checked("TCPRoute", TCPRoute, validate_routes.stream_route, "v1", "v1alpha2"),
    _checked("TLSRoute", TLSRoute, validate_routes.stream_route, "v1", "v1alpha3", "v1alpha2"),
)
BY_KIND = MappingProxyType({entry.kind: entry for entry in ENTRIES})
CARRIED = tuple(entry.kind for entry in ENTRIES if entry.manifest)
MANIFESTS = MappingProxyType({entry.kind: entry.manifest for entry in ENTRIES if entry.manifest})

_RUN = "start the application with `masche run --service NAME --port N -- COMMAND`, or write a Workload for it"
_LATER = "remove it from this file"
WORKLOAD_KINDS = frozenset(
    {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Pod", "Job", "CronJob"}
)


def not_carried_out(kind: str) -> tuple[str, str] | None:
    """Why a kind that others know is not carried out, and what to do; None for kinds that nobody knows."""
    if kind in WORKLOAD_KINDS:
        return f"masche does not run workloads, so {kind} is not carried out", _RUN
    return _ELSEWHERE.get(kind)


_ELSEWHERE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        **{
            kind: (f"{kind} is not carried out yet", _LATER)
            for kind in (
                "TCPRoute", "TLSRoute", "UDPRoute", "ListenerSet", "BackendTLSPolicy",
                "RequestAuthentication", "Telemetry", "ExternalService",
            )
        },
        **{
            kind: (f"{kind} is not carried out; the same is said with Gateway API resources", "write an HTTPRoute")
            for kind in ("VirtualService", "Ingress", "TrafficSplit", "ServiceRouter", "ServiceSplitter")
        },
        "DestinationRule": ("DestinationRule is not carried out", "write a TrafficPolicy"),
        "ServiceEntry": ("ServiceEntry is not carried out", _LATER),
        "WorkloadEntry": ("WorkloadEntry is not carried out", "write a Workload"),
        "Sidecar": ("Sidecar is not carried out", "write spec.dependencies of the Workload"),
        "ServiceAccount": ("a ServiceAccount needs no resource here: the name alone is the identity", _LATER),
        **{
            kind: (f"{kind} belongs to Kubernetes and has no meaning here", _LATER)
            for kind in ("ConfigMap", "NetworkPolicy", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding",
                         "PersistentVolumeClaim", "HorizontalPodAutoscaler", "PodDisruptionBudget",
                         "CustomResourceDefinition")
        },
    }
)  # fmt: skip
