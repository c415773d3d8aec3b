"""How Istio's policies compare strings: literals, prefixes, suffixes, presence, path templates, address blocks.

Invariant: no text that a person wrote is ever read as a regular expression; only xDS has them.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import assert_never

from masche.model.expressions import full_match
from masche.model.view import Pattern, PatternKind
from masche.traffic.match import in_range

ONE, REST = "{*}", "{**}"


def matches(pattern: Pattern, value: str) -> bool:  # noqa: PLR0911 - a line for each kind
    """Compare one value that is there with one pattern."""
    wanted = pattern.value
    if pattern.ignores_case and pattern.kind is not PatternKind.REGEX:
        wanted, value = wanted.lower(), value.lower()
    match pattern.kind:
        case PatternKind.EXACT:
            return value == wanted
        case PatternKind.PREFIX:
            return value.startswith(wanted)
        case PatternKind.SUFFIX:
            return value.endswith(wanted)
        case PatternKind.PRESENT:
            return True
        case PatternKind.TEMPLATE:
            return fits(pattern.value, value)
        case PatternKind.CONTAINS:
            return wanted in value
        case PatternKind.REGEX:
            return full_match(pattern.value, value)
        case PatternKind.RANGE:
            return in_range(pattern.value, value)
        case _:
            assert_never(pattern.kind)


def fits(template: str, path: str) -> bool:
    """Compare a path with Istio's template.

    ``{*}`` stands for one segment that is not empty, ``{**}`` (last of the operators) for any number of characters,
    slashes and none at all included: ``/a/{**}/`` fits ``/a/b/`` and ``/a/b/c/`` but not ``/a/b``.
    """
    head, rest, tail = template.partition(REST)
    wanted, given = head.split("/"), path.split("/")
    if not rest:
        return len(wanted) == len(given) and all(map(_segment_fits, wanted, given))
    stem, last = wanted[:-1], wanted[-1]
    if len(given) <= len(stem) or not all(map(_segment_fits, stem, given)):
        return False
    left = "/".join(given[len(stem) :])
    return len(left) >= len(last) + len(tail) and left.startswith(last) and left.endswith(tail)


def _segment_fits(wanted: str, given: str) -> bool:
    return given != "" if wanted == ONE else wanted == given


def is_address_in(pattern: Pattern, value: str) -> bool:
    """Say whether an address lies in a block (``10.0.0.0/8``) or is the address itself; what is neither, is not."""
    block = _block(pattern.value)
    try:
        address = ip_address(value)
    except ValueError:
        return False
    return block is not None and address.version == block.version and address in block


@lru_cache(maxsize=4096)
def _block(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
