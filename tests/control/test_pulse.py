"""Waiting without polling."""

import asyncio

import pytest

from masche.control.pulse import Pulse


async def test_what_holds_already_is_not_waited_for() -> None:
    await Pulse().until(lambda: True)


async def test_a_waiter_wakes_at_the_beat_at_which_its_condition_holds() -> None:
    pulse, seen = Pulse(), list[int]()
    waiting = asyncio.ensure_future(pulse.until(lambda: len(seen) == 2))
    for number in range(2):
        await asyncio.sleep(0)
        assert not waiting.done()
        seen.append(number)
        pulse.beat()
    await waiting


async def test_a_waiter_that_gives_up_is_forgotten() -> None:
    pulse = Pulse()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pulse.until(lambda: False)
    assert repr(pulse) == "<Pulse 0 waiting>"
