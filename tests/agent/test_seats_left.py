"""What seats leave behind: Envoys that nobody claims, and folders that nobody comes back to."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from agent.world import Runner, World, free_port, until
from masche.agent.envoy import Place, adopt
from masche.agent.folders import Folders
from masche.agent.leftovers import FORGOTTEN_SECONDS, UNKNOWN_SECONDS, is_forgotten, is_orphan, note_holder
from masche.agent.local import SeatStatus
from masche.agent.processes import identify
from masche.agent.runner import MESH_FAILED


def _envoy_runs(folder: Path) -> bool:
    handle = adopt(Place(folder=folder, admin=folder / "unused"))
    if handle:
        handle.close()
    return handle is not None


async def _with_envoy(machine: World, service: str) -> SeatStatus | None:
    """Its seat, once it is claimed again and has an Envoy."""
    seat = await machine.seat(service)
    return seat if seat and seat.envoy_pid else None


async def _killed_with_its_agent(machine: World, *doomed: Runner) -> None:
    """The agent first, so that it cannot see its runners go."""
    agent = await machine.status()
    assert agent
    os.kill(agent.pid, signal.SIGKILL)
    for runner in doomed:
        runner.process.kill()


async def test_the_envoy_of_a_runner_that_died_with_its_agent_is_ended_by_the_next_agent(machine: World) -> None:
    doomed = await machine.run("doomed", port=free_port())
    await machine.run("orders", port=free_port())
    folder = machine.folders.seat((await machine.ready("doomed")).workload)
    kept = await machine.ready("orders")
    await _killed_with_its_agent(machine, doomed)
    assert _envoy_runs(folder)
    await until(lambda: not _envoy_runs(folder), what="the orphan has ended")
    assert (await until(lambda: _with_envoy(machine, "orders"))).envoy_pid == kept.envoy_pid


async def test_the_envoy_of_a_runner_that_cannot_claim_it_yet_goes_on(machine: World) -> None:
    """However long that takes: what counts is whether the runner lives."""
    doomed, slow = await machine.run("doomed", port=free_port()), await machine.run("slow", port=free_port())
    await machine.run("orders", port=free_port())
    folder = machine.folders.seat((await machine.ready("doomed")).workload)
    before = await machine.ready("slow")
    await machine.ready("orders")
    slow.process.send_signal(signal.SIGSTOP)
    await _killed_with_its_agent(machine, doomed)
    await until(lambda: not _envoy_runs(folder), what="orphans are ended")
    assert _envoy_runs(machine.folders.seat(before.workload))
    slow.process.send_signal(signal.SIGCONT)
    after = await until(lambda: _with_envoy(machine, "slow"))
    assert after.envoy_pid == before.envoy_pid


def test_an_envoy_whose_holder_is_not_known_is_given_some_time(tmp_path: Path) -> None:
    note_holder(tmp_path, None)
    assert not is_orphan(tmp_path, waited=UNKNOWN_SECONDS - 1)
    assert is_orphan(tmp_path, waited=UNKNOWN_SECONDS)


def test_a_holder_is_not_taken_for_a_later_process_of_the_same_pid(tmp_path: Path) -> None:
    me = identify(os.getpid())
    assert me
    note_holder(tmp_path, me)
    assert not is_orphan(tmp_path, waited=1e9)
    note_holder(tmp_path, me._replace(started=me.started - 1))
    assert is_orphan(tmp_path, waited=0)


async def test_a_claim_with_a_name_that_is_none_leaves_nothing_behind(machine: World) -> None:
    wrong = [
        ("Orders", {}),
        ("../orders", {}),
        ("orders", {"namespace": "a/b"}),
        ("orders", {"service_account": "a~b"}),
    ]
    runners = [await machine.run(service, port=free_port(), **options) for service, options in wrong]
    for runner in runners:
        assert await asyncio.wait_for(runner.process.wait(), 30) == MESH_FAILED
        assert await until(lambda one=runner: "is no name for a" in one.text, what="it says why")
    assert not list(machine.folders.seats.iterdir())


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
