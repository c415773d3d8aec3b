"""From the fields of an AuthorizationPolicy to Conditions: what is looked at, and the literals it is compared with.

Invariant: a value is compared as Istio does (``abc``, ``abc*``, ``*abc``, ``*``, for headers also ``*abc*``, for paths
also ``{*}``, ``{**}``) and never becomes a regular expression.
"""

from collections.abc import Callable, Iterable, Iterator

from masche.model.resources.security import AttributeCondition, Operation, Source
from masche.model.view import Attribute, Condition, Pattern, PatternKind

CLUSTER_LOCAL = "cluster.local"
"""Istio's name for "the trust domain of this mesh"."""

_SCHEME = "spiffe://"
_HEADER = "request.headers["


class UnknownAttributeError(Exception):
    """A condition on something that is not judged here: tokens of end users, dynamic metadata."""


def needs_request_identity(written: Source) -> bool:
    """Say whether a source names the identity of an end user, which nothing here can prove."""
    return bool(written.request_principals or written.not_request_principals)


def source(written: Source, namespace: str, trust_domain: str) -> tuple[Condition, ...]:
    """Read one ``from.source``; short service accounts belong to ``namespace``, that of the policy."""
    read = _reader(namespace, trust_domain)
    return tuple(
        _present(
            (
                read(Attribute.PRINCIPAL, written.principals, written.not_principals),
                read(Attribute.NAMESPACE, written.namespaces, written.not_namespaces),
                read(Attribute.SERVICE_ACCOUNT, written.service_accounts, written.not_service_accounts),
                read(Attribute.SOURCE_IP, written.ip_blocks, written.not_ip_blocks),
                read(Attribute.REMOTE_IP, written.remote_ip_blocks, written.not_remote_ip_blocks),
            )
        )
    )


def operation(written: Operation) -> tuple[Condition, ...]:
    """Read one ``to.operation``."""
    read = _reader("", "")
    return tuple(
        _present(
            (
                read(Attribute.HOST, written.hosts, written.not_hosts),
                read(Attribute.DESTINATION_PORT, written.ports, written.not_ports),
                read(Attribute.METHOD, written.methods, written.not_methods),
                read(Attribute.PATH, written.paths, written.not_paths),
            )
        )
    )


def when(written: AttributeCondition, namespace: str, trust_domain: str) -> Condition:
    """Read one ``when``. Raises UnknownAttributeError."""
    name = ""
    if written.key.lower() == f"{_HEADER}host]":
        attribute = Attribute.HOST
    elif written.key.startswith(_HEADER) and written.key.endswith("]"):
        attribute, name = Attribute.HEADER, written.key[len(_HEADER) : -1].lower()
    else:
        attribute = _attribute(written.key)
    return Condition(
        attribute=attribute,
        name=name,
        values=_patterns(attribute, written.values, namespace, trust_domain),
        not_values=_patterns(attribute, written.not_values, namespace, trust_domain),
    )


_WHEN = {
    attribute.value: attribute
    for attribute in (
        Attribute.SOURCE_IP,
        Attribute.REMOTE_IP,
        Attribute.NAMESPACE,
        Attribute.PRINCIPAL,
        Attribute.SERVICE_ACCOUNT,
        Attribute.DESTINATION_IP,
        Attribute.DESTINATION_PORT,
        Attribute.SNI,
    )
}


def _attribute(key: str) -> Attribute:
    try:
        return _WHEN[key]
    except KeyError:
        raise UnknownAttributeError(key) from None


_Read = Callable[[Attribute, Iterable[str], Iterable[str]], Condition]


def _reader(namespace: str, trust_domain: str) -> _Read:
    def read(attribute: Attribute, values: Iterable[str], not_values: Iterable[str]) -> Condition:
        return Condition(
            attribute=attribute,
            values=_patterns(attribute, values, namespace, trust_domain),
            not_values=_patterns(attribute, not_values, namespace, trust_domain),
        )

    return read


def _present(conditions: Iterable[Condition]) -> Iterator[Condition]:
    return (each for each in conditions if each.values or each.not_values)


def _patterns(attribute: Attribute, values: Iterable[str], namespace: str, trust_domain: str) -> tuple[Pattern, ...]:
    return tuple(_pattern(attribute, value, namespace, trust_domain) for value in values)


def _pattern(attribute: Attribute, value: str, namespace: str, trust_domain: str) -> Pattern:
    match attribute:
        case Attribute.PRINCIPAL:
            return pattern(_principal(value, trust_domain))
        case Attribute.SERVICE_ACCOUNT:
            return Pattern(PatternKind.EXACT, value if "/" in value else f"{namespace}/{value}")
        case Attribute.SOURCE_IP | Attribute.REMOTE_IP | Attribute.DESTINATION_IP | Attribute.DESTINATION_PORT:
            return Pattern(PatternKind.EXACT, value)
        case Attribute.PATH if "{*}" in value or "{**}" in value:
            return Pattern(PatternKind.TEMPLATE, value)
        case Attribute.HOST:
            return pattern(value.lower())
        case _:
            return (_part(value) if attribute is Attribute.HEADER else None) or pattern(value)


def pattern(value: str) -> Pattern:
    """Read Istio's four forms."""
    if value == "*":
        return Pattern(PatternKind.PRESENT)
    if value.endswith("*"):
        return Pattern(PatternKind.PREFIX, value[:-1])
    if value.startswith("*"):
        return Pattern(PatternKind.SUFFIX, value[1:])
    return Pattern(PatternKind.EXACT, value)


def _part(value: str) -> Pattern | None:
    """Read the form that only headers have: a text with something before and behind it."""
    is_part = len(value) > 2 and value.startswith("*") and value.endswith("*")
    return Pattern(PatternKind.CONTAINS, value[1:-1]) if is_part else None


def _principal(value: str, trust_domain: str) -> str:
    """Drop the scheme; "cluster.local" is an alias of the mesh's own trust domain."""
    bare = value.removeprefix(_SCHEME)
    if bare.startswith(f"{CLUSTER_LOCAL}/"):
        return trust_domain + bare[len(CLUSTER_LOCAL) :]
    return bare
