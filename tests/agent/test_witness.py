"""A workload asks as whom its calls arrive; whatever comes back instead of an answer is said."""

import asyncio
from functools import partial

import pytest

from masche.agent.witness import NoAnswerError, asked
from masche.compiler.addresses import IPV4, virtual_addresses
from masche.wire import witness

PEER = "spiffe://mesh.local/ns/shop/sa/orders"


def ask(answer: bytes) -> str:
    """Ask somebody who answers so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def run() -> str:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            async def connect(address: str, _port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                assert address == witness.ADDRESS
                return await asyncio.open_connection("127.0.0.1", port)

            return await asked(connect)

    return asyncio.run(run())


def test_the_answer_is_whom_the_certificate_named() -> None:
    assert ask(f"HTTP/1.1 204 No Content\r\nX-Masche-Peer: {PEER}\r\n\r\n".encode()) == PEER


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "503"),
        (b"", "0 bytes read"),
        (b"\r\n\r\n", "was answered"),
    ],
)
def test_what_is_no_answer_is_said(answer: bytes, words: str) -> None:
    with pytest.raises(NoAnswerError, match=words):
        ask(answer)


def test_nobody_there_is_said() -> None:
    async def refused(_address: str, _port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise ConnectionRefusedError("refused")

    with pytest.raises(NoAnswerError, match="refused"):
        asyncio.run(asked(partial(refused)))


def test_no_service_is_given_the_address() -> None:
    assert str(IPV4.network_address) == witness.ADDRESS
    assert virtual_addresses({}) == {}
