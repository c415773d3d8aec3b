"""What a connection weighs: the buffer that asyncio's TLS keeps for it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from library.answering import Answering
from library.town import Town, living
from masche.library.aiohttp import client_session
from masche.library.core.tls_buffers import lighten

BODY = bytes(range(256)) * 8192


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with living(tmp_path) as running:
        yield running


def large(_head: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def buffer_of(answer: aiohttp.ClientResponse) -> int:
    assert answer.connection is not None
    protocol: Any = getattr(answer.connection.transport, "_ssl_protocol", None)
    return len(protocol._ssl_buffer)


async def test_a_connection_reads_large_answers_in_small_pieces(town: Town) -> None:
    town.serve("orders", town.instance("orders", large))
    async with client_session(town.facade) as session:
        for _ in range(2):
            async with session.get("http://orders/") as answer:
                assert buffer_of(answer) == 32 * 1024
                assert await answer.read() == BODY
                assert answer.connection is None


async def test_a_connection_without_tls_is_left_alone(town: Town) -> None:
    plain = Answering(None, large)
    town.keep(plain)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", plain.port)
    lighten(transport)
    lighten(None)
    assert not transport.is_closing()
    transport.abort()
    await asyncio.sleep(0)
