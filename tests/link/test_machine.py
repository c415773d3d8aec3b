"""One credential serves all processes of a machine: one of them renews it, and the others take what it was given."""

import asyncio
import stat
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest

from link.plane import Mutual, until
from link.test_joining import invited
from masche.identity import places
from masche.link import machine
from masche.link.machine import Credential, Machine, MachineError


@asynccontextmanager
async def running(*machines: Machine) -> AsyncGenerator[None]:
    tasks = [asyncio.ensure_future(each.run()) for each in machines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def old_credential(mutual: Mutual) -> Credential:
    """One that is to be renewed at once."""
    fresh = await machine.join(await invited(mutual), "laptop", zone="north")
    return msgspec.structs.replace(fresh, obtained_at=time.time() - fresh.lifetime)


async def test_a_credential_comes_back_as_it_was_kept_and_only_for_us(mutual: Mutual, tmp_path: Path) -> None:
    credential = await machine.join(await invited(mutual), "laptop", zone="north")
    path = machine.save(tmp_path, credential)
    assert machine.load(tmp_path) == credential
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(MachineError, match="can be used by others"):
        machine.load(tmp_path)


def test_a_machine_that_never_joined_has_no_credential(tmp_path: Path) -> None:
    assert machine.load(tmp_path) is None
    (tmp_path / "file").write_text("")
    assert machine.load(tmp_path / "file" / "data") is None


async def test_of_several_processes_that_renew_at_once_all_have_the_same_in_the_end(
    mutual: Mutual, tmp_path: Path
) -> None:
    old = await old_credential(mutual)
    machine.save(tmp_path, old)
    several = [Machine(tmp_path, old, rng=Random(each)) for each in range(4)]
    async with running(*several):
        await until(lambda: all(each.credential != old for each in several), "all have a new one")
    kept = machine.load(tmp_path)
    assert kept is not None
    assert {each.credential for each in several if each.credential} == {kept}
    assert kept.zone == "north"


async def test_a_credential_that_is_one_process_s_own_is_renewed_and_written_nowhere(
    mutual: Mutual, tmp_path: Path
) -> None:
    old = await old_credential(mutual)
    own = Machine(tmp_path / "data", old, rng=Random(1), is_kept=False)
    async with running(own):
        await until(lambda: own.credential != old, "it is renewed")
    assert not places.machine_folder(tmp_path / "data").exists()


async def test_somebody_may_say_where_the_control_plane_is(mutual: Mutual, tmp_path: Path) -> None:
    credential = await machine.join(await invited(mutual), "laptop", zone="")
    used: list[str] = []
    told = Machine(tmp_path, credential, rng=Random(1), control_plane="10.0.0.9:15012")
    [target] = told.targets(used.append)
    assert (target.address, told.addresses) == ("10.0.0.9:15012", ("10.0.0.9:15012",))
    assert target.presented is not None
    assert target.presented().chain == credential.chain
    assert used == ["10.0.0.9:15012"]
    beside = Machine(tmp_path, None, rng=Random(1))
    assert [each.address for each in beside.targets(used.append)] == [f"unix:{places.control_socket(tmp_path)}"]
