"""Hostnames with an optional wildcard for their first labels: whether one covers another, and what two have in common.

"*.example.com" covers every name that ends in ".example.com" and not "example.com" itself (Gateway API); "*"
covers all.
"""

ANY = "*"


def covers(pattern: str, host: str) -> bool:
    """Say whether every name of ``host`` (itself maybe a pattern) is one of ``pattern``."""
    if pattern in {ANY, host}:
        return True
    return pattern.startswith("*.") and host.removeprefix("*").endswith(pattern[1:]) and host != pattern[2:]


def intersection(one: str, other: str) -> str | None:
    """Return the narrower of two patterns when one covers the other, else None."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def specificity(pattern: str) -> tuple[bool, int]:
    """Less is more specific: names before patterns, then the longer ones."""
    return (pattern.startswith("*"), -len(pattern))
