"""What a Gateway may say beside its listeners. All of it is valid on paper; ``model.validate_gateways`` says what of it
is not carried out yet.
"""

from typing import Annotated, Literal

from pydantic import Field

from masche.model.resources.meta import FrozenMap, Part
from masche.model.resources.references import (
    LabelSelector,
    LocalObjectReference,
    ObjectReference,
    SecretObjectReference,
)
from masche.model.resources.scalars import LabelValue, Port


class ListenerNamespaces(Part):
    """From which namespaces ListenerSets may attach."""

    from_: Literal["All", "Selector", "Same", "None"] = "None"
    selector: LabelSelector | None = None


class AllowedListeners(Part):
    """Which ListenerSets may attach to a Gateway."""

    namespaces: ListenerNamespaces = ListenerNamespaces()


class GatewayInfrastructure(Part):
    """Labels, annotations and parameters for what an implementation creates."""

    labels: Annotated[FrozenMap[str, LabelValue], Field(max_length=8)] = FrozenMap()
    annotations: Annotated[FrozenMap[str, Annotated[str, Field(max_length=4096)]], Field(max_length=16)] = FrozenMap()
    parameters_ref: LocalObjectReference | None = None


class FrontendTLSValidation(Part):
    """Which client certificates are accepted."""

    ca_certificate_refs: Annotated[tuple[ObjectReference, ...], Field(min_length=1, max_length=8)]
    mode: Literal["AllowValidOnly", "AllowInsecureFallback"] = "AllowValidOnly"


class TLSConfig(Part):
    """How clients are verified."""

    validation: FrontendTLSValidation | None = None


class TLSPortConfig(Part):
    """How clients are verified on one port."""

    port: Port
    tls: TLSConfig


class FrontendTLSConfig(Part):
    """How clients are verified, by default and per port."""

    default: TLSConfig
    per_port: Annotated[tuple[TLSPortConfig, ...], Field(max_length=64)] = ()


class GatewayBackendTLS(Part):
    """The certificate that a Gateway shows to backends."""

    client_certificate_ref: SecretObjectReference | None = None


class GatewayTLSConfig(Part):
    """TLS of a whole Gateway, towards clients and towards backends."""

    backend: GatewayBackendTLS | None = None
    frontend: FrontendTLSConfig | None = None
