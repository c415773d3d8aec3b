"""How an answer looks on the wire: JSON of a message, the one form of every error, and the headers that go with all.

Also the way in for bodies: read within limits, then decoded into a typed request or refused.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import TypeVar, assert_never

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from masche.api.messages import MAX_BODY_BYTES, Error, Failure
from masche.api.plane import Fault, PlaneError

BODY_TIMEOUT = 30.0

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

T = TypeVar("T")
_encoder = msgspec.json.Encoder()


class BadRequestError(Exception):
    """What was sent cannot be understood; ``status`` says in which way."""

    def __init__(self, message: str, *, fix: str = "", status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.status = status


def encode(message: object) -> bytes:
    """The JSON of a message."""
    return _encoder.encode(message)


def answer(message: object, *, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A message as a response that nobody may keep."""
    return Response(
        encode(message), status_code=status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def failure(status: HTTPStatus, error: Error) -> Response:
    """An error as a response."""
    return answer(Failure(error=error), status=status)


def refusal(error: PlaneError) -> Response:
    """A control plane's refusal as a response."""
    body = Error(code=error.fault, message=error.message, fix=error.fix, diagnostics=error.diagnostics)
    return failure(status_of(error.fault), body)


def status_of(fault: Fault) -> HTTPStatus:
    """The HTTP status of each fault (RFC 9110, 15.5 and 15.6)."""
    match fault:
        case Fault.INVALID:
            return HTTPStatus.UNPROCESSABLE_ENTITY
        case Fault.NOT_FOUND:
            return HTTPStatus.NOT_FOUND
        case Fault.CONFLICT:
            return HTTPStatus.CONFLICT
        case Fault.UNAVAILABLE:
            return HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            assert_never(fault)


async def read(request: Request, kind: type[T]) -> T:
    """The body as a ``kind``. Raises BadRequestError: too large, too slow, no JSON or not what was asked for."""
    body = await _body(request)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequestError(f"the body is not what this route takes: {error}") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply", fix="no request needs more than 4 levels") from None


async def _body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                parts.append(part)
    except TimeoutError:
        raise BadRequestError(
            f"the body did not arrive within {BODY_TIMEOUT:.0f} s", status=HTTPStatus.REQUEST_TIMEOUT
        ) from None
    except ClientDisconnect:
        raise BadRequestError("the client went away") from None
    return b"".join(parts)


def _too_large() -> BadRequestError:
    return BadRequestError(
        f"the body is larger than {MAX_BODY_BYTES // (1024 * 1024)} MiB",
        fix="apply the files in several steps",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
