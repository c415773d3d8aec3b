"""From the rules of one HTTPRoute to Routes: every match of every rule, with what happens to a request that it takes.

Invariant: a backend that cannot be resolved stays in the table with its weight, so that its share is refused and not
given to others; a filter that cannot be carried out refuses the request rather than being left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from masche.compiler.backends import Unresolved, resolve
from masche.compiler.clusters import cluster
from masche.compiler.times import times
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name, Origin, PortRef
from masche.model.resources.gateway_api import (
    FilterType,
    HTTPBackendRef,
    HTTPCORSFilter,
    HTTPHeader,
    HTTPHeaderFilter,
    HTTPPathModifier,
    HTTPRequestMirrorFilter,
    HTTPRequestRedirectFilter,
    HTTPRoute,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRetry,
    HTTPRouteRule,
)
from masche.model.resources.scalars import seconds
from masche.model.view import (
    UNSAID,
    Action,
    Backend,
    Cors,
    Forward,
    HeaderChange,
    Mirror,
    PathRewrite,
    Protocol,
    Redirect,
    Refuse,
    RequestMatch,
    Retry,
    RewriteKind,
    Route,
    Traffic,
    ValueMatch,
)

UNCHANGED = HeaderChange()

SAFE_RETRY = Retry()
"""Only what never reached an application is repeated."""

_IN_VAIN, _UNAVAILABLE = 500, 503
"""Where "all entries in BackendRefs are invalid" traffic "MUST receive a 500 status code" (HTTPRouteRule), or "an
`UNAVAILABLE` status" (GRPCRouteRule), which is what a 503 is to a caller by gRPC.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a table of routes stands.

    ``service`` is the parent of routes inside the mesh, and their backend when a rule names none;
    ``port`` is that of a gateway's listener, which redirects take when they name none.
    """

    mesh: Mesh
    traffic: Traffic = UNSAID
    protocol: Protocol = Protocol.HTTP
    service: PortRef | None = None
    port: int = 0

    @property
    def called(self) -> tuple[Name, ...]:
        """The Service that is called here; nobody knows which at a Gateway."""
        return (self.service.owner,) if self.service else ()

    @property
    def is_edge(self) -> bool:
        """Whether requests come from outside of the mesh."""
        return self.service is None


def routes(route: HTTPRoute, setting: Setting) -> Iterator[Route]:
    """Yield the Routes of one HTTPRoute, in the order in which they are written."""
    for index, rule in enumerate(route.spec.rules):
        filters = _Filters.of(rule.filters)
        action = _action(route, rule, filters, setting)
        for number, match in enumerate(rule.matches):
            place = f"rules[{index}].matches[{number}]"
            yield Route(
                name=f"{route.name} {place}",
                match=request_match(match),
                action=action,
                request_headers=filters.request,
                response_headers=filters.response,
                cors=filters.cors,
                origins=(Origin(route.ref, f"spec.{place}"),),
            )


def request_match(match: HTTPRouteMatch) -> RequestMatch:
    """Bring a match into normal form. "Subsequent entries with an equivalent name MUST be ignored"; so they are."""
    headers = {each.name.lower(): each for each in reversed(match.headers)}
    query = {each.name: each for each in reversed(match.query_params)}
    return RequestMatch(
        path_kind=match.path.type,
        path=match.path.value,
        method=match.method.value if match.method else "",
        headers=tuple(ValueMatch(name=name, kind=one.type, value=one.value) for name, one in sorted(headers.items())),
        query=tuple(ValueMatch(name=name, kind=one.type, value=one.value) for name, one in sorted(query.items())),
    )


@dataclass(slots=True, kw_only=True)
class _Filters:
    """The filters of one rule or one backend, gathered by what they change."""

    request: HeaderChange = UNCHANGED
    response: HeaderChange = UNCHANGED
    redirect: HTTPRequestRedirectFilter | None = None
    mirrors: list[HTTPRequestMirrorFilter] = field(default_factory=list[HTTPRequestMirrorFilter])
    host_rewrite: str = ""
    path_rewrite: PathRewrite | None = None
    cors: Cors | None = None
    unknown: str = ""

    @classmethod
    def of(cls, filters: Iterable[HTTPRouteFilter]) -> "_Filters":
        gathered = cls()
        for each in filters:
            gathered.take(each)
        return gathered

    def take(self, each: HTTPRouteFilter) -> None:
        self.request = _header_change(each.request_header_modifier) or self.request
        self.response = _header_change(each.response_header_modifier) or self.response
        self.redirect = each.request_redirect or self.redirect
        self.cors = _cors(each.cors) or self.cors
        if each.request_mirror:
            self.mirrors.append(each.request_mirror)
        if each.url_rewrite:
            self.host_rewrite = each.url_rewrite.hostname or ""
            self.path_rewrite = path_rewrite(each.url_rewrite.path)
        if each.type in {FilterType.EXTENSION_REF, FilterType.EXTERNAL_AUTH}:
            self.unknown = each.type


def _header_change(change: HTTPHeaderFilter | None) -> HeaderChange | None:
    return change and HeaderChange(
        set=_firsts(change.set),
        add=_firsts(change.add),
        remove=tuple(name.lower() for name in change.remove),
    )


def _firsts(headers: Iterable[HTTPHeader]) -> tuple[tuple[str, str], ...]:
    """ "Subsequent entries with an equivalent header name MUST be ignored" (HTTPHeader), in whatever case."""
    values: dict[str, str] = {}
    for each in headers:
        values.setdefault(each.name.lower(), each.value)
    return tuple(values.items())


def _cors(cors: HTTPCORSFilter | None) -> Cors | None:
    return cors and Cors(
        allow_origins=cors.allow_origins,
        allow_methods=cors.allow_methods,
        allow_headers=cors.allow_headers,
        expose_headers=cors.expose_headers,
        allow_credentials=bool(cors.allow_credentials),
        max_age_seconds=cors.max_age,
    )


def path_rewrite(path: HTTPPathModifier | None) -> PathRewrite | None:
    """Read a path modifier. An empty full path means the root, and a path that lacks its first slash gets it."""
    if path is None:
        return None
    written = (path.replace_full_path if path.type is RewriteKind.FULL else path.replace_prefix_match) or "/"
    return PathRewrite(kind=path.type, value=written if written.startswith("/") else f"/{written}")


def _action(route: HTTPRoute, rule: HTTPRouteRule, filters: _Filters, setting: Setting) -> Action:
    if filters.unknown:
        return Refuse(status=500, why=f"{route.name}: the filter {filters.unknown} is not carried out")
    if filters.redirect:
        return _redirect(filters.redirect, setting)
    backends = tuple(_backend(route, each, setting) for each in rule.backend_refs)
    if not backends and setting.service:
        backends = (Backend(cluster=setting.service),)
    return _forward(route, rule, filters, backends, setting)


def _redirect(redirect: HTTPRequestRedirectFilter, setting: Setting) -> Redirect:
    """ "If redirect scheme is empty, the redirect port MUST be the Gateway Listener port" (Gateway API)."""
    return Redirect(
        status=int(redirect.status_code),
        scheme=redirect.scheme or "",
        host=redirect.hostname or "",
        port=redirect.port or (0 if redirect.scheme else setting.port),
        path=path_rewrite(redirect.path),
    )


def _backend(route: HTTPRoute, ref: HTTPBackendRef, setting: Setting) -> Backend:
    found = resolve(setting.mesh, ref, namespace=route.metadata.namespace, kind=route.kind, called=setting.called)
    filters = _Filters.of(ref.filters)
    return Backend(
        cluster=None if isinstance(found, Unresolved) or filters.unknown else found,
        weight=ref.weight,
        request_headers=filters.request,
        response_headers=filters.response,
        host_rewrite=filters.host_rewrite,
        path_rewrite=filters.path_rewrite,
        redirect=_redirect(filters.redirect, setting) if filters.redirect else None,
        mirrors=tuple(_mirrors(route, filters.mirrors, setting)),
    )


def _forward(
    route: HTTPRoute, rule: HTTPRouteRule, filters: _Filters, backends: tuple[Backend, ...], setting: Setting
) -> Forward:
    action = Forward(
        backends=backends,
        host_rewrite=filters.host_rewrite,
        path_rewrite=filters.path_rewrite,
        mirrors=tuple(_mirrors(route, filters.mirrors, setting)),
        retry=_retry(rule.retry),
        lacking_status=_UNAVAILABLE if route.kind is Kind.GRPC_ROUTE else _IN_VAIN,
    )
    settings, spoken = _callee(backends, setting)
    return times(settings, spoken, rule, is_edge=setting.is_edge).on(action)


def _callee(backends: tuple[Backend, ...], setting: Setting) -> tuple[Traffic, Protocol]:
    """Return how the Service is called; a Gateway has no policy of its own, so there the first backend's holds."""
    first = next((each.cluster for each in backends if each.cluster), None)
    if not setting.is_edge or first is None:
        return setting.traffic, setting.protocol
    known = cluster(setting.mesh, first)
    return known.traffic, known.protocol


def _retry(retry: HTTPRouteRetry | None) -> Retry | None:
    if retry is None:
        return SAFE_RETRY
    if retry.attempts == 0:
        return None
    return Retry(
        attempts=SAFE_RETRY.attempts if retry.attempts is None else retry.attempts,
        codes=tuple(sorted(set(retry.codes))),
        backoff=SAFE_RETRY.backoff if retry.backoff is None else seconds(retry.backoff),
    )


def _mirrors(route: HTTPRoute, mirrors: Iterable[HTTPRequestMirrorFilter], setting: Setting) -> Iterator[Mirror]:
    """A mirror that leads nowhere is left out: it must never be felt by the caller. Its status says so."""
    for each in mirrors:
        found = resolve(
            setting.mesh,
            each.backend_ref,
            namespace=route.metadata.namespace,
            kind=route.kind,
            called=setting.called,
        )
        if isinstance(found, PortRef):
            yield _mirror(found, each)


def _mirror(cluster: PortRef, mirror: HTTPRequestMirrorFilter) -> Mirror:
    if mirror.fraction:
        return Mirror(cluster=cluster, numerator=mirror.fraction.numerator, denominator=mirror.fraction.denominator)
    return Mirror(cluster=cluster, numerator=100 if mirror.percent is None else mirror.percent)
