"""Trouble made on purpose: whether a request waits, and whether it is refused (gRFC A33, Envoy's fault filter).

Pure. Invariant: with all of ``max_active`` faults under way a request passes untouched.
"""

from masche.library.core import answers
from masche.library.core.exchange import Answer
from masche.model.frozen import frozen
from masche.model.view import Fault
from masche.traffic.chance import Chance
from masche.traffic.match import value_holds
from masche.traffic.request import Request


@frozen(kw_only=False)
class Trouble:
    """Wait ``delay`` seconds, then give ``answer``; None: go on."""

    delay: float = 0.0
    answer: Answer | None = None


NONE = Trouble()


def trouble(fault: Fault, request: Request, *, active: int, rng: Chance) -> Trouble:
    """Draw what becomes of a request, while ``active`` others are in trouble already."""
    if fault.max_active and active >= fault.max_active:
        return NONE
    if not all(value_holds(each, request.values(each.name)) for each in fault.headers):
        return NONE
    delay = fault.delay if rng.random() * 100 < fault.delay_percent else 0.0
    is_refused = rng.random() * 100 < fault.abort_percent
    return Trouble(delay, _refusal(fault, request) if is_refused else None)


def _refusal(fault: Fault, request: Request) -> Answer | None:
    if fault.grpc_status >= 0:
        grpc = (("content-type", "application/grpc"), ("grpc-status", str(fault.grpc_status)))
        return Answer(200, (*grpc, ("grpc-message", "fault filter abort"), (answers.WHY, "FI fault filter abort")), b"")
    if not fault.status:
        return None
    return answers.answer(fault.status, "fault filter abort", flag="FI", request=request)
