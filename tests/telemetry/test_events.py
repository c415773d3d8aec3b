"""Events are numbered, bounded, and reach those who wait."""

import asyncio

from masche.telemetry.events import Event, Events
from masche.testing.clock import Clock


def log(limit: int = 100) -> tuple[Events, Clock]:
    clock = Clock(1000.0)
    return Events(wall=clock, limit=limit), clock


async def test_an_event_is_numbered_and_dated():
    events, clock = log()
    first = events.add(kind="workload-left", about="shop/cart-1", message="shop/cart-1 left in order")
    clock.advance(5)
    second = events.add(kind="lease-held", severity="warning", message="half of the mesh is silent")
    assert first == Event(
        sequence=1,
        at=1000,
        kind="workload-left",
        severity="info",
        about="shop/cart-1",
        message="shop/cart-1 left in order",
    )
    assert (second.sequence, second.at, second.about) == (2, 1005, "")
    assert events.after(0) == (first, second)
    assert events.after(1) == (second,)
    assert events.after(2) == ()


async def test_old_events_give_way_and_a_reader_can_tell():
    events, _ = log(limit=3)
    assert (events.oldest, events.latest) == (1, 0)
    for n in range(10):
        events.add(kind="applied", message=str(n))
    assert (events.oldest, events.latest, len(events)) == (8, 10, 3)
    assert [event.sequence for event in events.after(2)] == [8, 9, 10]
    assert [event.sequence for event in events.after(8, limit=1)] == [9]


async def test_whoever_waits_is_woken_and_a_timeout_is_an_answer():
    events, _ = log()
    assert not await events.wait(after=0, timeout=0.001)
    waiting = asyncio.ensure_future(events.wait(after=0, timeout=10))
    await asyncio.sleep(0)
    events.add(kind="applied", message="now")
    assert await waiting
    assert await events.wait(after=0, timeout=0)


async def test_a_follower_gets_the_old_ones_and_then_each_new_one():
    events, _ = log()
    events.add(kind="applied", message="old")
    following = events.follow(after=0)
    assert (await anext(following)).message == "old"
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    events.add(kind="applied", message="new")
    assert (await waiting).message == "new"


async def test_the_log_hears_of_each_event():
    heard: list[Event] = []
    events = Events(wall=Clock(), heard=heard.append)
    event = events.add(kind="applied", message="x")
    assert heard == [event]


async def test_a_reader_of_the_control_plane_before_misses_nothing_of_this_one():
    """Numbers begin anew, and it comes back with one that is not given yet."""
    events, _ = log()
    assert events.after(500) == ()
    waiting = asyncio.ensure_future(events.wait(after=500, timeout=10))
    following = events.follow(after=500)
    next_one = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    first = events.add(kind="applied", message="first")
    assert events.after(500) == (first,)
    assert await waiting
    assert await next_one == first
    assert not await events.wait(after=1, timeout=0)
