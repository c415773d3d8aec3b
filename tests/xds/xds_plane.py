"""A control plane that knows nothing but what a test tells it, served over a Unix socket or mutual TLS."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from masche.identity import transport
from masche.wire.discovery import MAX_REQUEST_BYTES
from masche.xds.listening import bind_unix
from masche.xds.server import Conversation, Peer, Proxy, RefusedError, handlers
from masche.xds.verdict import Rejection
from masche.xds.wanted import Wanted


@dataclass
class Seat:
    """One admitted stream, and all that was heard of it."""

    plane: "Plane"
    peer: Peer
    node_id: str
    conversation: Conversation
    wake: Callable[[], None]
    rejected: list[Rejection] = field(default_factory=list)
    answers: int = 0
    ended: str = ""

    def wanted(self) -> Wanted | None:
        return self.plane.worlds.get(self.node_id)

    def progressed(self, rejected: Sequence[Rejection]) -> None:
        self.answers += 1
        self.rejected += rejected
        self.plane.news.set()

    def closed(self, why: str) -> None:
        self.ended = why
        self.plane.news.set()


@dataclass
class Plane:
    """The provider. A proxy named ``stranger`` is refused."""

    worlds: dict[str, Wanted] = field(default_factory=dict)
    seats: list[Seat] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], object], *, timeout: float = 10.0) -> None:
        """Wait until the condition is true: looked at when a proxy said something, and now and then."""
        async with asyncio.timeout(timeout):
            while not condition():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.news.wait(), 0.05)
                self.news.clear()

    async def admit(self, peer: Peer, node_id: str, conversation: Conversation, wake: Callable[[], None]) -> Proxy:
        if node_id == "stranger":
            raise RefusedError("stranger is not registered")
        seat = Seat(self, peer, node_id, conversation, wake)
        self.seats.append(seat)
        self.news.set()
        return seat

    def want(self, node_id: str, wanted: Wanted) -> None:
        self.worlds[node_id] = wanted
        for seat in self.seats:
            seat.wake()


@dataclass
class Served:
    """A running server and how to reach it."""

    plane: Plane
    target: str


@asynccontextmanager
async def serving(path: Path, plane: Plane) -> AsyncIterator[Served]:
    """A server on a Unix socket, for as long as the block runs."""
    server = grpc.aio.server(options=transport.server(max_receive_bytes=MAX_REQUEST_BYTES))
    server.add_generic_rpc_handlers((handlers(plane),))
    bind_unix(server, path)
    await server.start()
    try:
        yield Served(plane, f"unix:{path}")
    finally:
        await server.stop(0)
