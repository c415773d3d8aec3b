"""Whether an application of this machine fails whoever calls it: told by its Envoy, and confirmed by asking.

Envoy says in its event log that an application failed several calls in a row, whoever made them. If it answers anybody
well in the moment after that, it is overloaded, or dislikes some of what it is asked: to take it off would only load
those that are left, and a question would take the place of a call. If it does not, the agent asks it something that no
caller asked. When that fails, too, callers are told at once, by the control plane (a ``Plight``), instead of each
finding out by calls of its own; the agent asks on, and when it is answered again they are told that. While calls still
come and fail, they tell, and it is hardly asked: where everybody fails, nobody is cut off, and questions would pass
from tier to tier like calls. Invariant: nothing is asked of an application that fails nobody, and nothing of one whose
``--health`` is ``none``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from masche.agent import door
from masche.agent.local import Claim
from masche.link import probe
from masche.link.messages import PLIGHT_SECONDS, Plight
from masche.model.refs import Name
from masche.model.vantage import Seat

QUIET = 0.06
"""An application that fails everybody answers nobody for so many seconds. It costs three calls where an instance has 50
a second; who answers fewer well under overload is spared by what callers report of the others, a second later."""

RESPITE = 0.5
"""Seconds for which it is not suspected again when it has answered somebody."""

GOOD = 2
"""So many answers in a row show that it is well."""

SOON, LATER, SOON_FOR = 0.2, 1.0, 30.0
"""Seconds between two questions at first, later on, and after how many."""

CONFIRM = 0.05
"""Seconds after a good answer until the next question: so it is back sooner, for fewer questions."""

CALLED_FOR, WHILE_CALLED = 0.5, 2.0
"""For so many seconds after calls failed in a row others are expected, and so many are between questions meanwhile."""

MAX_CAUSE = 200
_INBOUND, _GRPC = "inbound", "h2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An application port of which Envoy told something. ``workload`` None: the one that a sidecar serves."""

    workload: Name | None
    port: int


def suspect(cluster: str) -> Suspect | None:
    """Read the name of a cluster before an application (``compiler.envoy.seated``); None for any other."""
    kind, *rest = cluster.split("/")
    if rest and rest[-1] == _GRPC:
        rest.pop()
    if kind != _INBOUND or len(rest) not in {1, 3} or not rest[-1].isdecimal():
        return None
    return Suspect(workload=Name(rest[0], rest[1]) if len(rest) == 3 else None, port=int(rest[-1]))


class Distress:
    """Of the application of one seat, which may move until it serves. ``tell`` says a Plight; ``answered`` how many
    calls to a port were answered well so far.
    """

    def __init__(
        self,
        proxy: str,
        claim: Claim,
        seat: Callable[[], Seat],
        *,
        answered: Callable[[int], Awaitable[int]],
        tell: Callable[[Plight], None],
    ) -> None:
        self._proxy = proxy
        self._claim = claim
        self._seat = seat
        self._answered = answered
        self._tell = tell
        self._suspected = {one.port: asyncio.Event() for one in claim.ports}
        self.ports: set[int] = set()

    def __repr__(self) -> str:
        return f"<Distress of {self._claim.service}: {sorted(self.ports) or 'none'}>"

    def suspect(self, port: int) -> None:
        """Its calls fail: ask it."""
        if event := self._suspected.get(port):
            event.set()

    async def watch(self) -> None:
        """Ask when there is reason to, for ever."""
        async with asyncio.TaskGroup() as group:
            for port in self._suspected if self._claim.health != "none" else ():
                group.create_task(self._watch(port))

    async def _watch(self, port: int) -> None:
        suspected = self._suspected[port]
        while True:
            await suspected.wait()
            suspected.clear()
            if await self._answers(port):
                await asyncio.sleep(RESPITE)
                suspected.clear()
            elif why := await self._ask(port):
                await self._follow(port, why)
                suspected.clear()  # what failed until now is over

    async def _answers(self, port: int) -> bool:
        """Whether anybody is answered well in the next moment."""
        before = await self._answered(port)
        await asyncio.sleep(QUIET)
        return await self._answered(port) > before

    async def _pause(self, suspected: asyncio.Event, pause: float) -> None:
        """Wait for ``pause`` seconds, and longer while calls go on failing."""
        now = asyncio.get_running_loop().time
        asked_at, called_at = now(), float("-inf")
        while now() - asked_at < WHILE_CALLED:
            await asyncio.sleep(pause)
            if suspected.is_set():
                suspected.clear()
                called_at = now()
            if now() - called_at >= CALLED_FOR:
                return

    async def _follow(self, port: int, why: str) -> None:
        """Say so again and again, until it answers."""
        now = asyncio.get_running_loop().time
        began, said_at, good = now(), float("-inf"), 0
        self.ports.add(port)
        try:
            while good < GOOD:
                if now() - said_at >= PLIGHT_SECONDS:
                    said_at = now()
                    self._say(port, why)
                pause = SOON if now() - began < SOON_FOR else LATER
                await (asyncio.sleep(CONFIRM) if good else self._pause(self._suspected[port], pause))
                found = await self._ask(port)
                why, good = found or why, 0 if found else good + 1
        finally:
            self.ports.discard(port)
        self._say(port, "")

    def _say(self, port: int, why: str) -> None:
        workload = self._seat().workload
        self._tell(Plight(proxy=self._proxy, workload=workload, port=port, is_well=not why, cause=why[:MAX_CAUSE]))

    async def _ask(self, port: int) -> str:
        """How it fails a question; "" when it does not, or nobody knows what to ask."""
        seat, health = self._seat(), self._claim.health
        address, connect = seat.app_address, door.into(seat.namespace_path)
        if health.startswith("http:") and port == self._claim.ports[0].port:
            ask = probe.parse(health, address, port, connect=connect)
            return await ask() if ask else ""
        return await probe.failing(address, port, connect=connect)
