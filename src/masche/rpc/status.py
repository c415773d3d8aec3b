"""How a call of gRPC ends badly, in gRPC's own words.

The codes are those of https://grpc.io/docs/guides/status-codes/. What HTTP says where no gRPC answers is told as gRPC's
"HTTP to gRPC Status Code Mapping" has it, and a reset of HTTP/2 as "Errors" of its protocol over HTTP/2.
"""

from enum import IntEnum, unique
from typing import Final


@unique
class Code(IntEnum):
    """A status code of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call did not end well: its ``code``, and ``details`` for people."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


_OF_HTTP: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}

_OF_RESET: Final = {
    0x7: Code.UNAVAILABLE,  # REFUSED_STREAM
    0x8: Code.CANCELLED,  # CANCEL
    0xB: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


_BY_NUMBER: Final = {str(code.value): code for code in Code}


def of_grpc(said: str) -> Code:
    """The code that a ``grpc-status`` says; UNKNOWN for what is none."""
    return _BY_NUMBER.get(said, Code.UNKNOWN)


def of_http(status: str) -> RpcError:
    """What an answer of HTTP says that is none of gRPC."""
    code = _OF_HTTP.get(int(status), Code.UNKNOWN) if status.isascii() and status.isdigit() else Code.UNKNOWN
    return RpcError(code, f"no gRPC answers there, but HTTP with {status[:3] or 'no status'}")


def of_reset(code: int) -> RpcError:
    """What it says that a stream was reset with a code of HTTP/2 (RFC 9113, 7)."""
    return RpcError(_OF_RESET.get(code, Code.INTERNAL), f"the stream was reset with the code {int(code)} of HTTP/2")
