"""May this call pass the AuthorizationPolicies of the workload that it reached?

Istio: "If there are any DENY policies that match the request, deny the request. If there are no ALLOW policies for the
workload, allow the request. If any of the ALLOW policies match the request, allow the request. Deny the request."
Invariant: what cannot be seen never widens access. Of a bare connection an ALLOW rule about requests never matches, and
a DENY rule matches without that part; who proved no identity has no principal, no namespace and no service account.
"""

from collections.abc import Callable, Sequence

from masche.model.view import Attribute, Condition, Decision, Pattern, Policy, Rule
from masche.traffic.patterns import is_address_in, matches
from masche.traffic.request import Call, Connection, Request
from masche.traffic.verdict import Verdict

NO_POLICY = "no ALLOW policy applies to the workload, and no DENY rule matches"


def authorize(policies: Sequence[Policy], call: Call) -> Verdict:
    """Return the Verdict on one call. Without policies everything passes; an ALLOW without rules lets nothing pass."""
    denied = _first(policies, Decision.DENY, call)
    if denied:
        return Verdict.refuse(denied.name, f"denied by {denied.name}")
    allows = [policy for policy in policies if policy.decision is Decision.ALLOW]
    if not allows:
        return Verdict.allow("", NO_POLICY)
    allowed = _first(policies, Decision.ALLOW, call)
    if allowed:
        return Verdict.allow(allowed.name, f"allowed by {allowed.name}")
    considered = ", ".join(policy.name for policy in allows)
    return Verdict.refuse("", f"no ALLOW policy of the workload matches; considered: {considered}")


def _first(policies: Sequence[Policy], decision: Decision, call: Call) -> Rule | None:
    """Return the first rule of this decision that matches."""
    return next(
        (
            rule
            for policy in policies
            if policy.decision is decision
            for rule in policy.rules
            if rule_matches(rule, call, decision=decision)
        ),
        None,
    )


def rule_matches(rule: Rule, call: Call, *, decision: Decision) -> bool:
    """Any of the sources, any of the operations, all of ``when``."""
    return (
        _any(rule.sources, call, decision)
        and _any(rule.operations, call, decision)
        and all(_holds(condition, call, decision) for condition in rule.when)
    )


def _any(alternatives: tuple[tuple[Condition, ...], ...], call: Call, decision: Decision) -> bool:
    return not alternatives or any(all(_holds(each, call, decision) for each in some) for some in alternatives)


def _holds(condition: Condition, call: Call, decision: Decision) -> bool:
    if condition.attribute.needs_http:
        if isinstance(call, Connection):
            return decision is Decision.DENY
        return _values_hold(condition, _request_values(condition, call))
    return _values_hold(condition, _connection_values(condition.attribute, _connection(call)))


def _connection(call: Call) -> Connection:
    return call.connection if isinstance(call, Request) else call


def _values_hold(condition: Condition, values: tuple[str, ...]) -> bool:
    """Judge each value of a repeated header alone, never joined: one that is wanted is enough, none may be unwanted.

    So does Envoy. What is absent holds only where nothing in particular is wanted.
    """

    def is_any_among(patterns: Sequence[Pattern]) -> bool:
        return any(_is_one_of(patterns, condition.attribute, value) for value in values)

    return (not condition.values or is_any_among(condition.values)) and not is_any_among(condition.not_values)


def _is_one_of(patterns: Sequence[Pattern], attribute: Attribute, value: str) -> bool:
    compare = is_address_in if attribute in _ADDRESSES else matches
    return any(compare(pattern, value) for pattern in patterns)


_ADDRESSES = frozenset({Attribute.SOURCE_IP, Attribute.REMOTE_IP, Attribute.DESTINATION_IP})


def _request_values(condition: Condition, request: Request) -> tuple[str, ...]:
    """The values of an attribute that only a request has. Hosts compare without regard to case."""
    match condition.attribute:
        case Attribute.HOST:
            return _present(request.authority.lower())
        case Attribute.METHOD:
            return (request.method,)
        case Attribute.PATH:
            return (request.path,)
        case _:
            return request.values(condition.name)


def _connection_values(attribute: Attribute, connection: Connection) -> tuple[str, ...]:
    if attribute in {Attribute.NAMESPACE, Attribute.SERVICE_ACCOUNT}:
        namespace, account = _identity(connection.peer)
        return _present(namespace if attribute is Attribute.NAMESPACE else f"{namespace}/{account}".strip("/"))
    return _present(_PLAIN[attribute](connection))


_PLAIN: dict[Attribute, Callable[[Connection], str]] = {
    Attribute.PRINCIPAL: lambda connection: connection.peer or "",
    Attribute.PEER_URI: lambda connection: f"spiffe://{connection.peer}" if connection.peer else "",
    Attribute.SOURCE_IP: lambda connection: connection.source_ip,
    Attribute.REMOTE_IP: lambda connection: connection.remote_ip or connection.source_ip,
    Attribute.DESTINATION_IP: lambda connection: connection.destination_ip,
    Attribute.DESTINATION_PORT: lambda connection: str(connection.port),
    Attribute.SNI: lambda connection: connection.sni,
}


def _present(value: str) -> tuple[str, ...]:
    return (value,) if value else ()


def _identity(peer: str | None) -> tuple[str, str]:
    """Split ``<trust domain>/ns/<namespace>/sa/<service account>``; two empty words when it is not of that form."""
    match (peer or "").split("/"):
        case [_, "ns", namespace, "sa", account]:
            return namespace, account
        case _:
            return "", ""
