"""Whoever holds a seat leaves in order, and waits for no agent that is gone."""

import asyncio

from masche.agent.leaving import Leaving


def test_a_lost_agent_is_brought_back_by_who_stays_and_by_nobody_else() -> None:
    leaving = Leaving()
    assert leaving.lost()
    leaving.begin()
    assert not leaving.lost()


async def test_who_leaves_waits_for_no_agent_that_is_gone() -> None:
    leaving = Leaving()
    leaving.begin()
    leaving.lost()
    async with asyncio.timeout(1):
        await leaving.until_drained()
        await leaving.until_released()


async def test_who_stays_when_an_agent_is_lost_still_waits_for_its_proxy_later() -> None:
    leaving = Leaving()
    leaving.lost()
    leaving.begin()
    waiting = asyncio.create_task(leaving.until_released())
    await asyncio.sleep(0)
    assert not waiting.done()
    leaving.released()
    await asyncio.wait_for(waiting, 1)
    assert repr(leaving) == "<Leaving: begun, drained, released>"
