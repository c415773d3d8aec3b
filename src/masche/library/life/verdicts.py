"""Tells other callers, by the control plane, whom this process cuts off or lets back in, the moment it does.

Looks at the Channels of the process ten times a second, at those only that are called. What the others found out comes
back as the health of endpoints. Invariant: what is said is bounded, and nothing depends on it: the next Report names
every endpoint that is cut off.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from masche.library.core.channel import Channels
from masche.library.core.members import parted
from masche.library.core.ports import Now
from masche.library.life.measures import Standing
from masche.link.messages import Verdict
from masche.model.refs import PortRef
from masche.traffic.ejection import State

INTERVAL: Final = 0.1
MOST_PER_LOOK: Final = 10
"""More are left to the Report: so many at once are not about an instance."""

MAX_CAUSE: Final = 200

Ejected = Mapping[tuple[str, str], str]
"""Why, by cluster and ``host:port``."""


def ejected(channels: Channels, *, now: float) -> Ejected:
    """Whom this process cuts off on its own evidence."""
    return {
        (cluster, each.endpoint): each.sentence
        for cluster, found in channels.verdicts(now=now).items()
        for each in found
        if not each.faults
    }


def news(proxy: str, before: Ejected, after: Ejected) -> Iterator[Verdict]:
    """What changed, as it is said to others; of clusters that another control plane named nothing is."""
    for key in sorted(before.keys() ^ after.keys()):
        if (service := PortRef.parse(key[0])) is not None:
            cause = after.get(key, "its time is served")
            endpoint, via = parted(key[1])
            yield Verdict(
                proxy=proxy,
                service=service,
                endpoint=endpoint,
                via=via,
                is_ejected=key in after,
                cause=cause[:MAX_CAUSE],
            )


def standings(channels: Channels) -> Iterator[Standing]:
    """How the instances stand that somebody waits for or keeps off."""
    for channel in channels.all():
        with channel.lock:
            callee = channel.callee
            found = [
                (each.id, callee.balancer.gauge(each.id).outstanding, callee.breaker.state(each.id))
                for each in callee.balancer.membership.endpoints
            ]
        for address, active, state in found:
            if active or state is not State.ADMITTED:
                yield Standing(
                    cluster=channel.name, address=address, active=active, is_ejected=state is not State.ADMITTED
                )


async def watch(
    channels: Callable[[], Channels], *, proxy: Callable[[], str], tell: Callable[[Verdict], None], now: Now
) -> None:
    """Look and tell, for ever."""
    before: Ejected = {}
    while True:
        await asyncio.sleep(INTERVAL)
        after = ejected(channels(), now=now())
        if after != before:
            for number, verdict in enumerate(news(proxy(), before, after)):
                if number < MOST_PER_LOOK:
                    tell(verdict)
            before = after
