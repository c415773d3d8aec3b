"""The Gateway API's kinds: GatewayClass, Gateway, HTTPRoute and ReferenceGrant, with the standard's own defaults.

Types say what may stand where; the rules that connect fields ("filter.cors must be specified for CORS filter.type") are
in ``model.validate_routes`` and ``model.validate_gateways``.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from masche.model.refs import Kind
from masche.model.resources.gateway_options import AllowedListeners, GatewayInfrastructure, GatewayTLSConfig
from masche.model.resources.meta import FrozenMap, Manifest, Part
from masche.model.resources.references import (
    GROUP,
    BackendObjectReference,
    LabelSelector,
    LocalObjectReference,
    ParametersReference,
    ParentReference,
    SecretObjectReference,
)
from masche.model.resources.scalars import (
    Duration,
    Flag,
    Group,
    HeaderName,
    Hostname,
    Int,
    KindName,
    NamespaceName,
    ObjectName,
    Port,
    PreciseHostname,
    SectionName,
)
from masche.model.view import PathKind, RewriteKind, ValueKind

API_VERSION = f"{GROUP}/v1"

Weight = Annotated[Int, Field(ge=0, le=1_000_000)]
HeaderValue = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[!-~]+([\t ]?[!-~]+)*$")]
Text1024 = Annotated[str, Field(max_length=1024)]


# --------------------------------------------------------------------------------------------------------- matches


class HTTPPathMatch(Part):
    """How the path is compared."""

    type: Literal[PathKind.EXACT, PathKind.PREFIX, PathKind.REGEX] = PathKind.PREFIX
    value: Text1024 = "/"


class HTTPHeaderMatch(Part):
    """A header that must be there with this value. Names compare without regard to case."""

    type: Literal[ValueKind.EXACT, ValueKind.REGEX] = ValueKind.EXACT
    name: HeaderName
    value: HeaderValue


class HTTPQueryParamMatch(Part):
    """A query parameter that must be there with this value."""

    type: Literal[ValueKind.EXACT, ValueKind.REGEX] = ValueKind.EXACT
    name: HeaderName
    value: Annotated[str, Field(min_length=1, max_length=1024)]


class Method(StrEnum):
    """The methods that a match may name."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"


class HTTPRouteMatch(Part):
    """All conditions must hold. Without a path it is the prefix ``/``."""

    path: HTTPPathMatch = HTTPPathMatch()
    headers: Annotated[tuple[HTTPHeaderMatch, ...], Field(max_length=16)] = ()
    query_params: Annotated[tuple[HTTPQueryParamMatch, ...], Field(max_length=16)] = ()
    method: Method | None = None


# --------------------------------------------------------------------------------------------------------- filters


class HTTPHeader(Part):
    """A header to set or to add."""

    name: HeaderName
    value: HeaderValue


class HTTPHeaderFilter(Part):
    """Headers to set (replace), add (append) and remove."""

    set: Annotated[tuple[HTTPHeader, ...], Field(max_length=16)] = ()
    add: Annotated[tuple[HTTPHeader, ...], Field(max_length=16)] = ()
    remove: Annotated[tuple[str, ...], Field(max_length=16)] = ()


class Fraction(Part):
    """A share of requests."""

    numerator: Annotated[Int, Field(ge=0, le=2147483647)]
    denominator: Annotated[Int, Field(ge=1, le=2147483647)] = 100


class HTTPRequestMirrorFilter(Part):
    """Copies of requests, all of them unless percent or fraction says otherwise."""

    backend_ref: BackendObjectReference
    percent: Annotated[Int, Field(ge=0, le=100)] | None = None
    fraction: Fraction | None = None


class HTTPPathModifier(Part):
    """How a path is changed."""

    type: Literal[RewriteKind.FULL, RewriteKind.PREFIX]
    replace_full_path: Text1024 | None = None
    replace_prefix_match: Text1024 | None = None


class StatusCode(IntEnum):
    """The redirects that exist."""

    MOVED_PERMANENTLY = 301
    FOUND = 302
    SEE_OTHER = 303
    TEMPORARY_REDIRECT = 307
    PERMANENT_REDIRECT = 308


class HTTPRequestRedirectFilter(Part):
    """Answer with a redirect; what is unset stays as the request had it."""

    scheme: Literal["http", "https"] | None = None
    hostname: PreciseHostname | None = None
    path: HTTPPathModifier | None = None
    port: Port | None = None
    status_code: StatusCode = StatusCode.FOUND


class HTTPURLRewriteFilter(Part):
    """Change host or path on the way to the backend."""

    hostname: PreciseHostname | None = None
    path: HTTPPathModifier | None = None


CorsOrigin = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"(^\*$)|(^https?:\/\/(\*|(\*\.)?[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*)(:([0-9]{1,5}))?$)",
    ),
]


CorsMethod = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"]


class HTTPCORSFilter(Part):
    """Cross-origin resource sharing, answered by the mesh. ``max_age`` in seconds."""

    allow_origins: Annotated[tuple[CorsOrigin, ...], Field(max_length=64)] = ()
    allow_credentials: Flag | None = None
    allow_methods: Annotated[tuple[CorsMethod, ...], Field(max_length=9)] = ()
    allow_headers: Annotated[tuple[HeaderName, ...], Field(max_length=64)] = ()
    expose_headers: Annotated[tuple[HeaderName, ...], Field(max_length=64)] = ()
    max_age: Annotated[Int, Field(ge=1, le=2147483647)] = 5


class GRPCAuthConfig(Part):
    """Which headers an external gRPC authorizer sees."""

    allowed_headers: Annotated[tuple[str, ...], Field(max_length=64)] = ()


class HTTPAuthConfig(Part):
    """Where an external HTTP authorizer is asked and which headers pass."""

    path: (
        Annotated[str, Field(max_length=1024, pattern=r"^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$")] | None
    ) = None
    allowed_headers: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    allowed_response_headers: Annotated[tuple[str, ...], Field(max_length=64)] = ()


class ForwardBodyConfig(Part):
    """How much of the body an external authorizer sees."""

    max_size: Annotated[Int, Field(ge=0, le=2147483647)] | None = None


class HTTPExternalAuthFilter(Part):
    """Experimental: ask somebody else whether a request may pass."""

    protocol: Literal["HTTP", "GRPC"]
    backend_ref: BackendObjectReference
    grpc: GRPCAuthConfig | None = None
    http: HTTPAuthConfig | None = None
    forward_body: ForwardBodyConfig | None = None


class FilterType(StrEnum):
    """The filters of HTTPRoutes."""

    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    REQUEST_REDIRECT = "RequestRedirect"
    URL_REWRITE = "URLRewrite"
    EXTENSION_REF = "ExtensionRef"
    CORS = "CORS"
    EXTERNAL_AUTH = "ExternalAuth"


class HTTPRouteFilter(Part):
    """One step between the match and the backend. The field that ``type`` names is set, and no other."""

    type: FilterType
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    request_redirect: HTTPRequestRedirectFilter | None = None
    url_rewrite: HTTPURLRewriteFilter | None = None
    cors: HTTPCORSFilter | None = None
    external_auth: HTTPExternalAuthFilter | None = None
    extension_ref: LocalObjectReference | None = None


# ----------------------------------------------------------------------------------------------------------- rules


class HTTPBackendRef(BackendObjectReference):
    """A weighted backend with filters of its own."""

    weight: Weight = 1
    filters: Annotated[tuple[HTTPRouteFilter, ...], Field(max_length=16)] = ()


class HTTPRouteTimeouts(Part):
    """``request`` for the whole call, ``backend_request`` for one try; ``0s`` means none."""

    request: Duration | None = None
    backend_request: Duration | None = None


class HTTPRouteRetry(Part):
    """Experimental: which answers are repeated, how often and after how long."""

    codes: tuple[Annotated[Int, Field(ge=400, le=599)], ...] = ()
    attempts: Annotated[Int, Field(ge=0, le=2147483647)] | None = None
    backoff: Duration | None = None


class CookieConfig(Part):
    """Whether a session's cookie survives the browser."""

    lifetime_type: Literal["Permanent", "Session"] = "Session"


class SessionPersistence(Part):
    """Experimental: keep a client at one instance."""

    session_name: Annotated[str, Field(max_length=128)] | None = None
    absolute_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    type: Literal["Cookie", "Header"] = "Cookie"
    cookie_config: CookieConfig | None = None


def _at_least_one(matches: tuple[HTTPRouteMatch, ...]) -> tuple[HTTPRouteMatch, ...]:
    """ "If no matches are specified, the default is a prefix path match on "/"" (Gateway API)."""
    return matches or (HTTPRouteMatch(),)


class HTTPRouteRule(Part):
    """Any of ``matches`` -> ``filters`` -> one of ``backend_refs`` by weight. ``matches`` is never empty."""

    name: SectionName | None = None
    matches: Annotated[tuple[HTTPRouteMatch, ...], Field(max_length=64), AfterValidator(_at_least_one)] = (
        HTTPRouteMatch(),
    )
    filters: Annotated[tuple[HTTPRouteFilter, ...], Field(max_length=16)] = ()
    backend_refs: Annotated[tuple[HTTPBackendRef, ...], Field(max_length=16)] = ()
    timeouts: HTTPRouteTimeouts | None = None
    retry: HTTPRouteRetry | None = None
    session_persistence: SessionPersistence | None = None


class HTTPRouteSpec(Part):
    """Parents, hostnames (ignored for Service parents) and rules."""

    parent_refs: Annotated[tuple[ParentReference, ...], Field(max_length=32)] = ()
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16)] = ()
    rules: Annotated[tuple[HTTPRouteRule, ...], Field(min_length=1, max_length=16)] = (HTTPRouteRule(),)


class HTTPRoute(Manifest):
    """How requests for a Service or at a Gateway are matched, changed and spread."""

    api_version: ClassVar[str] = API_VERSION
    kind: ClassVar[Kind] = Kind.HTTP_ROUTE

    spec: HTTPRouteSpec = HTTPRouteSpec()


# -------------------------------------------------------------------------------------------------------- gateways


class GatewayClassSpec(Part):
    """Who carries out Gateways of this class."""

    controller_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$",
        ),
    ]
    parameters_ref: ParametersReference | None = None
    description: Annotated[str, Field(max_length=64)] | None = None


class GatewayClass(Manifest):
    """A class of Gateways; ours has the controller ``masche.dev/gateway``."""

    api_version: ClassVar[str] = API_VERSION
    kind: ClassVar[Kind] = Kind.GATEWAY_CLASS
    is_namespaced: ClassVar[bool] = False
    CONTROLLER: ClassVar[str] = "masche.dev/gateway"

    spec: GatewayClassSpec


class RouteNamespaces(Part):
    """From which namespaces routes may attach."""

    from_: Literal["All", "Selector", "Same"] = "Same"
    selector: LabelSelector | None = None


class RouteGroupKind(Part):
    """A kind of route."""

    group: Group = GROUP
    kind: KindName


class AllowedRoutes(Part):
    """Which routes may attach to a listener."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: Annotated[tuple[RouteGroupKind, ...], Field(max_length=8)] = ()


class ListenerTLS(Part):
    """How a listener ends TLS."""

    mode: Literal["Terminate", "Passthrough"] = "Terminate"
    certificate_refs: Annotated[tuple[SecretObjectReference, ...], Field(max_length=64)] = ()
    options: Annotated[FrozenMap[str, str], Field(max_length=16)] = FrozenMap()


def _spelled(protocol: str) -> str:
    """ "All Core ProtocolType values MUST be treated case-insensitively" (Gateway API)."""
    return protocol.upper() if protocol.upper() in {"HTTP", "HTTPS", "TLS", "TCP", "UDP"} else protocol


ListenerProtocol = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        pattern=r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$",
    ),
    AfterValidator(_spelled),
]


class Listener(Part):
    """One port, hostname and protocol (``HTTP``, ``HTTPS``, ...) on which a Gateway lets traffic in."""

    name: SectionName
    hostname: Hostname | None = None
    port: Port
    protocol: ListenerProtocol
    tls: ListenerTLS | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewayAddress(Part):
    """An address asked for."""

    type: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^Hostname|IPAddress|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$",
        ),
    ] = "IPAddress"
    value: Annotated[str, Field(max_length=253)] = ""


class GatewaySpec(Part):
    """The class and the listeners; the rest is valid on paper and not carried out yet."""

    gateway_class_name: ObjectName
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1, max_length=64)]
    addresses: Annotated[tuple[GatewayAddress, ...], Field(max_length=16)] = ()
    infrastructure: GatewayInfrastructure | None = None
    allowed_listeners: AllowedListeners | None = None
    tls: GatewayTLSConfig | None = None
    default_scope: Literal["All", "None"] | None = None


class Gateway(Manifest):
    """A way in. ``masche gateway`` carries it out."""

    api_version: ClassVar[str] = API_VERSION
    kind: ClassVar[Kind] = Kind.GATEWAY

    spec: GatewaySpec


# ---------------------------------------------------------------------------------------------------------- grants


class ReferenceGrantFrom(Part):
    """Who may refer to us."""

    group: Group
    kind: KindName
    namespace: NamespaceName


class ReferenceGrantTo(Part):
    """To what; without a name, to all of that kind here."""

    group: Group
    kind: KindName
    name: ObjectName | None = None


class ReferenceGrantSpec(Part):
    """Any of ``from_`` may refer to any of ``to``."""

    from_: Annotated[tuple[ReferenceGrantFrom, ...], Field(min_length=1, max_length=16)]
    to: Annotated[tuple[ReferenceGrantTo, ...], Field(min_length=1, max_length=16)]


class ReferenceGrant(Manifest):
    """Allows references into its namespace from others."""

    api_version: ClassVar[str] = API_VERSION
    kind: ClassVar[Kind] = Kind.REFERENCE_GRANT

    spec: ReferenceGrantSpec
