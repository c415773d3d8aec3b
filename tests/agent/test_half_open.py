import asyncio
import os
import signal
import sys
from pathlib import Path

from agent.world import World, free_port, until

IS_LONG = os.environ.get("MASCHE_LONG") == "1"

PLANE = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from agent.plane import Plane, reference
async def main():
    plane = Plane(Path(sys.argv[1]), Path(sys.argv[2]))
    plane.services = (reference("orders"),)
    await plane.start()
    print("up", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_control_plane_that_only_stopped_answering_is_noticed(machine: World) -> None:
    await machine.plane.stop()
    tests = str(Path(__file__).parent.parent)
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PLANE, str(machine.data.parent / "other"), str(machine.plane.socket), tests),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await other.stdout.readline() == b"up\n"
        await machine.run("orders", port=free_port())
        await machine.ready("orders")
        await until(lambda: _is_online(machine))
        other.send_signal(signal.SIGSTOP)
        await until(lambda: _is_offline(machine), within=25 if IS_LONG else 60, what="the silence is noticed")
        other.send_signal(signal.SIGCONT)
        await until(lambda: _is_online(machine), within=20, what="online again")
    finally:
        other.kill()
        await other.wait()


async def _is_online(machine: World) -> bool:
    seat = await machine.seat("orders")
    return seat is not None and seat.is_online


async def _is_offline(machine: World) -> bool:
    status = await machine.status()
    return status is not None and not status.is_connected
