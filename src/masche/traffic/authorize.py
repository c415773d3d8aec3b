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


Holds = Callable[[Condition, Call], bool]


def authorize(policies: Sequence[Policy], call: Call, *, is_joined: bool = False) -> Verdict:
    """Return the Verdict on one call. Without policies everything passes; an ALLOW without rules lets nothing pass.

    ``is_joined``: a server joined the values of repeated headers by commas (CGI), so that nobody knows whether it was
    one value or several. Then a DENY rule matches if it would in either case; an ALLOW rule sees the whole alone.
    """
    denied = _first(policies, Decision.DENY, call, _denies_joined if is_joined else _denies)
    if denied:
        return Verdict.refuse(denied.name, f"denied by {denied.name}")
    allows = [policy for policy in policies if policy.decision is Decision.ALLOW]
    if not allows:
        return Verdict.allow("", NO_POLICY)
    allowed = _first(policies, Decision.ALLOW, call, _allows)
    if allowed:
        return Verdict.allow(allowed.name, f"allowed by {allowed.name}")
    considered = ", ".join(policy.name for policy in allows)
    return Verdict.refuse("", f"no ALLOW policy of the workload matches; considered: {considered}")


def _first(policies: Sequence[Policy], decision: Decision, call: Call, holds: Holds) -> Rule | None:
    """Return the first rule of this decision that matches."""
    return next(
        (
            rule
            for policy in policies
            if policy.decision is decision
            for rule in policy.rules
            if _matches(rule, call, holds)
        ),
        None,
    )


def _matches(rule: Rule, call: Call, holds: Holds) -> bool:
    """Any of the sources, any of the operations, all of ``when``."""
    return (
        _any(rule.sources, call, holds)
        and _any(rule.operations, call, holds)
        and all(holds(condition, call) for condition in rule.when)
    )


def _any(alternatives: tuple[tuple[Condition, ...], ...], call: Call, holds: Holds) -> bool:
    return not alternatives or any(all(holds(each, call) for each in some) for some in alternatives)


def _allows(condition: Condition, call: Call) -> bool:
    return not _is_unseen(condition, call) and _values_hold(condition, _values(condition, call))


def _denies(condition: Condition, call: Call) -> bool:
    return _is_unseen(condition, call) or _values_hold(condition, _values(condition, call))


def _denies_joined(condition: Condition, call: Call) -> bool:
    if _denies(condition, call):
        return True
    if condition.attribute is not Attribute.HEADER:
        return False
    parts = (part.strip(" \t") for value in _values(condition, call) for part in value.split(","))
    return _values_hold(condition, tuple(parts))


def _is_unseen(condition: Condition, call: Call) -> bool:
    """Whether it is about requests, and this is a bare connection."""
    return condition.attribute.needs_http and isinstance(call, Connection)


def _values(condition: Condition, call: Call) -> tuple[str, ...]:
    if isinstance(call, Request):
        if condition.attribute.needs_http:
            return _request_values(condition, call)
        call = call.connection
    return _connection_values(condition.attribute, call)


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
