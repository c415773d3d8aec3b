"""What is wrong with policies that are valid on paper: no target, or no way to judge.

Invariant: a policy that does less than it says is never silent about it.
"""

from collections.abc import Iterator, Mapping
from itertools import chain

from masche.compiler.conditions import UnknownAttributeError, needs_request_identity, when
from masche.compiler.faults import deciding
from masche.compiler.policy import Placed
from masche.compiler.protocol import ports, protocol
from masche.compiler.selection import matches
from masche.compiler.trafficpolicy import of_defaults, outranked
from masche.compiler.unheeded import unheeded, unheeded_defaults
from masche.model.diagnostic import Diagnostic, Severity, Status
from masche.model.limits import KeyKind
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name
from masche.model.resources.fault_policy import FaultPolicy
from masche.model.resources.rate_limit_policy import RateLimitPolicy
from masche.model.resources.security import AuthorizationPolicy, AuthorizationRule
from masche.model.resources.traffic_policy import TrafficPolicy


def policy_statuses(mesh: Mesh) -> Iterator[Status]:
    """Yield a Status per policy, and one for the defaults of the mesh."""
    for policy in mesh.authorization_policies.values():
        problems = tuple(chain(_missing_targets(mesh, policy), _selects_nobody(mesh, policy), _not_judged(policy)))
        yield _status(policy, problems)
    for policy in mesh.traffic_policies.values():
        yield _status(policy, (*_missing_targets(mesh, policy), *unheeded(mesh, policy), *_says_in_vain(mesh, policy)))
    for policy in mesh.rate_limit_policies.values():
        problems = (*_missing_targets(mesh, policy), *_selects_nobody(mesh, policy), *_counts_nothing(mesh, policy))
        yield _status(policy, problems)
    for policy in mesh.fault_policies.values():
        yield _status(policy, (*_missing_targets(mesh, policy), *_troubles_nobody(mesh, policy)))
    defaults = of_defaults(mesh.config)
    yield Status(ref=mesh.config.ref, diagnostics=tuple(unheeded_defaults(mesh.config, defaults)))


Policy = AuthorizationPolicy | TrafficPolicy | RateLimitPolicy | FaultPolicy


def _status(policy: Policy, problems: tuple[Diagnostic, ...]) -> Status:
    codes = {each.code for each in problems}
    reason = next((_REASONS[code] for code in _REASONS if code in codes), "Accepted")
    return Status(ref=policy.ref, conditions=(("Accepted", reason == "Accepted", reason),), diagnostics=problems)


_REASONS = {"target-missing": "TargetNotFound", "outranked": "Conflicted"}
"""Why a policy is not accepted, in the Gateway API's words (GEP-713), by what is said of it."""


def _missing_targets(mesh: Mesh, policy: Policy) -> Iterator[Diagnostic]:
    for index, target in enumerate(policy.spec.target_refs):
        name = Name(policy.metadata.namespace, target.name)
        is_there = name in mesh.services if target.kind == Kind.SERVICE else name in mesh.gateways
        if not is_there:
            why = f"there is no {target.kind} {name}"
            yield _warning(policy, f"spec.targetRefs[{index}]", "target-missing", why, "create it, or correct the name")


def _selects_nobody(mesh: Mesh, policy: Placed) -> Iterator[Diagnostic]:
    selector: Mapping[str, str] = policy.spec.selector.match_labels if policy.spec.selector else {}
    namespace = policy.metadata.namespace
    is_everywhere = namespace == mesh.config.spec.root_namespace
    if selector and not any(
        (is_everywhere or name.namespace == namespace) and matches(selector, workload.metadata.labels)
        for name, workload in mesh.workloads.items()
    ):
        why = f"no Workload has these labels now, so the policy {_DOES[policy.kind]} nobody yet"
        yield _warning(policy, "spec.selector", "selects-nobody", why, "correct the labels if this is not meant")


_DOES = {Kind.AUTHORIZATION_POLICY: "protects", Kind.RATE_LIMIT_POLICY: "limits"}


def _says_in_vain(mesh: Mesh, policy: TrafficPolicy) -> Iterator[Diagnostic]:
    """Say which values another policy of the same target decides; the others hold."""
    for target, older, places in outranked(mesh.traffic_policies).get(policy.name, ()):
        why = f"for {target} {older.ref} decides {', '.join(places)}, which is older"
        yield _warning(policy, f"spec.{places[0]}", "said-twice", why, "say it in one of both")


def _counts_nothing(mesh: Mesh, policy: RateLimitPolicy) -> Iterator[Diagnostic]:
    """Say where a policy is about what has no requests, or no clients that could be told apart."""
    by_client = [index for index, each in enumerate(policy.spec.local) if each.key and each.key.type is KeyKind.CLIENT]
    for index, target in enumerate(policy.spec.target_refs):
        name = Name(policy.metadata.namespace, target.name)
        service = mesh.services.get(name) if target.kind == Kind.SERVICE else None
        if service and not any(protocol(port).is_http for port in ports(service)):
            place, fix = f"spec.targetRefs[{index}]", "name a Service that speaks HTTP"
            why = f"no port of Service {name} carries requests that could be counted, only bytes"
            yield _warning(policy, place, "counts-nothing", why, fix)
        for number in by_client if target.kind == Kind.GATEWAY else ():
            why = "to a Gateway nobody has an identity, so that all clients share one bucket"
            yield _warning(policy, f"spec.local[{number}].key", "one-bucket", why, "use a key of type Header, or none")


def _troubles_nobody(mesh: Mesh, policy: FaultPolicy) -> Iterator[Diagnostic]:
    """Say for which Services another policy decides, and which have no requests."""
    for index, target in enumerate(policy.spec.target_refs):
        name, place = Name(policy.metadata.namespace, target.name), f"spec.targetRefs[{index}]"
        service, other = mesh.services.get(name), deciding(mesh.fault_policies)[name]
        if other is not policy:
            why = f"for Service {name} {other.ref} decides, which is older"
            yield _warning(policy, place, "outranked", why, "remove one of both")
        elif service and not any(protocol(port).is_http for port in ports(service)):
            why = f"no port of Service {name} carries requests, only bytes, for which no trouble is made"
            yield _warning(policy, place, "troubles-nobody", why, "name a Service that speaks HTTP")


def _not_judged(policy: AuthorizationPolicy) -> Iterator[Diagnostic]:
    for index, rule in enumerate(policy.spec.rules):
        for place, what in _unknown(policy, rule):
            why = f"{what} is not judged here: an ALLOW rule with it never matches, a DENY rule matches without it"
            yield _warning(policy, f"spec.rules[{index}].{place}", "not-judged", why, "use what a certificate proves")


def _unknown(policy: AuthorizationPolicy, rule: AuthorizationRule) -> Iterator[tuple[str, str]]:
    for number, each in enumerate(rule.from_):
        if needs_request_identity(each.source):
            yield f"from[{number}].source", "the identity of an end user"
    for number, each in enumerate(rule.when):
        try:
            when(each, policy.metadata.namespace, "")
        except UnknownAttributeError:
            yield f"when[{number}].key", each.key


def _warning(policy: Policy, place: str, code: str, why: str, fix: str) -> Diagnostic:
    where = f"{policy.ref} {place}"
    return Diagnostic(code=code, where=where, why=why, fix=fix, severity=Severity.WARNING, ref=policy.ref)
