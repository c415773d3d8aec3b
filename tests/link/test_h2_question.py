"""An application that speaks HTTP/2 alone is asked in HTTP/2, by a client written by hand; a real one answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from hpack import Encoder

from agent.world import free_port
from masche.link import probe
from masche.link.h2_question import status_of
from masche.link.probe import failing


@asynccontextmanager
async def modern(status: int) -> AsyncIterator[int]:
    """A server that closes on anything but HTTP/2."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        state.initiate_connection()
        try:
            while data := await reader.read(65536):
                for event in state.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        state.send_headers(event.stream_id, [(":status", str(status)), ("a", "b")], end_stream=True)
                writer.write(state.data_to_send())
        except h2.exceptions.ProtocolError:
            pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.release()

    port, ended = free_port(), asyncio.Semaphore(0)
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield port
        for _ in range(2):  # one for each version of HTTP
            await asyncio.wait_for(ended.acquire(), 10)


@pytest.mark.parametrize(
    ("status", "said"), [(200, ""), (404, ""), (415, ""), (500, "GET /: status 500"), (503, "GET /: status 503")]
)
async def test_only_an_error_of_its_own_tells_that_it_fails(status: int, said: str) -> None:
    async with modern(status) as port:
        assert await failing("127.0.0.1", port) == said


async def test_who_answers_what_is_no_http_and_then_nothing_is_not_accused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "WITHIN", 0.2)
    ended = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readline()).startswith(b"GET"):
            writer.write(b"hello\r\n")
        else:
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.release()

    port = free_port()
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        assert await failing("127.0.0.1", port) == ""
        for _ in range(2):
            await asyncio.wait_for(ended.acquire(), 10)


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("status", range(100, 600, 7))
def test_every_status_is_read_in_every_form(status: int, *, huffman: bool) -> None:
    encoder = Encoder()
    fields = [(":status", str(status)), ("content-type", "text/plain")]
    assert status_of(encoder.encode(fields, huffman=huffman)) == status
    encoder.header_table_size = 0
    encoder.header_table_size = 8192
    assert status_of(encoder.encode(fields, huffman=huffman)) == status, "after two updates of the size of a table"


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\x48",
        b"\x48\x03",
        b"\x48\x03abc",
        b"\x20",
        b"\x3f",
        b"\x3f\xff\xff",
        b"\x8f",
        b"\xbe",
        b"\x48\x83\xff\xff\xff",
        b"\x48\x7f123",
    ],
)
def test_what_is_not_understood_accuses_nobody(block: bytes) -> None:
    assert status_of(block) == 0
