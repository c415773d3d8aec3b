"""What a connection weighs: the buffer that asyncio's TLS keeps for it."""

import asyncio
from typing import Any

import aiohttp

from library.answering import Answering
from library.town import Town
from masche.library.aiohttp import client_session
from masche.library.core.tls_buffers import lighten

BODY = bytes(range(256)) * 8192


def large(_head: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def buffer_of(answer: aiohttp.ClientResponse) -> bytearray:
    assert answer.connection is not None
    protocol: Any = getattr(answer.connection.transport, "_ssl_protocol", None)
    return protocol._ssl_buffer


async def test_a_connection_reads_large_answers_in_small_pieces(town: Town) -> None:
    town.serve("orders", town.instance("orders", large))
    async with client_session(town.facade) as session:
        for _ in range(2):
            async with session.get("http://orders/") as answer:
                assert len(buffer_of(answer)) == 32 * 1024
                assert await answer.read() == BODY
                assert answer.connection is None


async def test_the_connections_of_a_loop_share_their_buffer_and_take_nothing_of_each_other(town: Town) -> None:
    names = [f"s{number}" for number in range(6)]
    bodies = {name: bytes([number]) * len(BODY) for number, name in enumerate(names)}
    for name, body in bodies.items():
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        town.serve(name, town.instance(name, lambda _, whole=head + body: whole))
    async with client_session(town.facade) as session:

        async def called(name: str) -> bytearray:
            async with session.get(f"http://{name}/") as answer:
                buffer = buffer_of(answer)
                assert await answer.read() == bodies[name]
                return buffer

        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(called(name)) for name in names]
        first, *others = [call.result() for call in calls]
        assert all(each is first for each in others)


async def test_a_connection_without_tls_is_left_alone(town: Town) -> None:
    plain = Answering(None, large)
    town.keep(plain)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", plain.port)
    lighten(transport)
    lighten(None)
    assert not transport.is_closing()
    transport.abort()
    await asyncio.sleep(0)
