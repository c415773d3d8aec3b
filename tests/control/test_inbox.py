"""What an agent says faster than it is heard."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from control.plant import sidecar
from control.test_nodes import node
from masche.control.inbox import AHEAD, Inbox
from masche.link.messages import FromAgent, Heartbeat, MessageError, ProxyGone, Synced


async def said(*messages: FromAgent) -> AsyncIterator[FromAgent]:
    for message in messages:
        yield message


async def heard(inbox: Inbox) -> list[FromAgent]:
    return [message async for message in inbox.messages()]


async def test_of_states_of_one_proxy_that_wait_the_last_is_heard() -> None:
    inbox = Inbox()
    await inbox.fill(said(node("web"), node("web", "orders"), node("orders"), Synced()))
    assert await heard(inbox) == [node("orders"), Synced()]


async def test_nothing_else_is_left_out_and_the_order_stays() -> None:
    words = (sidecar("web"), sidecar("orders"), sidecar("web"), ProxyGone(proxy="web-proxy"), sidecar("web"), Synced())
    inbox = Inbox()
    await inbox.fill(said(*words))
    assert await heard(inbox) == list(words)


async def test_only_so_much_waits_and_all_of_it_is_heard() -> None:
    inbox = Inbox()
    filling = asyncio.create_task(inbox.fill(said(*[Heartbeat()] * (3 * AHEAD))))
    await asyncio.sleep(0)
    assert repr(inbox) == f"<Inbox {AHEAD} waiting>"
    assert len(await heard(inbox)) == 3 * AHEAD
    await filling


async def test_what_cannot_be_read_is_raised_after_what_could() -> None:
    async def broken() -> AsyncIterator[FromAgent]:
        yield Synced()
        raise MessageError("no message")

    inbox = Inbox()
    await inbox.fill(broken())
    messages = inbox.messages()
    assert await anext(messages) == Synced()
    with pytest.raises(MessageError, match="no message"):
        await anext(messages)
