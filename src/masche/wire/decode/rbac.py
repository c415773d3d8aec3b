"""Decode the rules of an RBAC filter (gRFC A41) into a Policy: its name for each rule, its decision, what it matches.

What it matches may be nested at will; it becomes alternatives of conditions, of which all must hold (a disjunctive
normal form), negations at the conditions. Invariant: the Policy matches exactly the requests that the filter matches;
what depends on something that is not seen here is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network
from itertools import product
from typing import Any

from masche.model.view import Attribute, Condition, Decision, Pattern, PatternKind, Policy, Rule, ValueKind
from masche.wire.decode import matchers
from masche.wire.decode.reading import only, type_of, unpacked, value_or
from masche.wire.framing import WireError

Term = tuple[Condition, ...]
"""Conditions of which all must hold."""

Terms = tuple[Term, ...]
"""Alternatives. None at all: it never holds; an empty one: it always does."""

_ALWAYS: Terms = ((),)
_MOST_TERMS = 1_024
_DEEPEST = 32
_TEMPLATE = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"

_KINDS = {
    ValueKind.EXACT: PatternKind.EXACT,
    ValueKind.PREFIX: PatternKind.PREFIX,
    ValueKind.SUFFIX: PatternKind.SUFFIX,
    ValueKind.CONTAINS: PatternKind.CONTAINS,
    ValueKind.REGEX: PatternKind.REGEX,
    ValueKind.RANGE: PatternKind.RANGE,
    ValueKind.PRESENT: PatternKind.PRESENT,
}
_DECISIONS = {0: Decision.ALLOW, 1: Decision.DENY}


def policy(rules: Any, name: str, where: str) -> Policy | None:
    """Return the Policy that ``RBAC.rules`` are; None when they decide nothing (``LOG``)."""
    only(rules, where, {"action", "policies", "audit_logging_options"})
    if rules.action not in _DECISIONS:
        return None
    made = (_rule(key, rules.policies[key], f"{where}[{key}]") for key in sorted(rules.policies))
    return Policy(name=name, decision=_DECISIONS[rules.action], rules=tuple(each for each in made if each is not None))


def by_name(policy: Policy, allowing: tuple[str, ...]) -> Iterator[Policy]:
    """Yield the policies of which our own control plane made one filter: its rules are called ``<policy> rules[0]``.

    ``allowing`` names those that allow, for one without rules leaves no other trace.
    """
    rules: dict[str, list[Rule]] = {name: [] for name in allowing if policy.decision is Decision.ALLOW}
    for rule in policy.rules:
        rules.setdefault(rule.name.rpartition(" rules[")[0] or policy.name, []).append(rule)
    for name, some in (rules or {policy.name: []}).items():
        yield Policy(name=name, decision=policy.decision, rules=tuple(some))


def _rule(name: str, message: Any, where: str) -> Rule | None:
    """None when it can never match: a Rule without sources, or operations, is one that any has."""
    only(message, where, {"permissions", "principals"})
    sources = _either([_principal(each, where, 0) for each in message.principals], where)
    operations = _either([_permission(each, where, 0) for each in message.permissions], where)
    return Rule(name=name, sources=_plain(sources), operations=_plain(operations)) if sources and operations else None


def _plain(terms: Terms) -> Terms:
    """What always holds needs no condition."""
    return () if () in terms else terms


def _either(parts: Iterable[Terms], where: str) -> Terms:
    return _bounded(tuple(dict.fromkeys(term for part in parts for term in part)), where)


def _both(parts: list[Terms], where: str) -> Terms:
    made = _ALWAYS
    for part in parts:
        if len(made) * len(part) > _MOST_TERMS:
            raise _too_many(where)
        made = tuple(dict.fromkeys((*first, *second) for first, second in product(made, part)))
    return made


def _bounded(terms: Terms, where: str) -> Terms:
    if len(terms) > _MOST_TERMS:
        raise _too_many(where)
    return terms


def _too_many(where: str) -> WireError:
    return WireError(f"{where}: the rule has more than {_MOST_TERMS} alternatives")


def _opposite(terms: Terms, where: str) -> Terms:
    """De Morgan: none of the alternatives holds when of each some condition does not."""
    return _both([tuple((_negated(each),) for each in term) for term in terms], where)


def _negated(condition: Condition) -> Condition:
    return Condition(
        attribute=condition.attribute,
        name=condition.name,
        values=condition.not_values,
        not_values=condition.values,
    )


def _one(attribute: Attribute, *patterns: Pattern, name: str = "") -> Terms:
    return ((Condition(attribute=attribute, name=name, values=patterns),),)


def _merged(terms: Terms) -> Terms:
    """Alternatives that ask one thing of one attribute become one condition with several values."""
    if len(terms) < 2 or any(len(term) != 1 or term[0].not_values for term in terms):
        return terms
    if len({(term[0].attribute, term[0].name) for term in terms}) > 1:
        return terms
    values = tuple(dict.fromkeys(value for term in terms for value in term[0].values))
    return _one(terms[0][0].attribute, *values, name=terms[0][0].name)


_Reader = Callable[[Any, str], Terms]


def _tree(message: Any, where: str, depth: int, words: tuple[str, str, str], leaves: Mapping[str, _Reader]) -> Terms:
    """Read ``or``, ``and`` and ``not`` of permissions or principals, and what they are made of."""
    if depth > _DEEPEST:
        raise WireError(f"{where}: the rule is nested more than {_DEEPEST} deep")
    either, both, opposite = words
    kind = message.WhichOneof("rule" if "rules" in either else "identifier")
    members = "rules" if "rules" in either else "ids"

    def below(some: Any) -> list[Terms]:
        return [_tree(each, where, depth + 1, words, leaves) for each in getattr(some, members)]

    if kind == either:
        return _merged(_either(below(getattr(message, kind)), where))
    if kind == both:
        return _both(below(getattr(message, kind)), where)
    if kind == opposite:
        return _opposite(_tree(getattr(message, kind), where, depth + 1, words, leaves), where)
    if kind is None or kind not in leaves:
        raise WireError(f"{where}: {kind or 'a rule about nothing'} is not carried out here")
    return leaves[kind](getattr(message, kind), f"{where}.{kind}")


def _permission(message: Any, where: str, depth: int) -> Terms:
    return _tree(message, where, depth, ("or_rules", "and_rules", "not_rule"), _PERMISSIONS)


def _principal(message: Any, where: str, depth: int) -> Terms:
    return _tree(message, where, depth, ("or_ids", "and_ids", "not_id"), _PRINCIPALS)


# -- what rules are made of -------------------------------------------------------------------------------------------


def _pattern(text: matchers.Text) -> Pattern:
    return Pattern(_KINDS[text.kind], text.value, text.ignores_case)


def _any(value: Any, where: str) -> Terms:
    if not value:
        raise WireError(f"{where} is false")
    return _ALWAYS


def _header(message: Any, where: str) -> Terms:
    """What is inverted must be there all the same, unless that it is there was what is inverted."""
    wanted = matchers.header(message, where)
    if wanted.is_missing_empty:
        raise WireError(f"{where}: that a missing header counts as empty is not carried out here")
    pattern = Pattern(_KINDS[wanted.kind], wanted.value, wanted.ignores_case)
    held = Condition(attribute=Attribute.HEADER, name=wanted.name, values=(pattern,))
    if not wanted.is_inverted:
        return ((held,),)
    there = Condition(attribute=Attribute.HEADER, name=wanted.name, values=(Pattern(PatternKind.PRESENT),))
    return ((_negated(held),),) if wanted.kind is ValueKind.PRESENT else ((there, _negated(held)),)


def _path(message: Any, where: str) -> Terms:
    only(message, where, {"path"})
    return _one(Attribute.PATH, _pattern(matchers.string(message.path, where)))


def _template(message: Any, where: str) -> Terms:
    if type_of(message.typed_config) != _TEMPLATE:
        raise WireError(f"{where}: {message.name!r} is not carried out here")
    text = unpacked(message.typed_config, _TEMPLATE).path_template
    if "{" in text:
        raise WireError(f"{where}: variables in {text!r} are not carried out here")
    marked = text.replace("**", "\0").replace("*", "{*}").replace("\0", "{**}")
    return _one(Attribute.PATH, Pattern(PatternKind.TEMPLATE, marked))


def _address(attribute: Attribute) -> _Reader:
    def read(message: Any, where: str) -> Terms:
        only(message, where, {"address_prefix", "prefix_len"})
        text = f"{message.address_prefix}/{value_or(message, 'prefix_len', 0)}"
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            raise WireError(f"{where}: {error}") from error
        return _one(attribute, Pattern(PatternKind.EXACT, text))

    return read


def _port(value: Any, _: str) -> Terms:
    return _one(Attribute.DESTINATION_PORT, Pattern(PatternKind.EXACT, str(value)))


def _server_name(message: Any, where: str) -> Terms:
    return _one(Attribute.SNI, _pattern(matchers.string(message, where)))


def _authenticated(message: Any, where: str) -> Terms:
    """gRFC A41: "If unset, it applies to any user that is authenticated"."""
    only(message, where, {"principal_name"})
    if not message.HasField("principal_name"):
        return _one(Attribute.PEER_URI, Pattern(PatternKind.PRESENT))
    return _one(Attribute.PEER_URI, _pattern(matchers.string(message.principal_name, where)))


_PERMISSIONS: Mapping[str, _Reader] = {
    "any": _any,
    "header": _header,
    "url_path": _path,
    "uri_template": _template,
    "destination_ip": _address(Attribute.DESTINATION_IP),
    "destination_port": _port,
    "requested_server_name": _server_name,
}
_PRINCIPALS: Mapping[str, _Reader] = {
    "any": _any,
    "authenticated": _authenticated,
    "source_ip": _address(Attribute.SOURCE_IP),
    "direct_remote_ip": _address(Attribute.SOURCE_IP),
    "remote_ip": _address(Attribute.REMOTE_IP),
    "header": _header,
    "url_path": _path,
}
