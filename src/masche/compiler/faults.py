"""Which trouble is made for those who call a Service: of the FaultPolicies that name it the oldest decides alone.

It comes with the routes of the Service, so whoever calls it is in trouble, whichever way it calls; at a gateway, with
those that lead to it first. Invariant: only what is sent on is in trouble; redirects and refusals stay what they are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from masche.compiler.precedence import age
from masche.compiler.remember import by_identity
from masche.model.mesh import Mesh
from masche.model.refs import Name, Origin
from masche.model.resources.fault_policy import FaultPolicy
from masche.model.resources.scalars import seconds
from masche.model.view import Fault, Forward, Route, ValueMatch


@by_identity
def deciding(policies: Mapping[Name, FaultPolicy]) -> Mapping[Name, FaultPolicy]:
    """Return the policy that decides for each Service that some policy names."""
    found: dict[Name, FaultPolicy] = {}
    for policy in sorted(policies.values(), key=lambda each: (*age(each.metadata.creation_timestamp), str(each.name))):
        for target in policy.spec.target_refs:
            found.setdefault(Name(policy.metadata.namespace, target.name), policy)
    return MappingProxyType(found)


def troubled(mesh: Mesh, routes: Iterable[Route], service: Name | None = None) -> Iterable[Route]:
    """Return the routes with the trouble of ``service``; without one each has that of its first backend."""
    if not mesh.fault_policies:
        return routes
    known = deciding(mesh.fault_policies)
    return [_troubled(each, known, service) for each in routes]


def any_troubled(routes: Iterable[Route]) -> bool:
    """Say whether there is trouble on some of the routes."""
    return any(each.fault is not None for each in routes)


def _troubled(route: Route, known: Mapping[Name, FaultPolicy], service: Name | None) -> Route:
    if not isinstance(route.action, Forward):
        return route
    called = service or next((each.cluster.owner for each in route.action.backends if each.cluster), None)
    policy = known.get(called) if called else None
    if policy is None:
        return route
    return replace(route, fault=_fault(policy), origins=(*route.origins, Origin(policy.ref, "spec")))


def _fault(policy: FaultPolicy) -> Fault:
    delay, abort = policy.spec.delay, policy.spec.abort
    headers = ((each.name.lower(), each) for each in policy.spec.headers)
    return Fault(
        delay=seconds(delay.time) if delay else 0.0,
        delay_percent=float(delay.percent) if delay else 0.0,
        status=abort.status if abort else 0,
        abort_percent=float(abort.percent) if abort else 0.0,
        headers=tuple(ValueMatch(name=name, kind=each.type, value=each.value) for name, each in sorted(headers)),
    )


def said(fault: Fault) -> str:
    """Say to people what trouble is made: ``10 % wait 2 s, 5 % are answered 503``."""
    delayed = f"{fault.delay_percent:g} % wait {fault.delay:g} s" if fault.delay_percent else ""
    refused = f"{fault.abort_percent:g} % are answered {fault.status}" if fault.abort_percent else ""
    among = " of those with the headers " + ", ".join(each.name for each in fault.headers) if fault.headers else ""
    return ", ".join(filter(None, (delayed, refused))) + among
