"""Who may call: AuthorizationPolicies, resolved, as conditions on the caller and on what is called.

Invariant: a condition says what it looks at and with what it compares, and nothing in it is left to look up.
"""

from enum import StrEnum

from masche.model.frozen import frozen
from masche.model.refs import Origin


class PatternKind(StrEnum):
    """How Istio's policies compare a string: ``abc``, ``abc*``, ``*abc``, ``*``; paths also ``/a/{*}/b/{**}``.

    What begins with CONTAINS are words of xDS alone; RANGE is written as that of a ValueKind.
    """

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PRESENT = "present"
    TEMPLATE = "template"
    CONTAINS = "contains"
    REGEX = "regex"
    RANGE = "range"


@frozen(kw_only=False)
class Pattern:
    """A literal and how it is compared; never a regular expression made of user text."""

    kind: PatternKind
    value: str = ""
    ignores_case: bool = False


class Attribute(StrEnum):
    """What a condition of a policy looks at."""

    PRINCIPAL = "source.principal"
    PEER_URI = "source.uri"
    NAMESPACE = "source.namespace"
    SERVICE_ACCOUNT = "source.serviceAccount"
    SOURCE_IP = "source.ip"
    REMOTE_IP = "remote.ip"
    DESTINATION_IP = "destination.ip"
    DESTINATION_PORT = "destination.port"
    SNI = "connection.sni"
    HOST = "host"
    METHOD = "method"
    PATH = "path"
    HEADER = "request.headers"

    @property
    def needs_http(self) -> bool:
        """Whether only a request, not a bare connection, has it."""
        return self in {Attribute.HOST, Attribute.METHOD, Attribute.PATH, Attribute.HEADER}


@frozen
class Condition:
    """Holds when one of ``values`` matches (or ``values`` is empty) and none of ``not_values`` does.

    ``name`` is the header's name in lower case, for HEADER only. IP values are CIDR strings of kind EXACT, ports too.
    PRINCIPAL values have no scheme: ``mesh.local/ns/shop/sa/web``; PEER_URI, which xDS alone has, compares the whole
    ``spiffe://...``.
    """

    attribute: Attribute
    name: str = ""
    values: tuple[Pattern, ...] = ()
    not_values: tuple[Pattern, ...] = ()


@frozen
class Rule:
    """``from`` (any source) and ``to`` (any operation) and ``when`` (all conditions); each inner tuple is an AND.

    An empty ``sources`` or ``operations`` is "any"; the ``name`` is what a denial says: ``shop/allow-web rules[0]``.
    """

    name: str
    sources: tuple[tuple[Condition, ...], ...] = ()
    operations: tuple[tuple[Condition, ...], ...] = ()
    when: tuple[Condition, ...] = ()


class Decision(StrEnum):
    """What an AuthorizationPolicy does when one of its rules matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"


@frozen
class Policy:
    """One AuthorizationPolicy that applies here. Without rules it never matches (so an empty ALLOW denies all)."""

    name: str
    decision: Decision
    rules: tuple[Rule, ...] = ()
    origins: tuple[Origin, ...] = ()
