"""What the kernel says about connections of this process, which are as good as any other's."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.plane import reference
from agent.world import World, free_port, until
from masche.agent.round_trips import round_trips
from masche.link.messages import EndpointReport


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def _talk(stack: ExitStack, host: str) -> str:
    """Let two ends that stay open say something to each other; return where the caller connected to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = stack.enter_context(socket.create_server((host, 0), family=family))
    port = server.getsockname()[1]
    caller = stack.enter_context(socket.create_connection((host, port)))
    callee = stack.enter_context(server.accept()[0])
    for speaks, hears in ((caller, callee), (callee, caller)):
        speaks.sendall(b"x")
        assert hears.recv(1) == b"x"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_that_is_used_has_a_round_trip(stack: ExitStack, host: str) -> None:
    endpoint = _talk(stack, host)
    [(found, rtt_us)] = round_trips([endpoint]).items()
    assert found == endpoint
    assert 0 < rtt_us < 100_000


def test_only_what_is_asked_for_is_told_and_nonsense_is_no_endpoint(stack: ExitStack) -> None:
    _talk(stack, "127.0.0.1")
    assert round_trips([f"127.0.0.1:{free_port()}", "pipe", "", "host:80", "10.0.0.1:x"]) == {}


def test_nothing_is_asked_of_a_kernel_that_has_no_netlink(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = _talk(stack, "127.0.0.1")
    monkeypatch.delattr(socket, "AF_NETLINK")
    assert round_trips([endpoint]) == {}


async def test_a_service_that_speaks_no_http_is_reported_with_its_round_trip(machine: World) -> None:
    """The agent's plane forwards every port as bare TCP, inside mutual TLS."""
    machine.plane.services = (reference("orders"),)
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    await machine.run("web", port=free_port())
    web = await machine.ready("web")
    [local] = machine.plane.state_of("web").occupants[0].seat.local_ports
    reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
    try:

        async def measured() -> EndpointReport | None:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"hello")
            return next((each for each in _endpoints(machine, web.proxy) if each.rtt_us), None)

        seen = await until(measured, what="a round trip")
    finally:
        writer.close()
    orders = machine.plane.state_of("orders").occupants[0]
    assert (seen.service, seen.endpoint) == (local.service, f"{orders.address}:{orders.seat.ports[0].mesh_port}")
    assert seen.rtt_us < 1_000_000
    assert (seen.requests, seen.latency.buckets) == (0, {})


def _endpoints(machine: World, proxy: str) -> Iterator[EndpointReport]:
    proxies = (each for report in machine.plane.reports for each in report.proxies if each.proxy == proxy)
    return (endpoint for each in proxies for endpoint in each.endpoints)
