"""Names of things: what kind of resource, which one, and which port of which Service.

Everything here is a small immutable value that hashes and sorts, so that it can be a key everywhere.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The kinds of resource that people write, spelled as their API groups spell them."""

    NAMESPACE = "Namespace"
    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    SECRET = "Secret"  # noqa: S105 - the name of a kind, not a secret
    WORKLOAD = "Workload"
    GATEWAY_CLASS = "GatewayClass"
    GATEWAY = "Gateway"
    HTTP_ROUTE = "HTTPRoute"
    GRPC_ROUTE = "GRPCRoute"
    REFERENCE_GRANT = "ReferenceGrant"
    AUTHORIZATION_POLICY = "AuthorizationPolicy"
    PEER_AUTHENTICATION = "PeerAuthentication"
    TRAFFIC_POLICY = "TrafficPolicy"
    RATE_LIMIT_POLICY = "RateLimitPolicy"
    FAULT_POLICY = "FaultPolicy"
    MESH_CONFIG = "MeshConfig"


class Name(NamedTuple):
    """A namespaced name. Cluster-scoped kinds (Namespace, GatewayClass, MeshConfig) have the namespace ``""``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Points at one resource: ``HTTPRoute/shop/cart``."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{Name(self.namespace, self.name)}"


class PortRef(NamedTuple):
    """One port of one Service. Its ``path`` names the routes, cluster and endpoints that belong to it."""

    namespace: str
    service: str
    port: int

    @property
    def path(self) -> str:
        """The xDS name of everything outbound to this port: ``outbound/<namespace>/<service>/<port>``."""
        return f"outbound/{self.namespace}/{self.service}/{self.port}"

    @property
    def owner(self) -> Name:
        """The Service that has this port."""
        return Name(self.namespace, self.service)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}:{self.port}"

    @classmethod
    def parse(cls, path: str) -> "PortRef | None":
        """Read back a ``path``; None when the name is not one of ours."""
        match path.split("/"):
            case ["outbound", namespace, service, port] if port.isdecimal():
                return cls(namespace, service, int(port))
            case _:
                return None


class ForeignRef(PortRef):
    """A cluster by the ``name`` that another control plane gave it; it says nothing of a Service and its port."""

    __slots__ = ()

    @classmethod
    def named(cls, name: str) -> PortRef:
        """Return what a cluster's name points at: a port of a Service where the name is one of ours."""
        ours = PortRef.parse(name)
        return ours if ours is not None and ours.path == name else cls("", name, 0)

    @property
    def path(self) -> str:
        """The name, as it was given."""
        return self.service

    def __str__(self) -> str:
        return self.service


class Origin(NamedTuple):
    """Where a part of a View came from: a resource and the place in it, ``rules[0].matches[1]`` (or ``""``)."""

    ref: Ref
    where: str = ""

    def __str__(self) -> str:
        return f"{self.ref} {self.where}".rstrip()
