"""The live stream: what a Plane yields, as server-sent events (WHATWG HTML, 9.2), until the reader or the server goes.

Invariant: a stream always ends, by the reader, by ``Streams.close`` or after an hour, when a browser comes back by
itself and is checked again.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, assert_never

from masche.api.answers import encode
from masche.api.messages import Event, MeshStatus
from masche.api.traffic import Edges, Graph, LiveMessage, Zones

MAX_STREAMS = 64
STREAM_LIFETIME = 3600.0
HEARTBEAT = 15.0
KEEP_ALIVE = b": still here\n\n"


def frame(message: LiveMessage) -> bytes:
    """One server-sent event. Only an Event has an id, so a reader that comes back asks for the Events it missed."""
    data = b"data: " + encode(message) + b"\n\n"
    match message:
        case Event():
            return b"event: event\nid: %d\n" % message.sequence + data
        case Edges():
            return b"event: edges\n" + data
        case Zones():
            return b"event: zones\n" + data
        case Graph():
            return b"event: graph\n" + data
        case MeshStatus():
            return b"event: status\n" + data
        case _:
            assert_never(message)


@dataclass(slots=True)
class Streams:
    """The streams that are open, so that they are bounded and end with the server."""

    open: int = 0
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_full(self) -> bool:
        """Whether another stream must be refused."""
        return self.open >= MAX_STREAMS

    def close(self) -> None:
        """End all of them."""
        self._closing.set()

    async def frames(self, messages: AsyncIterator[LiveMessage]) -> AsyncIterator[bytes]:
        """Frame what comes; in silence, a comment every 15 s shows a dead connection to both sides."""
        self.open += 1
        clock = asyncio.get_running_loop().time
        deadline = clock() + STREAM_LIFETIME
        closing = asyncio.ensure_future(self._closing.wait())  # it and the next message are ended in the finally
        following = asyncio.ensure_future(anext(messages, None))
        try:
            yield b"retry: 1000\n\n"
            while clock() < deadline:
                await asyncio.wait({following, closing}, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if closing.done():
                    return
                if not following.done():
                    yield KEEP_ALIVE
                    continue
                message = following.result()
                if message is None:
                    return
                following = asyncio.ensure_future(anext(messages, None))
                yield frame(message)
        finally:
            self.open -= 1
            await _end(closing, following)
            if isinstance(messages, AsyncGenerator):
                await messages.aclose()


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
