"""Whom a process cuts off, others hear of; how its instances stand, its Reports say."""

import asyncio
from random import Random

from library.core.scripted import ORDERS, mesh, orders
from masche.library.core.channel import Channel, Channels
from masche.library.life import verdicts
from masche.link.messages import Verdict
from masche.traffic.outcome import Outcome

BAD = "10.0.0.1:80"


def called(channels: Channels, *, now: float = 10.0) -> Channel:
    channels.routes(orders(instances=4), now=lambda: now)
    found = channels.get(ORDERS.path)
    assert found is not None
    return found


def fail_at(channel: Channel, *, now: float = 10.0) -> None:
    """Attempts of which one instance answers none, the others all."""
    with channel.lock:
        breaker = channel.callee.breaker
        for number in range(10):
            for each in channel.callee.balancer.membership.endpoints:
                at = now + number / 100
                outcome = Outcome.FAILURE if each.id == BAD else Outcome.SUCCESS
                breaker.settle(breaker.start(each.id, now=at), outcome, now=at + 0.005)


def test_who_was_cut_off_on_own_evidence_is_told_and_so_is_its_return() -> None:
    channels = Channels(caller="p1")
    fail_at(called(channels))
    out = verdicts.ejected(channels, now=10.1)
    assert list(out) == [(ORDERS.path, BAD)]
    [said] = verdicts.news("library~web.shop", {}, out)
    assert (said.proxy, said.service, said.endpoint, said.is_ejected) == ("library~web.shop", ORDERS, BAD, True)
    assert "failures" in said.cause
    [back] = verdicts.news("library~web.shop", out, {})
    assert (back.endpoint, back.is_ejected) == (BAD, False)
    assert list(verdicts.news("library~web.shop", out, out)) == []


def test_of_a_detour_it_is_said_by_which_gateway() -> None:
    [said] = verdicts.news("p", {}, {(ORDERS.path, f"{BAD}@10.0.0.9:15008"): "failures in a row"})
    assert (said.endpoint, said.via, said.is_ejected) == (BAD, "10.0.0.9:15008", True)


def test_of_what_another_control_plane_named_nothing_is_told() -> None:
    assert list(verdicts.news("p", {}, {("cluster_7", BAD): "failures in a row"})) == []


def test_a_report_says_who_is_cut_off_and_who_is_waited_for() -> None:
    channels = Channels(caller="p1")
    channel = called(channels)
    fail_at(channel)
    with channel.lock:
        waiting = channel.callee.start(now=10.1, rng=Random(1), method="POST")
    assert waiting is not None
    found = {each.address: each for each in verdicts.standings(channels)}
    assert found[BAD].is_ejected
    assert found[waiting.endpoint.id].active == 1
    assert len(found) == 2, "of who is well and idle nothing is to be said"


async def test_what_changes_is_told_within_a_moment() -> None:
    facade, _ = mesh()
    told: asyncio.Queue[Verdict] = asyncio.Queue()
    watching = asyncio.ensure_future(
        verdicts.watch(lambda: facade.channels, proxy=lambda: "p1", tell=told.put_nowait, now=lambda: 10.1)
    )
    fail_at(called(facade.channels))
    async with asyncio.timeout(5):
        said = await told.get()
    assert (said.endpoint, said.is_ejected) == (BAD, True)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
