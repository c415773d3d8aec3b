"""A control plane that knows nothing but what a test tells it, served over a Unix socket or mutual TLS."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest_asyncio

from masche.xds.listening import bind_unix, options
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
    ended: str = ""

    def wanted(self) -> Wanted | None:
        return self.plane.worlds.get(self.node_id)

    def progressed(self, rejected: Sequence[Rejection]) -> None:
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

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that a proxy said makes the condition true."""
        async with asyncio.timeout(10):
            while not condition():
                await self.news.wait()
                self.news.clear()

    async def admit(self, peer: Peer, node_id: str, conversation: Conversation, wake: Callable[[], None]) -> Proxy:
        if node_id == "stranger":
            raise RefusedError("stranger is not registered")
        seat = Seat(self, peer, node_id, conversation, wake)
        self.seats.append(seat)
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


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    plane = Plane()
    server = grpc.aio.server(options=options())
    server.add_generic_rpc_handlers((handlers(plane),))
    path = tmp_path / "xds.sock"
    bind_unix(server, path)
    await server.start()
    yield Served(plane, f"unix:{path}")
    await server.stop(0)
