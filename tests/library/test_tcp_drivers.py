"""A driver that knows nothing of the mesh talks to its server through the library at both ends: redis-py, unchanged."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from library.test_tcp import serve
from library.town import Town, living, settled
from masche.library import peer, tcp
from masche.library.inbound.listen import bound
from masche.library.inbound.stream_server import StreamServer
from masche.library.inbound.streams import StreamDoor
from masche.model.view import Inbound, InboundPort, Protocol
from masche.testing.static_reception import Counted, StaticReception

PORT = 5432


async def nobody() -> None:
    """Nobody is to be told."""


class Store:
    """As much of a server of Redis as a client needs, which also says who asks."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while count := await reader.readline():
            words = [await self._word(reader) for _ in range(int(count[1:]))]
            writer.write(self._answer(words))

    async def _word(self, reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2]

    def _answer(self, words: list[bytes]) -> bytes:
        match [words[0].upper(), *words[1:]]:
            case [b"SET", name, value]:
                self.values[name] = value
                return b"+OK\r\n"
            case [b"GET", b"me"]:
                return self._bulk(str(peer.current()).encode())
            case [b"GET", name]:
                return self._bulk(self.values[name])
            case [b"PING"]:
                return b"+PONG\r\n"
            case _:
                return b"+OK\r\n"

    def _bulk(self, value: bytes) -> bytes:
        return b"$%d\r\n%s\r\n" % (len(value), value)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A town with a store called ``db``."""
    with living(tmp_path) as made:
        ready, over = threading.Event(), threading.Event()
        ports: list[int] = []

        async def run() -> None:
            reception = StaticReception(told={PORT: Inbound(ports=(InboundPort(target=PORT, protocol=Protocol.TCP),))})
            door = StreamDoor(PORT, workload=lambda: "shop/db-1", reception=reception, counter=Counted())
            listening, identity = bound("127.0.0.1", 0), made.issuing.certificates("db")
            server = StreamServer(Store().handle, [listening], door, identity, leave=nobody, limit=2**16)
            server.start()
            ports.append(listening.getsockname()[1])
            ready.set()
            await asyncio.to_thread(over.wait)
            await server.close(grace=5)

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        assert ready.wait(20)
        serve(made, *ports)
        try:
            yield made
        finally:
            over.set()
            thread.join()


def test_redis_py_by_a_connection_class_of_two_lines(town: Town) -> None:
    class MeshConnection(redis.Connection):
        def _connect(self) -> tcp.Stream:
            return tcp.connect(self.host, self.port, timeout=self.socket_timeout, facade=town.facade)

    pool = redis.ConnectionPool(MeshConnection, host="db", port=PORT, protocol=2, socket_timeout=10)
    with redis.Redis(connection_pool=pool) as client:
        assert client.ping()
        assert client.set("item", b"x" * 100_000)
        assert client.get("item") == b"x" * 100_000
        assert client.get("me") == town.issuing.name("web").encode()
        with client.pipeline(transaction=False) as several:
            assert several.set("a", "1").get("a").execute() == [True, b"1"]
    pool.disconnect()
    assert settled(town)
