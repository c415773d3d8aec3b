"""Which AuthorizationPolicies hold for a vantage, in the form in which they are decided: rules made of Conditions.

A policy of a namespace holds there, one of the root namespace everywhere, narrowed by its selector or its targetRefs.
Invariant: what cannot be judged fails closed; an ALLOW rule that needs it never matches, and a DENY rule matches
without it.
"""

from collections.abc import Mapping

from masche.compiler.conditions import UnknownAttributeError, needs_request_identity, operation, source, when
from masche.compiler.selection import matches
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name, Origin
from masche.model.resources.rate_limit_policy import RateLimitPolicy
from masche.model.resources.security import AuthorizationPolicy, AuthorizationRule
from masche.model.vantage import Vantage
from masche.model.view import Condition, Decision, Policy, Rule


def policies(mesh: Mesh, vantage: Vantage) -> tuple[Policy, ...]:
    """Return the policies that hold here: DENY before ALLOW before AUDIT, each sorted by name."""
    labels = dict(vantage.labels)
    found = [each for each in mesh.authorization_policies.values() if holds(mesh, each, vantage, labels)]
    ordered = sorted(found, key=lambda each: (_ORDER[each.spec.action], str(each.name)))
    return tuple(_policy(each, mesh.config.spec.trust_domain) for each in ordered)


_ORDER = {Decision.DENY: 0, Decision.ALLOW: 1, Decision.AUDIT: 2}


Placed = AuthorizationPolicy | RateLimitPolicy
"""What says by a selector, or by targetRefs, which workloads it is about."""


def holds(mesh: Mesh, policy: Placed, vantage: Vantage, labels: Mapping[str, str]) -> bool:
    """Say whether a policy is about workloads that stand here."""
    namespace = policy.metadata.namespace
    if policy.spec.target_refs:
        return namespace == vantage.namespace and _is_target(mesh, policy, vantage, labels)
    selector: Mapping[str, str] = policy.spec.selector.match_labels if policy.spec.selector else {}
    return namespace in {vantage.namespace, mesh.config.spec.root_namespace} and matches(selector, labels)


def _is_target(mesh: Mesh, policy: Placed, vantage: Vantage, labels: Mapping[str, str]) -> bool:
    for target in policy.spec.target_refs:
        name = Name(policy.metadata.namespace, target.name)
        if target.kind == Kind.GATEWAY and vantage.gateway == name:
            return True
        service = mesh.services.get(name) if target.kind == Kind.SERVICE else None
        if service and service.spec.selector and matches(service.spec.selector, labels):
            return True
    return False


def _policy(policy: AuthorizationPolicy, trust_domain: str) -> Policy:
    rules = (_rule(policy, index, rule, trust_domain) for index, rule in enumerate(policy.spec.rules))
    return Policy(
        name=str(policy.name),
        decision=policy.spec.action,
        rules=tuple(rule for rule in rules if rule),
        origins=(Origin(policy.ref, "spec"),),
    )


def _rule(policy: AuthorizationPolicy, index: int, rule: AuthorizationRule, trust_domain: str) -> Rule | None:
    """Return the rule, or None for one that must never match."""
    conditions = _when(
        rule, policy.metadata.namespace, trust_domain, is_lenient=policy.spec.action is not Decision.ALLOW
    )
    if conditions is None:
        return None
    is_strict = policy.spec.action is Decision.ALLOW
    judged = [each.source for each in rule.from_ if not (is_strict and needs_request_identity(each.source))]
    if rule.from_ and not judged:
        return None
    return Rule(
        name=f"{policy.name} rules[{index}]",
        sources=tuple(source(each, policy.metadata.namespace, trust_domain) for each in judged),
        operations=tuple(operation(each.operation) for each in rule.to),
        when=conditions,
    )


def _when(
    rule: AuthorizationRule, namespace: str, trust_domain: str, *, is_lenient: bool
) -> tuple[Condition, ...] | None:
    """Return the conditions; one on an unknown attribute is left out of a DENY and ends an ALLOW."""
    conditions: list[Condition] = []
    for each in rule.when:
        try:
            conditions.append(when(each, namespace, trust_domain))
        except UnknownAttributeError:
            if not is_lenient:
                return None
    return tuple(conditions)
