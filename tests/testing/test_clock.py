"""Time stands still until it is moved, and sleepers wake exactly then."""

import asyncio
from datetime import timedelta

import pytest

from masche.testing.clock import START, Clock


async def test_sleepers_wake_when_their_time_has_come():
    clock = Clock(100.0)
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("late", 10), ("early", 5), ("at once", 0)):
            group.create_task(sleeper(name, seconds))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert woken == ["at once"]
        assert repr(clock) == "<Clock 100 s, 2 asleep>"
        clock.advance(5)
        await asyncio.sleep(0)
        assert woken == ["at once", "early"]
        clock.advance(5)
    assert woken == ["at once", "early", "late"]
    assert clock() == 110
    assert clock.wall() == START + timedelta(seconds=10)


def test_time_does_not_run_backwards():
    with pytest.raises(ValueError, match="backwards"):
        Clock().advance(-1)
