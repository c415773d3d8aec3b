"""Limits that share one timer end tasks as ``asyncio.timeout`` would, and leave nothing behind."""

import asyncio
from random import Random

import pytest

from masche.library.core.time_limits import TimeLimits


async def limited(limits: TimeLimits, seconds: float, takes: float) -> str:
    limit = limits.begin(seconds)
    try:
        await asyncio.sleep(takes)
    except asyncio.CancelledError:
        if limit.end():
            return "cut"
        raise
    return "late" if limit.end() else "done"


async def test_each_task_is_cut_by_its_own_limit_whatever_the_order():
    limits = TimeLimits(asyncio.get_running_loop())
    chance = Random(1)
    wanted = [(seconds, "cut" if is_short else "done") for seconds, is_short in [(0.01, True), (0.03, False)] * 40]
    chance.shuffle(wanted)
    found = await asyncio.gather(
        *(limited(limits, 0.01 if word == "cut" else 60, 60 if word == "cut" else seconds) for seconds, word in wanted)
    )
    assert found == [word for _, word in wanted]
    assert limits.active == 0
    limits.close()


async def test_a_cancellation_from_elsewhere_is_not_taken_for_the_limit():
    limits = TimeLimits(asyncio.get_running_loop())
    task = asyncio.create_task(limited(limits, 60, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    limits.close()


async def test_who_is_cancelled_when_the_limit_has_passed_stays_cancelled():
    limits = TimeLimits(asyncio.get_running_loop())
    begun = asyncio.Event()

    async def blocked() -> str:
        limit = limits.begin(0.0)
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert limit.has_passed
            return "cut" if limit.end() else "cancelled"
        return "done"

    task = asyncio.create_task(blocked())
    await begun.wait()
    asyncio.get_running_loop().call_later(0, task.cancel)
    assert await task in {"cut", "cancelled"}
    both = asyncio.create_task(blocked())
    begun.clear()
    await begun.wait()
    both.cancel()
    limits._pass()  # pyright: ignore[reportPrivateUsage] # both at once, which no timer can be asked for
    assert await both == "cancelled"
    limits.close()


async def test_what_is_over_is_not_kept():
    limits = TimeLimits(asyncio.get_running_loop())
    for _ in range(1000):
        limits.begin(60).end()
    assert len(limits._due) < 100  # pyright: ignore[reportPrivateUsage] # what is kept is what it is about
    limits.close()


async def test_a_limit_that_passes_after_others_were_given_up_is_still_kept():
    limits = TimeLimits(asyncio.get_running_loop())
    for _ in range(200):
        limits.begin(0.001).end()
    assert await limited(limits, 0.02, 60) == "cut"
    limits.close()
