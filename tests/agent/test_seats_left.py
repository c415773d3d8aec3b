"""What seats leave behind: Envoys that nobody claims, and folders that nobody comes back to."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from agent.world import World, free_port, until
from masche.agent.envoy import Place, adopt
from masche.agent.folders import Folders
from masche.agent.server import FORGOTTEN_SECONDS, ORPHAN_SECONDS, is_forgotten


def _envoy_runs(folder: Path) -> bool:
    handle = adopt(Place(folder=folder, admin=folder / "unused"))
    if handle:
        handle.close()
    return handle is not None


@pytest.mark.long
async def test_the_envoy_of_a_runner_that_died_with_its_agent_is_ended_by_the_next_agent(machine: World) -> None:
    doomed = await machine.run("doomed", port=free_port())
    await machine.run("orders", port=free_port())
    seat = await machine.ready("doomed")
    await machine.ready("orders")
    agent = await machine.status()
    assert agent
    folder = machine.folders.seat(seat.workload)
    doomed.process.kill()
    os.kill(agent.pid, signal.SIGKILL)
    assert _envoy_runs(folder)
    await until(lambda: not _envoy_runs(folder), within=ORPHAN_SECONDS + 20, what="the orphan has ended")
    assert await machine.seat("orders"), "the seat whose runner lives was ended, too"


@pytest.mark.parametrize(("age", "is_gone"), [(FORGOTTEN_SECONDS - 60, False), (FORGOTTEN_SECONDS + 60, True)])
def test_a_seat_is_forgotten_a_week_after_it_was_last_written_to(tmp_path: Path, age: float, *, is_gone: bool) -> None:
    (tmp_path / "seat.json").write_text("{}")
    now = tmp_path.stat().st_mtime + age
    assert is_forgotten(tmp_path, now=now) is is_gone


def test_a_seat_that_vanishes_meanwhile_is_left_alone(tmp_path: Path) -> None:
    assert not is_forgotten(tmp_path / "gone", now=1e12)


async def test_an_agent_whose_runner_gives_up_while_it_starts_does_not_stay(machine: World) -> None:
    runner = await machine.run("orders", port=free_port())
    await until(machine.folders.start_lock.exists, what="the runner starts an agent")
    runner.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(runner.process.wait(), 20) == 128 + signal.SIGTERM
    status = await machine.status()
    if status is None:
        return  # it was not listening yet, and never will
    assert status.seats == ()


async def test_an_agent_that_ends_takes_the_folder_of_its_sockets_with_it(short_path: Path) -> None:
    deep = short_path / ("deep" * 20)
    deep.mkdir()
    folders = Folders(deep)
    assert folders.sockets != folders.agent
    agent = await asyncio.create_subprocess_exec(sys.executable, "-m", "masche.agent.process", "--data", str(deep))
    await until(folders.agent_socket.exists, what="the agent listens")
    agent.terminate()
    assert await asyncio.wait_for(agent.wait(), 20) == 0
    assert not folders.sockets.exists()
