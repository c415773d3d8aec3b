"""asyncio's TLS in the usual case: what goes and comes is the same, whatever its size, and whoever is held up."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from library.issuing import Issuing
from masche.library.core.tls_buffers import lighten
from masche.library.core.tls_usual import UsualTls

SIZES = (1, 1000, 16 * 1024, 16 * 1024 + 1, 40_000, 1_000_000)


class Gathering(asyncio.Protocol):
    """Takes what comes, and says how it ended."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.pieces = 0
        self.is_ended = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        lighten(transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.pieces += 1

    def eof_received(self) -> None:
        self.is_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.data) < count:
                await asyncio.sleep(0.005)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100_000):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def connected(
    folder: Path, protocol: type[Gathering] = Gathering, serve: Any = echo
) -> AsyncGenerator[Gathering]:
    issuing, loop = Issuing(folder), asyncio.get_running_loop()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=issuing.certificates("orders").server_context())
    context: ssl.SSLContext = issuing.certificates("web").client_context((issuing.name("orders"),))
    async with server:
        transport, made = await loop.create_connection(
            protocol, "127.0.0.1", server.sockets[0].getsockname()[1], ssl=context, server_hostname=""
        )
        assert type(cast("Any", transport)._ssl_protocol) is UsualTls
        yield made
        transport.abort()
        async with asyncio.timeout(10):
            await made.lost


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_sent_comes_back_whole(tmp_path: Path, size: int) -> None:
    sent = bytes(range(256)) * (size // 256 + 1)
    async with connected(tmp_path) as made:
        assert made.transport is not None
        made.transport.write(sent[:size])
        await made.until(size)
        made.transport.writelines([sent[:size], b"", memoryview(sent)[:size]])
        await made.until(3 * size)
        assert bytes(made.data) == sent[:size] * 3


async def test_records_that_came_together_are_given_together(tmp_path: Path) -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        connection = writer.get_extra_info("ssl_object")
        raw = cast("Any", writer.transport)._ssl_protocol
        for each in (b"one", b"two", b"three"):
            connection.write(each)
        raw._process_outgoing()
        await reader.read()
        writer.close()

    async with connected(tmp_path, serve=twice) as made:
        assert made.transport is not None
        made.transport.write(b"!")
        await made.until(11)
        assert (bytes(made.data), made.pieces) == (b"onetwothree", 1)


async def test_who_does_not_read_is_given_nothing_until_it_does(tmp_path: Path) -> None:
    async with connected(tmp_path) as made:
        assert made.transport is not None
        made.transport.pause_reading()
        made.transport.write(b"later")
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not made.data
        made.transport.resume_reading()
        await made.until(5)
        assert bytes(made.data) == b"later"


async def test_a_farewell_ends_the_connection(tmp_path: Path) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(10))
        writer.close()

    async with connected(tmp_path, serve=once) as made:
        assert made.transport is not None
        made.transport.write(b"bye")
        async with asyncio.timeout(10):
            assert await asyncio.shield(made.lost) is None
        assert (bytes(made.data), made.is_ended) == (b"bye", True)
        assert made.transport.is_closing()


async def test_a_mistake_of_the_reader_ends_the_connection_and_is_told(tmp_path: Path) -> None:
    class Mistaken(Gathering):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: told.append(said))
    async with connected(tmp_path, Mistaken) as made:
        assert made.transport is not None
        made.transport.write(b"!")
        async with asyncio.timeout(10):
            assert isinstance(await asyncio.shield(made.lost), ZeroDivisionError)
    assert [type(each["exception"]) for each in told] == [ZeroDivisionError]


async def test_nothing_is_sent_once_it_is_closed(tmp_path: Path) -> None:
    async with connected(tmp_path) as made:
        assert made.transport is not None
        made.transport.close()
        made.transport.write(b"late")
        async with asyncio.timeout(10):
            await asyncio.shield(made.lost)
        assert not made.data
