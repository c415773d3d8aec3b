"""Which status, or which exception, says what of an instance: the one table, for every client and both drivers.

After Envoy's outlier detection ("5xx" errors, connection failures and timeouts speak against a host; gRPC statuses
count as the HTTP statuses that they stand for) and ``traffic.outcome``: who says that it has no room is REFUSED, not
broken. Invariant: an answer below 500 never speaks against an instance, and speaks for it unless the mesh gave it (429,
or 403 with the name of a policy).
"""

from collections.abc import Mapping

from masche.library.core.exchange import Blame
from masche.traffic import pushback
from masche.traffic.outcome import Outcome
from masche.traffic.request import Headers
from masche.traffic.retry import Attempted
from masche.wire import stats
from masche.wire.limits import DENIED

UNREACHED = "x-masche-unreached"
"""Set by the callee's proxy on an answer of its own: the application was not reached, nothing was sent to it."""

GRPC_AS_HTTP = {
    "1": 499, "2": 500, "3": 400, "4": 504, "5": 404, "6": 409, "7": 403, "8": 429, "9": 400, "10": 409, "11": 400,
    "12": 501, "13": 500, "14": 503, "15": 500, "16": 401,
}  # fmt: skip
"""gRPC status to HTTP status, as Envoy (``Grpc::Utility::grpcToHttpStatus``) and google.rpc.Code have it."""


_BLAMED = {
    Blame.UNREACHED: Attempted(outcome=Outcome.FAILURE, reached=False),
    Blame.BROKEN: Attempted(outcome=Outcome.FAILURE),
    Blame.TIMEOUT: Attempted(outcome=Outcome.TIMEOUT),
    Blame.OURS: Attempted(outcome=Outcome.CANCELLED),
}

_FINE = {status: Attempted(outcome=Outcome.SUCCESS, status=status) for status in range(100, 500) if status != 429}
_FINE_OF_GRPC = {
    code: Attempted(outcome=Outcome.SUCCESS, status=status, grpc_status=int(code))
    for code, status in GRPC_AS_HTTP.items()
    if status in _FINE
}
_DENIED = Attempted(outcome=Outcome.DENIED, status=403)


def of_status(status: int) -> Outcome:
    """What an HTTP status says of the instance that gave it."""
    if status == 503:
        return Outcome.REFUSED
    if status == 429:
        return Outcome.LIMITED
    return Outcome.FAILURE if status >= 500 else Outcome.SUCCESS


def of_answer(status: int, headers: Headers, said: Mapping[str, str], *, is_spent: bool = False) -> Attempted:
    """How an attempt ended that was answered; ``said`` are its ``headers`` by name. ``is_spent``: its body cannot be
    sent again, so that it must count as one that may have been seen, whatever the callee says.
    """
    grpc = said.get("grpc-status") if status == 200 else None
    if grpc is not None:
        status = GRPC_AS_HTTP.get(grpc, 200)
    fine = _FINE.get(status)
    if fine is not None:
        if status == 403 and DENIED in said:
            return _DENIED
        return fine if grpc is None else _FINE_OF_GRPC.get(grpc, fine)
    return Attempted(
        outcome=of_status(status),
        reached=is_spent or UNREACHED not in said,
        status=status,
        grpc_status=int(grpc) if grpc in GRPC_AS_HTTP else -1,
        pushback=pushback.read(headers),
    )


def of_blame(blame: Blame, *, is_spent: bool = False) -> Attempted:
    """How an attempt ended that was not answered."""
    return _BLAMED[Blame.BROKEN if is_spent and blame is Blame.UNREACHED else blame]


def service_seconds(said: Mapping[str, str]) -> float:
    """What the callee's proxy said that the application took, in seconds; negative when it said nothing."""
    took = said.get(stats.SERVICE_HEADER)
    return int(took) / 1e6 if took is not None and took.isdecimal() and len(took) < 12 else -1.0


def value(headers: Headers, name: str) -> str | None:
    """Return the first value of a header."""
    for key, found in headers:
        if key == name:
            return found
    return None
