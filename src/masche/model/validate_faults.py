"""The rules of FaultPolicy: the range of every field, and that it makes some trouble.

Invariant: what some placement could not carry out to the letter is refused, with what would be right.
"""

from masche.model.spot import Findings, Spot
from masche.model.validate_durations import within
from masche.model.validate_mesh import service_targets
from masche.model.validate_routes import http_match

LEAST_TIME, MOST_TIME = 0.001, 60.0
"""How long calls may wait, in seconds."""

LEAST_STATUS, MOST_STATUS = 400, 599
"""What calls may be answered."""


def fault_policy(policy: Spot) -> Findings:
    """Everything about one FaultPolicy."""
    spec = policy["spec"]
    yield from service_targets(spec["targetRefs"])
    yield from http_match(spec)  # which looks at headers, as far as there are any
    if spec.is_map and not spec.has("delay") and not spec.has("abort"):
        yield spec.invalid("a FaultPolicy without a fault does nothing", "add delay or abort", code="invalid-missing")
    yield from within(spec["delay"]["time"], "time", LEAST_TIME, MOST_TIME, fix="write 1ms to 1m")
    status = spec["abort"]["status"]
    if status.number() is not None and not LEAST_STATUS <= (status.number() or 0) <= MOST_STATUS:
        why = f"status {status.number()} is no answer of a failure"
        yield status.invalid(why, f"write {LEAST_STATUS} to {MOST_STATUS}", code="invalid-value")
