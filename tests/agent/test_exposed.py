import asyncio
import os
import socket
import sys

import pytest

from agent.world import World, free_port, until
from masche.agent.exposed import exposed

LISTENER = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
one = socket.socket(family)
one.bind((sys.argv[1], int(sys.argv[2])))
one.listen()
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("address", "is_exposed"),
    [("127.0.0.1", False), ("127.0.0.9", False), ("::1", False), ("0.0.0.0", True), ("::", True)],
)
@pytest.mark.parametrize("is_child", [False, True])
async def test_a_port_beyond_loopback_is_seen_also_in_a_child_process(
    address: str, *, is_exposed: bool, is_child: bool
) -> None:
    port = free_port()
    words = [sys.executable, "-c", LISTENER, address, str(port)]
    if is_child:
        words = ["sh", "-c", '"$@"; exit 0', "sh", *words]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, process_group=0)
    try:
        assert await process.stdout.readline() == b"up\n"
        assert [(one.port) for one in exposed(process.pid, [port])] == ([port] if is_exposed else [])
        assert exposed(process.pid, [port + 1]) == ()
        assert exposed(1 if os.getpid() != 1 else 2, [port + 1]) == ()
    finally:
        os.killpg(process.pid, 9)
        await process.wait()


async def test_an_exposed_command_is_told_and_refused_under_strict(machine: World) -> None:
    port = free_port()
    words = (sys.executable, "-c", LISTENER, "0.0.0.0", str(port))
    runner = await machine.run("orders", *words, port=port)
    await until(lambda: f"port {port} listens on 0.0.0.0" in runner.text)
    await until(lambda: machine.plane.state_of("orders").occupants[0].exposed)
    runner.process.terminate()
    await runner.process.wait()
    strict = await machine.run("orders", *words, port=port, is_strict=True)
    await until(lambda: strict.process.returncode is not None, within=30, what="the runner has ended")
    assert strict.process.returncode == 125, strict.text


async def test_who_has_the_port_of_a_command_already_is_spoken_of(machine: World) -> None:
    """It answers the probe, and would get the calls."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = int(other.getsockname()[1])
        runner = await machine.run("orders", sys.executable, "-c", "import time; time.sleep(60)", port=port)
        await until(lambda: f"another process listens on port {port} already" in runner.text)
        runner.process.terminate()
        await runner.process.wait()


async def test_of_a_free_port_nothing_is_said(machine: World) -> None:
    port = free_port()
    runner = await machine.run("orders", sys.executable, "-c", LISTENER, "127.0.0.1", str(port), port=port)
    await until(lambda: "READY" in runner.text)
    assert "another process" not in runner.text
    runner.process.terminate()
    await runner.process.wait()
