import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from agent.world import free_port
from masche.link.probe import HealthError, Pulse, parse


def test_a_workload_is_starting_until_its_first_success() -> None:
    pulse = Pulse()
    for _ in range(10):
        pulse = pulse.after("refused")
    assert (pulse.phase, pulse.reason) == ("STARTING", "refused")
    assert pulse.after("").phase == "READY"


def test_a_workload_is_unhealthy_after_three_failures_in_a_row_and_well_after_one_success() -> None:
    pulse = Pulse(phase="READY")
    phases = []
    for error in ("x", "x", "", "x", "x", "x", "x", ""):
        pulse = pulse.after(error)
        phases.append(pulse.phase)
    assert phases == ["READY"] * 5 + ["UNHEALTHY"] * 2 + ["READY"]


def test_probing_is_quick_while_starting_and_once_a_second_later() -> None:
    assert Pulse().interval == 0.1
    assert Pulse(failures=1000).interval == 1.0
    assert Pulse(phase="READY").interval == 1.0


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """A server that says ``answer`` to whoever connects, or nothing ever for None."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is not None:
            writer.write(answer)
        else:
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        yield port
        await ended.wait()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", ""),
        (b"HTTP/1.0 399 Odd\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "GET /up: status 404"),
        (b"HTTP/1.1 500 No\r\n\r\n", "GET /up: status 500"),
        (b"SSH-2.0-OpenSSH\r\n", "GET /up: the answer is no HTTP"),
        (b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n", "GET /up: the answer is no HTTP"),
        (b"HTTP/1.1 " + b"2" * 70_000, "GET /up: the answer is no HTTP"),
        (b"", "GET /up: the answer is no HTTP"),
        (None, "GET /up: no answer within 1 s"),
    ],
)
async def test_an_http_probe_judges_the_status(answer: bytes | None, error: str) -> None:
    async with answering(answer) as port:
        ask = parse("http:/up", "127.0.0.1", port)
        assert ask
        assert await ask() == error


async def test_a_tcp_probe_needs_a_connection_only() -> None:
    async with answering(None) as port:
        ask = parse("tcp", "127.0.0.1", port)
        assert ask
        assert await ask() == ""
    assert "refused" in await ask()


@pytest.mark.parametrize(("reply", "error"), [(b"\x08\x01", ""), (b"\x08\x02", "grpc health: not SERVING")])
async def test_a_grpc_probe_asks_the_health_service(reply: bytes, error: str) -> None:
    asked: list[bytes] = []

    async def check(request: bytes, _: object) -> bytes:
        asked.append(request)
        return reply

    server = grpc.aio.server()
    methods = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods),))
    port = free_port()
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        ask = parse("grpc:orders", "127.0.0.1", port)
        assert ask
        assert await ask() == error
    finally:
        await server.stop(None)
    assert asked == [b"\x0a\x06orders"]
    assert "UNAVAILABLE" in await ask() or "DEADLINE" in await ask()


@pytest.mark.parametrize("health", ["", "udp", "http", "http:up", "http:/a b", "tcp:1", "grpc:" + "x" * 200, "none:x"])
def test_an_unknown_form_of_health_is_refused(health: str) -> None:
    with pytest.raises(HealthError):
        parse(health, "127.0.0.1", 1)


def test_health_none_asks_nothing() -> None:
    assert parse("none", "127.0.0.1", 1) is None
    assert isinstance(parse("tcp", "127.0.0.1", 1), Callable)
    assert socket.has_ipv6 in {True, False}
