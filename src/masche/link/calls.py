"""What both ends of the link call its methods, and what a call that failed means to who made it."""

from typing import Final

from masche.link.refusal import RefusedError
from masche.rpc.status import Code, RpcError

SERVICE: Final = "masche.link.v1.Link"
JOINING: Final = "masche.link.v1.Joining"

ADMITTED: Final = (("masche-link", "admitted"),)
"""The first metadata of a Register stream that was taken: a refused one has none, and so is told apart at once."""


def refused(error: RpcError) -> RefusedError | ConnectionError:
    """What a failed call means to its caller: the service said no, or the control plane can not be reached."""
    if error.code in {Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT}:
        why, _, fix = error.details.partition("\n")
        return RefusedError(why, fix=fix)
    return ConnectionError(f"{error.code.name}: {error.details}")
