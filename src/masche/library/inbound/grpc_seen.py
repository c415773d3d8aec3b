"""What policies may ask of a call to a grpcio server: what gRPC shows to a handler.

It shows who called and with which metadata, but not which host was asked for, nor what it keeps to itself; a policy
that asks for that is read as where it cannot be seen. Pure. Invariant: an ALLOW rule that asks for it never matches,
and a DENY rule forgets that part of itself.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final

from masche.library.core.ports import Reception
from masche.model.view import Attribute, Condition, Decision, Inbound, Policy, Rule

_HEADERS: Final = frozenset({"host", "te", "content-type"})
_OWN: Final = ("grpc-", ":")
"""Headers, and beginnings of headers, that gRPC keeps to itself."""

_SEEN: Final = frozenset({":method", ":path"})
"""What HTTP/2 writes as a header and gRPC says otherwise; by xDS a rule on methods is one on ``:method``."""

_BINARY: Final = "-bin"
"""The end of names whose values gRPC decodes from base64, which policies and proxies compare as they came."""

_Alternatives = tuple[tuple[Condition, ...], ...]


class Visible:
    """A Reception whose policies ask for nothing that gRPC does not show."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def inbound(self, port: int) -> Inbound | None:
        """See Reception."""
        told = self._reception.inbound(port)
        return _visible(told) if told else None

    def waiting_for(self) -> str:
        """See Reception."""
        return self._reception.waiting_for()


@lru_cache(maxsize=64)
def _visible(told: Inbound) -> Inbound:
    policies = tuple(_without_unseen(each) for each in told.policies)
    return told if policies == told.policies else replace(told, policies=policies)


def _without_unseen(policy: Policy) -> Policy:
    is_deny = policy.decision is Decision.DENY
    rules = (_seen(each, is_deny=is_deny) for each in policy.rules)
    return replace(policy, rules=tuple(each for each in rules if each is not None))


def _seen(rule: Rule, *, is_deny: bool) -> Rule | None:
    """None: it can never match. An alternative that is forgotten whole is any source, or any operation."""
    when = _kept(rule.when)
    if is_deny:
        return replace(rule, when=when, sources=_wider(rule.sources), operations=_wider(rule.operations))
    sources, operations = _narrower(rule.sources), _narrower(rule.operations)
    is_possible = when == rule.when and bool(sources or not rule.sources) and bool(operations or not rule.operations)
    return replace(rule, sources=sources, operations=operations) if is_possible else None


def _wider(alternatives: _Alternatives) -> _Alternatives:
    """What is denied: without what is not seen."""
    kept = tuple(map(_kept, alternatives))
    return () if () in kept else kept


def _narrower(alternatives: _Alternatives) -> _Alternatives:
    """What is allowed: only what is seen whole."""
    return tuple(each for each in alternatives if _kept(each) == each)


def _kept(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    return tuple(each for each in conditions if not _is_unseen(each))


def _is_unseen(condition: Condition) -> bool:
    if condition.attribute is Attribute.HEADER:
        name = condition.name
        return name not in _SEEN and (name in _HEADERS or name.startswith(_OWN) or name.endswith(_BINARY))
    return condition.attribute in {Attribute.HOST, Attribute.SNI}
