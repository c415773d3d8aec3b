"""A control plane in a thread: our xDS server over a Unix socket, told by the test what each proxy should hold."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from masche.identity import transport
from masche.wire.discovery import MAX_REQUEST_BYTES
from masche.xds.listening import bind_unix
from masche.xds.server import Conversation, Peer, Proxy, handlers
from masche.xds.verdict import Rejection
from masche.xds.wanted import Wanted

T = TypeVar("T")
DEADLINE = 20.0


@dataclass
class Stream:
    """One proxy's stream, and what it refused."""

    plane: "Plane"
    node_id: str
    conversation: Conversation
    wake: Callable[[], None]

    def wanted(self) -> Wanted | None:
        return self.plane.worlds.get(self.node_id)

    def progressed(self, rejected: Sequence[Rejection]) -> None:
        self.plane.rejected += rejected
        self.plane.news.set()

    def closed(self, why: str) -> None:
        self.plane.streams.pop(self.node_id, None)


@dataclass
class Plane:
    """The provider of ``xds.server``, in an event loop of its own."""

    path: Path
    worlds: dict[str, Wanted] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> "Plane":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE + 5)

    async def _start(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=transport.server(max_receive_bytes=MAX_REQUEST_BYTES))
        server.add_generic_rpc_handlers((handlers(self),))
        bind_unix(server, self.path)
        await server.start()
        return server

    async def admit(self, peer: Peer, node_id: str, conversation: Conversation, wake: Callable[[], None]) -> Proxy:
        self.streams[node_id] = stream = Stream(self, node_id, conversation, wake)
        return stream

    def tell(self, worlds: dict[str, Wanted]) -> None:
        """Let each proxy hold its world and nothing else; return when all of them do. What one rejects is raised."""
        self.run(self._tell(worlds))

    async def _tell(self, worlds: dict[str, Wanted]) -> None:
        self.rejected.clear()
        self.worlds.update(worlds)
        for stream in self.streams.values():
            stream.wake()
        try:
            async with asyncio.timeout(DEADLINE):
                while not self.rejected and not all(map(self._is_live, worlds)):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.news.wait(), 0.02)
                    self.news.clear()
        except TimeoutError:
            late = {name: stream.conversation.status() for name, stream in self.streams.items() if name in worlds}
            raise AssertionError(f"not live: {late}") from None
        assert not self.rejected, [f"{each.name}: {each.why}" for each in self.rejected]

    def _is_live(self, node_id: str) -> bool:
        stream = self.streams.get(node_id)
        return stream is not None and stream.conversation.is_live(self.worlds[node_id])
