"""GRPCRoute, the Gateway API's route for gRPC: services and methods instead of paths, and no redirects or rewrites."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from masche.model.refs import Kind
from masche.model.resources.gateway_api import (
    API_VERSION,
    FilterType,
    HTTPHeaderFilter,
    HTTPRequestMirrorFilter,
    SessionPersistence,
    Weight,
)
from masche.model.resources.meta import Manifest, Part
from masche.model.resources.references import BackendObjectReference, LocalObjectReference, ParentReference
from masche.model.resources.scalars import HeaderName, Hostname, SectionName
from masche.model.view import ValueKind


class GRPCMethodMatch(Part):
    """A gRPC service, a method, or both."""

    type: Literal[ValueKind.EXACT, ValueKind.REGEX] = ValueKind.EXACT
    service: Annotated[str, Field(max_length=1024)] | None = None
    method: Annotated[str, Field(max_length=1024)] | None = None


class GRPCHeaderMatch(Part):
    """A header that must be there with this value."""

    type: Literal[ValueKind.EXACT, ValueKind.REGEX] = ValueKind.EXACT
    name: HeaderName
    value: Annotated[str, Field(min_length=1, max_length=4096)]


class GRPCRouteMatch(Part):
    """All conditions must hold."""

    method: GRPCMethodMatch | None = None
    headers: Annotated[tuple[GRPCHeaderMatch, ...], Field(max_length=16)] = ()


class GRPCRouteFilter(Part):
    """One step between the match and the backend."""

    type: Literal[
        FilterType.REQUEST_HEADER_MODIFIER,
        FilterType.RESPONSE_HEADER_MODIFIER,
        FilterType.REQUEST_MIRROR,
        FilterType.EXTENSION_REF,
    ]
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    extension_ref: LocalObjectReference | None = None


class GRPCBackendRef(BackendObjectReference):
    """A weighted backend with filters of its own."""

    weight: Weight = 1
    filters: Annotated[tuple[GRPCRouteFilter, ...], Field(max_length=16)] = ()


class GRPCRouteRule(Part):
    """Any of ``matches`` -> ``filters`` -> one of ``backend_refs`` by weight."""

    name: SectionName | None = None
    matches: Annotated[tuple[GRPCRouteMatch, ...], Field(max_length=64)] = ()
    filters: Annotated[tuple[GRPCRouteFilter, ...], Field(max_length=16)] = ()
    backend_refs: Annotated[tuple[GRPCBackendRef, ...], Field(max_length=16)] = ()
    session_persistence: SessionPersistence | None = None


class GRPCRouteSpec(Part):
    """Parents, hostnames (ignored for Service parents) and rules. Without a rule every call goes to the parent."""

    parent_refs: Annotated[tuple[ParentReference, ...], Field(max_length=32)] = ()
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16)] = ()
    rules: Annotated[tuple[GRPCRouteRule, ...], Field(max_length=16)] = ()


class GRPCRoute(Manifest):
    """How gRPC calls of a Service or at a Gateway are matched and spread."""

    api_version: ClassVar[str] = API_VERSION
    kind: ClassVar[Kind] = Kind.GRPC_ROUTE

    spec: GRPCRouteSpec = GRPCRouteSpec()
