"""gRPC calls of raw bytes with the types that grpc's stubs lack: the one place of the link that makes calls."""

from collections.abc import AsyncIterator
from typing import Any, Protocol, cast

import grpc.aio


class Stream(Protocol):
    """What is used of a bidirectional call. Iterating raises AioRpcError when the call ends in an error."""

    async def write(self, request: bytes) -> None:
        """Send one message; waits while the other side does not read."""
        ...

    async def done_writing(self) -> None:
        """Say that nothing more is sent."""
        ...

    async def initial_metadata(self) -> Any:
        """Wait until the other side has taken the call."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The messages of the other side."""
        ...

    def cancel(self) -> bool:
        """End the call."""
        ...


async def unary(channel: grpc.aio.Channel, path: str, request: bytes, *, within: float) -> bytes:
    """Call, and answer in ``within`` seconds. Raises AioRpcError."""
    raw = cast("Any", channel)
    return await raw.unary_unary(path)(request, timeout=within)


def stream(channel: grpc.aio.Channel, path: str) -> Stream:
    """Open a bidirectional call."""
    raw = cast("Any", channel)
    return cast("Stream", raw.stream_stream(path)())
