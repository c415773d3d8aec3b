"""Which RateLimitPolicies hold for a vantage, as Limits in the order in which they are asked.

A policy holds where an AuthorizationPolicy with its selector or targetRefs would. All limits hold beside each other;
the slowest is asked first, so that what it refuses takes no token of the others. Invariant: how many are refused by one
limit never depends on the order in which people wrote several.
"""

from collections.abc import Iterable, Iterator

from masche.compiler.policy import holds
from masche.compiler.rules import request_match
from masche.compiler.selection import roster
from masche.compiler.vantage import stand
from masche.model.limits import Limit, LimitKey
from masche.model.mesh import Mesh
from masche.model.refs import Origin
from masche.model.resources.core import Service
from masche.model.resources.gateway_api import HTTPPathMatch, HTTPRouteMatch
from masche.model.resources.rate_limit_policy import LimitBy, LimitMatch, LocalLimit, RateLimitPolicy
from masche.model.resources.scalars import seconds
from masche.model.vantage import Placement, Vantage
from masche.traffic import match
from masche.traffic.request import Call, Request


def limits(mesh: Mesh, vantage: Vantage) -> tuple[Limit, ...]:
    """Return the limits that hold here, the slowest first."""
    labels = dict(vantage.labels)
    policies = (each for each in mesh.rate_limit_policies.values() if holds(mesh, each, vantage, labels))
    found = (limit for policy in policies for limit in _limits(policy))
    return tuple(sorted(found, key=lambda each: (each.rate, each.name)))


def _limits(policy: RateLimitPolicy) -> Iterator[Limit]:
    for index, written in enumerate(policy.spec.local):
        yield Limit(
            name=f"{policy.name} local[{index}]",
            requests=written.requests,
            per=seconds(written.per),
            burst=_burst(written),
            matches=tuple(request_match(_as_of_route(each)) for each in written.matches),
            key=_key(written.key),
            origins=(Origin(policy.ref, f"spec.local[{index}]"),),
        )


def _burst(written: LocalLimit) -> int:
    return written.requests if written.burst is None else written.burst


def _as_of_route(match: LimitMatch) -> HTTPRouteMatch:
    path = HTTPPathMatch(type=match.path.type, value=match.path.value)
    return HTTPRouteMatch(path=path, method=match.method, headers=match.headers)


def _key(written: LimitBy | None) -> LimitKey | None:
    return written and LimitKey(kind=written.type, name=(written.name or "").lower())


def counting(some: Iterable[Limit], call: Call) -> Iterator[str]:
    """Say of each limit that counts a call how much passes; nothing counts a bare connection."""
    if not isinstance(call, Request):
        return
    for each in some:
        if not each.matches or any(match.holds(one, call) for one in each.matches):
            yield f"LIMIT {each.name}: {amount(each)}; beyond it 429"


def of_service(mesh: Mesh, service: Service) -> tuple[Limit, ...]:
    """Return the limits that some instance of a Service has."""
    stands = {stand(mesh, each, placement=Placement.SIDECAR) for each in roster(mesh.workloads).members(service)}
    found = {limit for each in stands for limit in limits(mesh, each)}
    return tuple(sorted(found, key=lambda each: each.name))


def amount(limit: Limit) -> str:
    """Say to people how much a limit lets pass: ``100 requests per 1 s (50 at once), for each client``."""
    unit = f"{limit.per:g} s" if limit.per >= 1 else f"{limit.per * 1000:g} ms"
    once = f" ({limit.burst} at once)" if limit.burst != limit.requests else ""
    return f"{limit.requests} request{'s' * (limit.requests != 1)} per {unit}{once}{_of(limit.key)}"


def _of(key: LimitKey | None) -> str:
    if key is None:
        return ""
    return f", for each value of {key.name}" if key.name else ", for each client"
