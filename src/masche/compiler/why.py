"""Why one call goes where it goes, or does not: every decision on its way, with the rule that made it.

Made with the very functions that decide requests (``traffic``) over the very Views that proxies are given, so that it
says what they do. Order is that of the traffic: the caller's identity, its route, the destination, an instance of it,
and there mutual TLS and policy. Invariant: the chain ends with the step that decided.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import assert_never

from masche.compiler.endpoints import FAIR
from masche.compiler.faults import said
from masche.compiler.hostnames import covers, specificity
from masche.compiler.limits import counting
from masche.model.refs import Origin, PortRef
from masche.model.view import (
    Backend,
    Endpoints,
    EndpointView,
    Forward,
    Health,
    Inbound,
    MtlsMode,
    Outbound,
    Policy,
    Redirect,
    Refuse,
    Route,
    View,
)
from masche.traffic.authorize import authorize
from masche.traffic.forward import apply, location, rewritten
from masche.traffic.match import match
from masche.traffic.normalise import normalise
from masche.traffic.request import Connection, Headers, Request, lower_names
from masche.traffic.verdict import Verdict


class Stage(StrEnum):
    """The decisions, in order."""

    IDENTITY = "identity"
    ROUTE = "route"
    CLUSTER = "cluster"
    ENDPOINT = "endpoint"
    MTLS = "mtls"
    POLICY = "policy"


class Outcome(StrEnum):
    """What becomes of the call."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NO_ROUTE = "no-route"
    NO_ENDPOINT = "no-endpoint"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. ``host`` is any name that the caller could use; ``port`` 0 is the one that a bare name means."""

    host: str
    port: int = 0
    method: str = "GET"
    path: str = "/"
    headers: Headers = ()
    scheme: str = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class Callee:
    """One workload that may be reached: its View, and the number of its application's port by endpoint port."""

    view: View
    app_ports: Mapping[int, int]
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One decision. ``rule`` names what made it, ``origin`` the resource and place that it came from."""

    stage: Stage
    is_passed: bool
    sentence: str
    rule: str = ""
    origin: Origin | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The whole chain. ``status`` is what the mesh itself answers, 0 when the application does.

    ``service`` is where the call ends (the first backend, when several share it), ``location`` that of a redirect.
    """

    outcome: Outcome
    summary: str
    steps: tuple[Step, ...]
    status: int = 0
    rule: str = ""
    service: PortRef | None = None
    location: str = ""
    mirrors: tuple[PortRef, ...] = ()
    request: Request | None = None


EndpointsOf = Callable[[PortRef], Endpoints]
StandingOf = Callable[[PortRef, str], str]
CalleeOf = Callable[[str], Callee | None]


class WayTo(Enum):
    """Where an instance is: elsewhere, or served by the caller's own proxy, which then leads there within itself, or by
    mutual TLS all the same.
    """

    FAR = "far"
    WITHIN = "within"
    NEAR = "near"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is beyond the caller: who answers for a Service port, and what a workload (by name) enforces.

    ``way_to`` says how a workload is reached; ``standing_of`` says why an instance of a port is steered as it is, ""
    when nothing is the matter; ``shares_of`` says how calls are divided between zones, when they are; ``lack_of`` says
    why a port leads to no instance at all, "" when that is for want of instances.
    """

    endpoints_of: EndpointsOf
    callee_of: CalleeOf
    standing_of: StandingOf = lambda _port, _workload: ""
    shares_of: Callable[[PortRef], tuple[str, ...]] = lambda _port: ()
    lack_of: Callable[[PortRef], str] = lambda _port: ""
    way_to: Callable[[str], WayTo] = lambda _workload: WayTo.FAR
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trail:
    """The chain so far, and what it is made in."""

    caller: View
    around: Surroundings
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> "_Trail":
        return replace(self, steps=(*self.steps, step))

    def end(self, last: Step, outcome: Outcome, status: int) -> Explanation:
        """The step that decided."""
        return Explanation(
            outcome=outcome, summary=last.sentence, steps=(*self.steps, last), status=status, rule=last.rule
        )

    @property
    def connection(self) -> Connection:
        """The caller as the other end sees it."""
        return Connection(peer=self.caller.identity.removeprefix("spiffe://"), source_ip=self.around.address)


def why(caller: View, call: Call, around: Surroundings) -> Explanation:
    """Explain one call of a workload that is told ``caller``."""
    identity = Step(stage=Stage.IDENTITY, is_passed=True, sentence=f"the caller is {caller.identity}")
    trail = _Trail(caller=caller, around=around, steps=(identity,))
    way = _way(caller, call)
    if way is None:
        return _elsewhere(trail, call)
    if not way.protocol.is_http:
        return _bytes(trail, way)
    target = normalise(call.path)
    if not isinstance(target, str):
        refused = Step(stage=Stage.ROUTE, is_passed=False, sentence=target.sentence)
        return trail.end(refused, Outcome.REFUSED, target.status)
    return _routed(trail, str(way.service), way.routes, _request(trail, call, target))


def enter(gateway: View, call: Call, around: Surroundings) -> Explanation:
    """Explain a call from outside to ``gateway``; ``call.port`` is the listener's port."""
    trail = _Trail(caller=gateway, around=around)
    listener = next((each for each in gateway.gateway if each.port == call.port), None)
    if listener is None:
        last = Step(stage=Stage.ROUTE, is_passed=False, sentence=f"the gateway has no listener on port {call.port}")
        return trail.end(last, Outcome.NO_ROUTE, 0)
    outside = replace(call, scheme="https" if listener.is_tls else "http")
    target = normalise(call.path)
    if not isinstance(target, str):
        refused = Step(stage=Stage.ROUTE, is_passed=False, sentence=target.sentence)
        return trail.end(refused, Outcome.REFUSED, target.status)
    tables = (host for host in listener.virtual_hosts if any(covers(each, call.host.lower()) for each in host.hosts))
    table = min(tables, key=lambda host: specificity(host.hosts[0]), default=None)
    if table is None:
        what = "a certificate" if listener.is_tls else "a hostname"
        last = Step(stage=Stage.ROUTE, is_passed=False, sentence=f"no listener has {what} for {call.host}")
        return trail.end(last, Outcome.NO_ROUTE, 0 if listener.is_tls else 404)
    request = _request(trail, outside, target)
    if match(table.routes, request):
        judged, verdict = _judged_at_gateway(gateway.inbound, listener.port, request)
        if not verdict.allowed:
            return trail.end(judged, Outcome.DENIED, verdict.status)
        trail = trail.then(judged) if judged.details else trail
    return _routed(trail, f"{listener.name} {table.hosts[0]}", table.routes, request)


def _judged_at_gateway(inbound: Inbound, port: int, request: Request) -> tuple[Step, Verdict]:
    """What the gateway's own policies and limits say of a request that has a route: no caller has an identity there."""
    verdict = authorize(inbound.policies, replace(request, connection=Connection(port=port)))
    judged = Step(
        stage=Stage.POLICY,
        is_passed=verdict.allowed,
        sentence=f"the gateway: {verdict.sentence}",
        rule=verdict.rule,
        origin=_origin(inbound.policies, verdict.rule),
        details=tuple(counting(inbound.limits, request)) if verdict.allowed else (),
    )
    return judged, verdict


def _request(trail: _Trail, call: Call, target: str) -> Request:
    return Request(
        method=call.method,
        target=target,
        authority=f"{call.host}:{call.port}" if call.port else call.host,
        scheme=call.scheme,
        headers=lower_names(call.headers),
        connection=trail.connection,
    )


def _way(caller: View, call: Call) -> Outbound | None:
    """Find the Outbound that a host name and a port mean."""
    host = call.host.lower().rstrip(".")
    named = (way for way in caller.outbound if host in way.hosts)
    return next((way for way in named if (way.service.port == call.port if call.port else way.answers_bare)), None)


def _elsewhere(trail: _Trail, call: Call) -> Explanation:
    """What is not of the mesh, as far as this caller is told."""
    caller = trail.caller
    asked = f"{call.host}:{call.port}" if call.port else call.host
    what = f"{asked} is no name of a service port that the caller is given"
    known = tuple(sorted({str(way.service) for way in caller.outbound}))
    if caller.is_registry_only:
        last = Step(
            stage=Stage.ROUTE, is_passed=False, sentence=f"{what}, and calls out of the mesh are refused", details=known
        )
        return trail.end(last, Outcome.REFUSED, 502)
    last = Step(stage=Stage.ROUTE, is_passed=False, sentence=f"{what}; the call leaves the mesh", details=known)
    return trail.end(last, Outcome.NO_ROUTE, 0)


def _routed(trail: _Trail, table: str, routes: Sequence[Route], request: Request) -> Explanation:
    route = match(routes, request)
    if route is None:
        sentence = f"no rule of the HTTPRoutes of {table} matches {request.method} {request.target}"
        names = tuple(route.name for route in routes)
        lost = Step(stage=Stage.ROUTE, is_passed=False, sentence=sentence, details=names)
        return trail.end(lost, Outcome.NO_ROUTE, 404)
    action = route.action
    match action:
        case Forward():
            made = f"forwards it; trouble is made: {said(route.fault)}" if route.fault else "forwards it"
            return _forwarded(trail.then(_route_step(table, route, made)), route, action, request)
        case Redirect():
            where = location(action, route.match, request)
            last = _route_step(table, route, f"redirects it to {where}")
            return replace(trail.end(last, Outcome.ALLOWED, action.status), location=where)
        case Refuse():
            last = replace(_route_step(table, route, f"refuses it: {action.why}"), is_passed=False)
            return trail.end(last, Outcome.REFUSED, action.status)
        case _:
            assert_never(action)


def _route_step(table: str, route: Route, what: str) -> Step:
    origin = next(iter(route.origins), None)
    sentence = f"{route.name} matches the request for {table} and {what}"
    return Step(stage=Stage.ROUTE, is_passed=True, sentence=sentence, rule=route.name, origin=origin)


def _forwarded(trail: _Trail, route: Route, action: Forward, request: Request) -> Explanation:
    """Follow every backend; the answer is that of the first that does not work, or else of the first."""
    backends = [backend for backend in action.backends if backend.weight > 0]
    if not backends:
        last = Step(stage=Stage.CLUSTER, is_passed=False, sentence="no backend has a weight above 0", rule=route.name)
        return trail.end(last, Outcome.REFUSED, action.lacking_status)
    total = sum(backend.weight for backend in backends)
    shares = [(each, f"{100 * each.weight / total:.4g} %") for each in backends]
    reached = [
        _redirected(trail, location(each.redirect, route.match, request), each.redirect, share)
        if each.cluster and each.redirect
        else _reached(trail, action, each, _sent(route, action, each, request), share)
        for each, share in shares
    ]
    worst = next((each for each in reached if each.outcome is not Outcome.ALLOWED), reached[0])
    mirrors = (*action.mirrors, *(mirror for backend in backends for mirror in backend.mirrors))
    return replace(worst, mirrors=tuple(dict.fromkeys(mirror.cluster for mirror in mirrors)))


def _sent(route: Route, action: Forward, backend: Backend, request: Request) -> Request:
    """Return the request as it is sent to one backend."""
    rewrite = backend.path_rewrite or action.path_rewrite
    return replace(
        request,
        target=rewritten(rewrite, route.match, request.target) if rewrite else request.target,
        authority=backend.host_rewrite or action.host_rewrite or request.authority,
        headers=apply(route.request_headers, apply(backend.request_headers, request.headers)),
    )


def _redirected(trail: _Trail, where: str, redirect: Redirect, share: str) -> Explanation:
    last = Step(stage=Stage.CLUSTER, is_passed=True, sentence=f"{share} of such requests are redirected to {where}")
    return replace(trail.end(last, Outcome.ALLOWED, redirect.status), location=where)


def _reached(trail: _Trail, action: Forward, backend: Backend, sent: Request, share: str) -> Explanation:
    if backend.cluster is None:
        sentence = f"{share} of such requests go to a backend that cannot be resolved"
        last = Step(stage=Stage.CLUSTER, is_passed=False, sentence=sentence)
        return trail.end(last, Outcome.REFUSED, action.lacking_status)
    return replace(_arrived(trail, backend.cluster, sent, share), request=sent)


def _bytes(trail: _Trail, way: Outbound) -> Explanation:
    sentence = f"{way.service} speaks TCP: no route, every connection goes to the Service itself"
    step = Step(stage=Stage.ROUTE, is_passed=True, sentence=sentence, origin=next(iter(way.origins), None))
    return _arrived(trail.then(step), way.service, trail.connection, "100 %")


def _arrived(trail: _Trail, service: PortRef, sent: Request | Connection, share: str) -> Explanation:
    """Follow the call to the instances of the Service and through what they enforce."""
    known = next(each for each in trail.caller.clusters if each.service == service)
    answered = f"{share} of such calls go to {service}, answered by {' or '.join(known.identities)}"
    origin = next(iter(known.origins), None)
    trail = trail.then(Step(stage=Stage.CLUSTER, is_passed=True, sentence=answered, origin=origin))
    every = [each for zone in trail.around.endpoints_of(service).localities for each in zone.endpoints]
    if not every:
        lack = trail.around.lack_of(service)
        sentence = f"{service} has no instance that takes traffic" + (f": {lack}" if lack else "")
        missing = Step(stage=Stage.ENDPOINT, is_passed=False, sentence=sentence)
        return replace(trail.end(missing, Outcome.NO_ENDPOINT, 503), service=service)
    healthy = [each for each in every if each.health is Health.HEALTHY]
    trail = trail.then(_endpoint_step(trail.around, service, healthy, every))
    judged = [_judged(trail, each, sent) for each in healthy or every]
    worst = next((each for each in judged if each.outcome is not Outcome.ALLOWED), judged[0])
    return replace(worst, service=service)


def _endpoint_step(
    around: Surroundings, service: PortRef, healthy: Sequence[EndpointView], every: Sequence[EndpointView]
) -> Step:
    """Name every instance with its weight and why it has it; by the panic rule all are called when none is healthy."""
    number = len(healthy)
    sentence = f"{service}: {number} instance{'s take' if number > 1 else ' takes'} traffic"
    if not healthy:
        sentence = f"{service}: no healthy instance; calls go to all {len(every)} of them"
    listed = (_listed(each, around.standing_of(service, each.workload)) for each in (*healthy, *_others(every)))
    return Step(stage=Stage.ENDPOINT, is_passed=True, sentence=sentence, details=(*listed, *around.shares_of(service)))


def _others(every: Sequence[EndpointView]) -> Sequence[EndpointView]:
    return [each for each in every if each.health is not Health.HEALTHY]


def _listed(endpoint: EndpointView, reason: str) -> str:
    """One instance in a line: where it is, on which way, what it gets and why."""
    if endpoint.health is not Health.HEALTHY:
        told = f"{endpoint.workload} is {endpoint.health}"
    else:
        told = f"{endpoint.workload} at {endpoint.address}:{endpoint.port}"
        told += f" through the gateway at {endpoint.via}" if endpoint.via else ""
        told += f", {endpoint.weight} % of a fair share" if endpoint.weight != FAIR else ""
    return f"{told}: {reason}" if reason else told


def _judged(trail: _Trail, endpoint: EndpointView, sent: Request | Connection) -> Explanation:
    """Say what one instance does with the call."""
    callee = trail.around.callee_of(endpoint.workload)
    if callee is None or not endpoint.is_mtls:
        sentence = f"{endpoint.workload} has no proxy: it is called in plaintext and no policy protects it"
        return trail.end(Step(stage=Stage.MTLS, is_passed=True, sentence=sentence), Outcome.ALLOWED, 0)
    port = callee.app_ports.get(endpoint.port, endpoint.port)
    policies = callee.view.inbound.policies
    verdict = authorize(policies, _at(sent, port, callee.address))
    last = Step(
        stage=Stage.POLICY,
        is_passed=verdict.allowed,
        sentence=f"{endpoint.workload}: {verdict.sentence}",
        rule=verdict.rule,
        origin=_origin(policies, verdict.rule),
        details=(
            *(f"{policy.decision} {policy.name}" for policy in policies),
            *(counting(callee.view.inbound.limits, sent) if verdict.allowed else ()),
        ),
    )
    outcome = Outcome.ALLOWED if verdict.allowed else Outcome.DENIED
    return trail.then(_mtls_step(trail, callee.view, endpoint, port)).end(last, outcome, verdict.status)


def _at(sent: Request | Connection, port: int, address: str) -> Request | Connection:
    """Return the call as the instance sees it."""
    if isinstance(sent, Connection):
        return replace(sent, port=port, destination_ip=address)
    return replace(sent, connection=replace(sent.connection, port=port, destination_ip=address))


def _mtls_step(trail: _Trail, callee: View, endpoint: EndpointView, port: int) -> Step:
    inbound, way = callee.inbound, WayTo.FAR if endpoint.via else trail.around.way_to(endpoint.workload)
    mode = dict(inbound.port_mtls).get(port, inbound.mtls)
    match way:
        case WayTo.WITHIN:
            sentence = (
                f"{endpoint.workload} is called within the machine, not encrypted (sameMachine: local); "
                f"the caller is known by its network namespace as {trail.caller.identity}"
            )
        case WayTo.NEAR:
            sentence = f"{endpoint.workload} is called with mutual TLS within the machine (sameMachine: tls)"
        case WayTo.FAR:
            sentence = f"{endpoint.workload} is called with mutual TLS"
        case _:
            assert_never(way)
    sentence += f"; port {port} is {mode}" + ("" if mode is MtlsMode.STRICT else " and would take plaintext too")
    return Step(stage=Stage.MTLS, is_passed=True, sentence=sentence, origin=next(iter(inbound.origins), None))


def _origin(policies: Sequence[Policy], rule: str) -> Origin | None:
    """Return the place of a rule by its name."""
    for policy in policies:
        if any(each.name == rule for each in policy.rules):
            where = rule.removeprefix(policy.name).strip()
            return next((Origin(origin.ref, f"spec.{where}") for origin in policy.origins), None)
    return None
