import asyncio
import os
import signal
import statistics
import time

from agent.plane import name_of, reference
from agent.world import World, fetch, free_port, until
from masche.agent.local import SeatStatus


async def _url(machine: World, service: str) -> str:
    """Where a caller with the seat ``service`` reaches the first service that it may call."""
    state = machine.plane.state_of(service)
    return f"http://127.0.0.1:{state.occupants[0].seat.local_ports[0].port}"


async def _answers(url: str) -> bool:
    try:
        return (await fetch(url))[0] == 200
    except OSError:
        return False


async def test_a_killed_envoy_is_back_within_two_seconds(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    url = await _url(machine, "orders")
    took: list[tuple[float, float]] = []  # until another one ran, and until a call was answered
    for _ in range(3):  # more of them in tests/e2e/test_crashes.py
        await until(lambda: _answers(url), what="the service answers")
        seat = await machine.seat("orders")
        os.kill(seat.envoy_pid, signal.SIGKILL)
        began = time.monotonic()
        await until(lambda pid=seat.envoy_pid: _is_another(machine, pid))
        ran = time.monotonic() - began
        await until(lambda: _answers(url), what="the service answers again")
        took.append((ran, time.monotonic() - began))
    assert statistics.median(answered for _, answered in took) < 2.0, took


async def _is_another(machine: World, pid: int) -> bool:
    seat = await machine.seat("orders")
    return seat is not None and seat.envoy_pid not in {0, pid}


async def test_a_killed_agent_is_back_and_nobody_notices(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    runner = await machine.run("orders", port=free_port())
    seat = await machine.ready("orders")
    url = await _url(machine, "orders")
    await until(lambda: _answers(url))
    body = (await fetch(url))[1]
    before = machine.plane.state_of("orders")
    agent = (await machine.status()).pid
    os.kill(agent, signal.SIGKILL)
    began = time.monotonic()
    while time.monotonic() - began < 2.0:
        assert await fetch(url) == (200, body)
        await asyncio.sleep(0.05)
    again = await until(lambda: _adopted(machine), what="the new agent has adopted Envoy")
    assert (await machine.status()).pid != agent
    assert (again.envoy_pid, again.workload, again.ports) == (seat.envoy_pid, seat.workload, seat.ports)
    assert machine.plane.state_of("orders").occupants[0].seat == before.occupants[0].seat
    assert machine.plane.phase("orders") == "READY"
    await until(lambda: _online(machine), what="its Envoy is told by the control plane again")
    assert runner.process.returncode is None


async def _adopted(machine: World) -> SeatStatus | None:
    seat = await machine.seat("orders")
    return seat if seat and seat.phase == "READY" and seat.envoy_pid else None


async def _online(machine: World) -> bool:
    seat = await machine.seat("orders")
    return seat is not None and seat.is_online


async def test_a_workload_starts_from_its_last_good_configuration_without_a_control_plane(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    port = free_port()
    first = await machine.run("orders", port=port)
    await machine.ready("orders")
    url = await _url(machine, "orders")
    name = name_of(machine.plane.state_of("orders"))
    await until(lambda: _answers(url))
    first.process.send_signal(signal.SIGTERM)
    await first.process.wait()
    await machine.plane.stop()
    second = await machine.run("orders", port=port)
    seat = await machine.ready("orders")
    assert seat.workload == str(name)
    assert "last good configuration" in second.text
    await machine.plane.start()
    await until(lambda: _online(machine), what="joins the control plane when it returns")
    assert await _url(machine, "orders") == url
    await until(lambda: _answers(url))


async def test_a_workload_that_was_never_here_does_not_start_without_a_control_plane(machine: World) -> None:
    await machine.plane.stop()
    runner = await machine.run("orders", port=free_port(), start_timeout=4)
    assert await runner.process.wait() == 125
    assert "no control plane runs on" in runner.text


async def test_a_control_plane_that_comes_back_changes_nothing_that_runs(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    url = await _url(machine, "orders")
    await until(lambda: _answers(url))
    await machine.plane.stop()
    began = time.monotonic()
    while time.monotonic() - began < 3.0:
        assert await _answers(url)
    await machine.plane.start()
    await until(lambda: _online(machine), what="online again")
    assert await _answers(url)
    assert machine.plane.rejections == []
