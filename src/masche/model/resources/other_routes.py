"""Routes of the Gateway API that are validated and not carried out yet: TCPRoute and TLSRoute.

They are Parts, not Manifests: nothing but the validation ever sees one.
"""

from typing import Annotated

from pydantic import Field

from masche.model.resources.gateway_api import Weight
from masche.model.resources.meta import ObjectMeta, Part
from masche.model.resources.references import BackendObjectReference, ParentReference
from masche.model.resources.scalars import Hostname, SectionName

ParentRefs = Annotated[tuple[ParentReference, ...], Field(max_length=32)]


class BackendRef(BackendObjectReference):
    """A weighted backend."""

    weight: Weight = 1


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
