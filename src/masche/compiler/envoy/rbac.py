"""Encode AuthorizationPolicies as Envoy's RBAC filters: first one that denies, then one that allows.

Istio: "If there are any DENY policies that match the request, deny the request. If there are no ALLOW policies for the
workload, allow the request. If any of the ALLOW policies match the request, allow the request. Deny the request."
The name of each rule is the name of its RBAC policy, so that a denial can say it. Conditions on the destination port
are decided here, because a listener serves one port. Invariant: what cannot be seen on a port never widens access: on
TCP an ALLOW rule that needs a request never matches, and a DENY rule forgets that part of itself.

Rules that deny stand twice, enforced and, one filter earlier, as a shadow: Envoy writes down what a filter decided only
after it has answered, and the answer is to name the rule. That no rule allowed a request can be told from the answer,
so those that allow are asked once; on TCP, where there is no answer, they stand twice as well.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from masche.compiler.envoy.conditions import permission, principal, principal_or_neighbour
from masche.compiler.envoy.parts import extension
from masche.model.view import Attribute, Condition, Decision, PatternKind, Policy, Rule
from masche.wire.messages import Body, Json, any_of

HTTP_FILTER = "envoy.filters.http.rbac"
"""The namespace of the metadata in which the HTTP filters leave their decision."""

NETWORK_FILTER = "envoy.filters.network.rbac"
"""The same for the network filters."""

_HTTP = "envoy.extensions.filters.http.rbac.v3.RBAC"
_HTTP_BY_ROUTE = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
_NETWORK = "envoy.extensions.filters.network.rbac.v3.RBAC"

_SOURCES = {
    Attribute.PRINCIPAL,
    Attribute.NAMESPACE,
    Attribute.SERVICE_ACCOUNT,
    Attribute.SOURCE_IP,
    Attribute.REMOTE_IP,
}

Encode = Callable[[Condition], Body]
"""How one condition is written."""


DENY_PREFIX, ALLOW_PREFIX = "deny_", "allow_"
"""What the keys of the metadata begin with, for the two decisions."""

_FORESEE, _DENY, _ALLOW = "masche.foresee", "masche.deny", "masche.allow"

HTTP_FILTERS: tuple[Body, ...] = tuple(
    {**extension(name, _HTTP), "disabled": True} for name in (_FORESEE, _DENY, _ALLOW)
)
"""The HTTP filters: the first only foresees what the second will deny; the third allows.

They hold no rules, and do nothing, until a table of routes brings some: an existing connection goes on with the filters
that it began with, but asks the newest table at each request.
"""


@lru_cache(maxsize=16_384)
def http_rules(policies: tuple[Policy, ...], port: int, *, is_shared: bool = False) -> dict[str, Json]:
    """Return ``typed_per_filter_config`` of the table of routes for application port ``port``.

    ``is_shared`` says that callers may be workloads of the same proxy, too.
    """
    deny, allow = rules(policies, port, is_http=True, who=_who(is_shared=is_shared))
    filters = {
        _FORESEE: _shadow(deny, DENY_PREFIX),
        _DENY: _enforced(deny),
        _ALLOW: _enforced(allow),
    }
    return {name: any_of(_HTTP_BY_ROUTE, {"rbac": body}) for name, body in filters.items() if body}


@lru_cache(maxsize=16_384)
def network_filters(policies: tuple[Policy, ...], port: int, *, is_shared: bool = False) -> tuple[Body, ...]:
    """Return the network filters that carry out ``policies`` where only bytes are seen."""
    deny, allow = rules(policies, port, is_http=False, who=_who(is_shared=is_shared))
    return tuple(
        extension(
            NETWORK_FILTER, _NETWORK, {**_enforced(some), **_shadow(some, prefix), "stat_prefix": f"inbound/{port}"}
        )
        for some, prefix in ((deny, DENY_PREFIX), (allow, ALLOW_PREFIX))
        if some
    )


def _who(*, is_shared: bool) -> Encode:
    return principal_or_neighbour if is_shared else principal


def _enforced(rules: Body | None) -> dict[str, Json]:
    return {"rules": rules} if rules else {}


def _shadow(rules: Body | None, prefix: str) -> dict[str, Json]:
    return {"shadow_rules": rules, "shadow_rules_stat_prefix": prefix} if rules else {}


def rules(
    policies: tuple[Policy, ...], port: int, *, is_http: bool, encode: Encode = permission, who: Encode = principal
) -> tuple[Body | None, Body | None]:
    """Return what is denied, and what is allowed; None where nothing is, or where all is."""
    both = (who, encode)
    deny = _policies(policies, Decision.DENY, port, is_http=is_http, both=both)
    allow = _policies(policies, Decision.ALLOW, port, is_http=is_http, both=both)
    guards = any(policy.decision is Decision.ALLOW for policy in policies)
    return (
        {"action": "DENY", "policies": deny} if deny else None,
        {"action": "ALLOW", "policies": allow} if guards else None,
    )


def _policies(
    policies: Iterable[Policy], decision: Decision, port: int, *, is_http: bool, both: tuple[Encode, Encode]
) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for policy in policies:
        if policy.decision is decision:
            for rule in policy.rules:
                encoded = _rule(rule, port, is_http=is_http, is_deny=decision is Decision.DENY, both=both)
                if encoded is not None:
                    found[rule.name] = encoded
    return found


def _rule(rule: Rule, port: int, *, is_http: bool, is_deny: bool, both: tuple[Encode, Encode]) -> Body | None:
    """Return one RBAC policy, or None when the rule can never match on this port; ``both`` encode who, and what."""
    who, what = both

    def possible(alternatives: tuple[tuple[Condition, ...], ...]) -> list[tuple[Condition, ...]]:
        reduced = (_reduce(each, port, is_http=is_http, is_deny=is_deny) for each in alternatives)
        return [each for each in reduced if each is not None]

    sources, operations = possible(rule.sources or ((),)), possible(rule.operations or ((),))
    when = _reduce(rule.when, port, is_http=is_http, is_deny=is_deny)
    if not sources or not operations or when is None:
        return None
    when_source = [condition for condition in when if condition.attribute in _SOURCES]
    when_other = [condition for condition in when if condition.attribute not in _SOURCES]
    return {
        "principals": [_all([*each, *when_source], who, "and_ids", "ids") for each in sources],
        "permissions": [_all([*each, *when_other], what, "and_rules", "rules") for each in operations],
    }


def _reduce(
    conditions: tuple[Condition, ...], port: int, *, is_http: bool, is_deny: bool
) -> tuple[Condition, ...] | None:
    """Decide what is known of the port; None when a condition cannot hold."""
    left: list[Condition] = []
    for condition in conditions:
        if condition.attribute is Attribute.DESTINATION_PORT:
            if not _port_holds(condition, port):
                return None
        elif condition.attribute.needs_http and not is_http:
            if not is_deny:
                return None
        else:
            left.append(condition)
    return tuple(left)


def _port_holds(condition: Condition, port: int) -> bool:
    wanted = {pattern.value for pattern in condition.values}
    unwanted = {pattern.value for pattern in condition.not_values}
    is_any = any(pattern.kind is PatternKind.PRESENT for pattern in condition.values)
    return (not wanted or is_any or str(port) in wanted) and str(port) not in unwanted


def _all(conditions: list[Condition], encode: Encode, group: str, members: str) -> Body:
    if not conditions:
        return {"any": True}
    return {group: {members: [encode(condition) for condition in conditions]}}
