"""Limits that share one timer end tasks as ``asyncio.timeout`` would, and leave nothing behind."""

import asyncio
from random import Random

import pytest

from masche.library.core.time_limits import OutOfTimeError, TimeLimits


async def limited(limits: TimeLimits, seconds: float, takes: float) -> str:
    try:
        with limits.within(seconds):
            await asyncio.sleep(takes)
    except OutOfTimeError:
        return "cut"
    return "done"


async def test_each_task_is_cut_by_its_own_limit_whatever_the_order():
    limits = TimeLimits(asyncio.get_running_loop())
    chance = Random(1)
    wanted = [(seconds, "cut" if is_short else "done") for seconds, is_short in [(0.01, True), (0.03, False)] * 40]
    chance.shuffle(wanted)
    found = await asyncio.gather(
        *(limited(limits, 0.01 if word == "cut" else 60, 60 if word == "cut" else seconds) for seconds, word in wanted)
    )
    assert found == [word for _, word in wanted]
    assert not limits.active
    limits.close()


async def test_a_cancellation_from_elsewhere_is_not_taken_for_the_limit():
    limits = TimeLimits(asyncio.get_running_loop())
    task = asyncio.create_task(limited(limits, 60, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not limits.active
    limits.close()


async def test_what_fails_by_itself_fails_so_also_when_its_time_is_up():
    limits = TimeLimits(asyncio.get_running_loop())

    async def failing() -> None:
        with limits.within(0.0):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise ValueError("wrong") from None

    task = asyncio.create_task(failing())
    with pytest.raises(ValueError, match="wrong"):
        await task
    assert task.cancelling() == 0
    limits.close()


async def test_who_is_cancelled_when_the_limit_has_passed_stays_cancelled():
    limits = TimeLimits(asyncio.get_running_loop())
    begun = asyncio.Event()

    async def blocked() -> str:
        try:
            with limits.within(0.0):
                begun.set()
                await asyncio.sleep(60)
        except OutOfTimeError:
            return "cut"
        except asyncio.CancelledError:
            return "cancelled"
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
        with limits.within(60):
            pass
    assert not limits.active
    limits.close()


async def test_what_has_no_limit_waits_for_no_timer():
    limits = TimeLimits(asyncio.get_running_loop())
    assert await limited(limits, float("inf"), 0.0) == "done"
    assert limits._timer is None  # pyright: ignore[reportPrivateUsage] # what it waits for cannot be seen otherwise


async def test_a_limit_that_passes_after_others_were_given_up_is_still_kept():
    limits = TimeLimits(asyncio.get_running_loop())
    for _ in range(200):
        with limits.within(0.001):
            pass
    assert await limited(limits, 0.02, 60) == "cut"
    limits.close()


async def test_a_later_limit_is_kept_when_the_timer_has_come_for_an_earlier_one():
    limits = TimeLimits(asyncio.get_running_loop())
    tasks = [asyncio.create_task(limited(limits, seconds, 60)) for seconds in (0.03, 0.01, 0.02)]
    assert await asyncio.gather(*tasks) == ["cut"] * 3
    limits.close()
