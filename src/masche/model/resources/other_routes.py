"""Routes of the Gateway API that are validated and not carried out yet: GRPCRoute, TCPRoute and TLSRoute.

They are Parts, not Manifests: nothing but the validation ever sees one.
"""

from typing import Annotated, Literal

from pydantic import Field

from masche.model.resources.gateway_api import (
    HTTPHeaderFilter,
    HTTPRequestMirrorFilter,
    SessionPersistence,
    Weight,
)
from masche.model.resources.meta import ObjectMeta, Part
from masche.model.resources.references import BackendObjectReference, LocalObjectReference, ParentReference
from masche.model.resources.scalars import HeaderName, Hostname, SectionName

ParentRefs = Annotated[tuple[ParentReference, ...], Field(max_length=32)]
Hostnames = Annotated[tuple[Hostname, ...], Field(max_length=16)]


class GRPCMethodMatch(Part):
    """A gRPC service, a method, or both."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    service: Annotated[str, Field(max_length=1024)] | None = None
    method: Annotated[str, Field(max_length=1024)] | None = None


class GRPCHeaderMatch(Part):
    """A header that must be there with this value."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: Annotated[str, Field(min_length=1, max_length=4096)]


class GRPCRouteMatch(Part):
    """All conditions must hold."""

    method: GRPCMethodMatch | None = None
    headers: Annotated[tuple[GRPCHeaderMatch, ...], Field(max_length=16)] = ()


class GRPCRouteFilter(Part):
    """One step between the match and the backend."""

    type: Literal["ResponseHeaderModifier", "RequestHeaderModifier", "RequestMirror", "ExtensionRef"]
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    extension_ref: LocalObjectReference | None = None


class BackendRef(BackendObjectReference):
    """A weighted backend."""

    weight: Weight = 1


class GRPCBackendRef(BackendRef):
    """A weighted backend with filters of its own."""

    filters: Annotated[tuple[GRPCRouteFilter, ...], Field(max_length=16)] = ()


class GRPCRouteRule(Part):
    """Any of ``matches`` -> ``filters`` -> one of ``backend_refs`` by weight."""

    name: SectionName | None = None
    matches: Annotated[tuple[GRPCRouteMatch, ...], Field(max_length=64)] = ()
    filters: Annotated[tuple[GRPCRouteFilter, ...], Field(max_length=16)] = ()
    backend_refs: Annotated[tuple[GRPCBackendRef, ...], Field(max_length=16)] = ()
    session_persistence: SessionPersistence | None = None


class GRPCRouteSpec(Part):
    """Parents, hostnames and rules."""

    parent_refs: ParentRefs = ()
    hostnames: Hostnames = ()
    rules: Annotated[tuple[GRPCRouteRule, ...], Field(max_length=16)] = ()


class GRPCRoute(Part):
    """How gRPC calls are matched and spread."""

    metadata: ObjectMeta
    spec: GRPCRouteSpec = GRPCRouteSpec()


class StreamRouteRule(Part):
    """Where connections go."""

    name: SectionName | None = None
    backend_refs: Annotated[tuple[BackendRef, ...], Field(min_length=1, max_length=16)]


class TCPRouteSpec(Part):
    """Parents and the one rule."""

    parent_refs: ParentRefs = ()
    rules: Annotated[tuple[StreamRouteRule, ...], Field(min_length=1, max_length=16)]


class TCPRoute(Part):
    """How TCP connections are spread."""

    metadata: ObjectMeta
    spec: TCPRouteSpec


class TLSRouteSpec(TCPRouteSpec):
    """Parents, server names and the one rule."""

    hostnames: Annotated[tuple[Hostname, ...], Field(min_length=1, max_length=16)]


class TLSRoute(Part):
    """How TLS connections are spread by server name."""

    metadata: ObjectMeta
    spec: TLSRouteSpec
