"""Kubernetes' own kinds as far as a mesh needs them: Namespace, Service, EndpointSlice and TLS Secret.

What Kubernetes defines beyond that is accepted on paper and answered with a Diagnostic by ``model.validate_core``;
it never reaches these types.
"""

from base64 import b64decode, b64encode
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from masche.model.refs import Kind
from masche.model.resources.meta import FrozenMap, Labels, Manifest, Part
from masche.model.resources.scalars import Flag, Port, PortName

Transport = Literal["TCP", "UDP", "SCTP"]
EXPORT_TO = "masche.dev/export-to"
"""The annotation of a Service that says who may see it: ``*`` (default), ``.`` or a comma list of namespaces."""


class Namespace(Manifest):
    """A room for names, identities and policies; its labels decide which routes a Gateway lets in."""

    api_version: ClassVar[str] = "v1"
    kind: ClassVar[Kind] = Kind.NAMESPACE
    is_namespaced: ClassVar[bool] = False


def _target(value: object) -> object:
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("target_port", "must be a port number or the name of a port")


TargetPort = Annotated[Port | PortName, BeforeValidator(_target)]


class ServicePort(Part):
    """One port of a Service. ``target_port`` None means the same number as ``port``."""

    name: PortName = ""
    port: Port
    target_port: TargetPort | None = None
    protocol: Transport = "TCP"
    app_protocol: str | None = None

    @property
    def target(self) -> int | str:
        """The application's port: a number or the name of one."""
        return self.port if self.target_port is None else self.target_port


class ServiceSpec(Part):
    """Which Workloads answer and on which ports. Without a selector, EndpointSlices name the endpoints."""

    selector: Labels = FrozenMap()
    ports: tuple[ServicePort, ...] = ()


class Service(Manifest):
    """A name that callers use, and the Workloads behind it."""

    api_version: ClassVar[str] = "v1"
    kind: ClassVar[Kind] = Kind.SERVICE

    spec: ServiceSpec = ServiceSpec()

    @property
    def exported_to(self) -> tuple[str, ...]:
        """The namespaces that see it: ``("*",)`` for all, else names with ``.`` already resolved to its own."""
        words = (word.strip() for word in self.metadata.annotations.get(EXPORT_TO, "*").split(","))
        return tuple(self.metadata.namespace if word == "." else word for word in words if word)


class EndpointConditions(Part):
    """Whether an endpoint takes traffic; unknown counts as ready, as Kubernetes says."""

    ready: Flag | None = None
    serving: Flag | None = None
    terminating: Flag | None = None


class SliceEndpoint(Part):
    """One instance: its addresses (only the first is used, as Kubernetes says) and where it runs."""

    addresses: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None


class SlicePort(Part):
    """A port of every endpoint of the slice, named like the Service's port."""

    name: PortName = ""
    protocol: Transport = "TCP"
    port: Port
    app_protocol: str | None = None


class EndpointSlice(Manifest):
    """Endpoints of a Service that has no selector. They speak plaintext unless a Workload says otherwise."""

    api_version: ClassVar[str] = "discovery.k8s.io/v1"
    kind: ClassVar[Kind] = Kind.ENDPOINT_SLICE
    SERVICE_LABEL: ClassVar[str] = "kubernetes.io/service-name"

    address_type: Literal["IPv4", "IPv6"]
    endpoints: Annotated[tuple[SliceEndpoint, ...], Field(max_length=1000)] = ()
    ports: Annotated[tuple[SlicePort, ...], Field(max_length=100)] = ()

    @property
    def service(self) -> str:
        """The Service of the same namespace to which it belongs, or ``""``."""
        return self.metadata.labels.get(self.SERVICE_LABEL, "")


def _decode(value: object) -> bytes:
    """Kubernetes writes a Secret's values in base64; Python code gives bytes."""
    if isinstance(value, bytes):
        return value
    try:
        return b64decode(value if isinstance(value, str) else "?", validate=True)
    except ValueError:
        raise PydanticCustomError("base64", "must be base64") from None


class Hidden(bytes):
    """Bytes that cannot print themselves: use them as bytes; ``repr`` and ``str`` give ``Secret(...)``."""

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        reveal = core_schema.plain_serializer_function_ser_schema(lambda data: b64encode(data).decode())
        return core_schema.no_info_plain_validator_function(lambda value: cls(_decode(value)), serialization=reveal)


class Secret(Manifest):
    """A certificate and its key for a Gateway's HTTPS listener. Its data never appear in a repr or a Diagnostic."""

    api_version: ClassVar[str] = "v1"
    kind: ClassVar[Kind] = Kind.SECRET

    type: Literal["kubernetes.io/tls"]
    data: FrozenMap[str, Hidden] = Field(repr=False)

    @property
    def certificate(self) -> Hidden:
        """The PEM certificate chain."""
        return self.data["tls.crt"]

    @property
    def private_key(self) -> Hidden:
        """The PEM private key."""
        return self.data["tls.key"]
