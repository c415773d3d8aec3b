"""The rules of RateLimitPolicy: the range of every field, and which fields go together.

Invariant: a limit that some placement could not carry out to the letter is refused, with what would be right.
"""

from masche.model.spot import Beyond, Findings, Spot
from masche.model.validate_durations import within
from masche.model.validate_routes import http_match
from masche.model.validate_security import scope

LEAST_PER, MOST_PER = 0.05, 86_400.0
"""What ``per`` may be, in seconds: Envoy fills no bucket more often than every 50 ms."""

MOST_REQUESTS = 1_000_000
"""What ``requests`` and ``burst`` may be at most; at least 1."""


def rate_limit_policy(policy: Spot) -> Findings:
    """Everything about one RateLimitPolicy."""
    spec = policy["spec"]
    yield from scope(spec)
    for limit in spec["local"]:
        yield from _limit(limit)


def _limit(limit: Spot) -> Findings:
    for field in ("requests", "burst"):
        number = limit[field].number()
        if number is not None and not 1 <= number <= MOST_REQUESTS:
            why = f"{field} {number} is out of range"
            if number == 0:
                why += ": 0 would refuse every request, which an AuthorizationPolicy says more plainly"
            yield limit[field].invalid(why, f"write 1 to {MOST_REQUESTS}", code="invalid-value")
    yield from within(limit["per"], "per", LEAST_PER, MOST_PER, fix="write 50ms to 24h")
    yield from _key(limit["key"])
    for match in limit["matches"]:
        yield from http_match(match)


def _key(key: Spot) -> Findings:
    kind, name = key["type"].text(), key["name"]
    if kind == "Header" and not name.text():
        yield key.invalid("a key of type Header needs a name", "add name", code="invalid-missing")
    if kind == "Client" and name.is_there:
        yield name.invalid("a key of type Client has no name: it is who calls, by certificate", "remove name")
    if kind == "Header" and name.text().lower() == "host":
        why = "host is the authority, which is no header here"
        yield name.invalid(why, "name another header, or attach a limit to each Service", code="invalid-value")


LIMITS_BEYOND: Beyond = {
    ("spec", "global"): lambda spot: spot.not_carried_out(
        "a limit that instances count together", "write local, with each instance's share of it"
    ),
    ("spec", "targetRef"): lambda spot: spot.not_carried_out("targetRef", "write targetRefs, a list"),
    ("spec", "local", "*", "matches", "*", "queryParams"): lambda spot: spot.not_carried_out(
        "counting by query parameters", "match on path, method or headers"
    ),
}
