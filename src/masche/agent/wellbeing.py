"""How the command of one seat does: whether it answers its probe, and whether it can be reached around its proxy.

Nothing is asked before the command was started. A gateway has no command and is well from the beginning.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from masche.agent import local
from masche.agent.exposed import exposed
from masche.agent.local import Claim
from masche.link import probe
from masche.link.probe import Probe, Pulse
from masche.model.vantage import Placement

EXPOSED_INTERVAL = 10.0
"""Seconds between two looks at the sockets of a command that is READY."""

Asking = Callable[[], AbstractAsyncContextManager[Probe | None]]
"""Opens a way to ask an application how it is."""


class Wellbeing:
    """What is known of one command, which is to answer at ``address``, or to whatever ``asking`` yields.

    ``on_change`` is called after every change, ``tell`` reaches its runner. Who is asked another way than at an address
    of ours is captured, and cannot be reached around its proxy.
    """

    def __init__(
        self,
        claim: Claim,
        pulse: Pulse,
        *,
        on_change: Callable[[], None],
        tell: Callable[["local.FromAgent"], None],
        address: str = "127.0.0.1",
        asking: Asking | None = None,
    ) -> None:
        self.pulse = pulse
        self.exposed: tuple[int, ...] = ()
        self.is_draining = False
        self._claim = claim
        self._address = address
        self._asking = asking
        self._on_change = on_change
        self._tell = tell
        self._command = 0
        self._started = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Wellbeing {self.phase} {self.pulse.reason}>"

    @property
    def phase(self) -> str:
        """STARTING, READY, UNHEALTHY or DRAINING."""
        return "DRAINING" if self.is_draining else self.pulse.phase

    def command_started(self, pid: int) -> None:
        """The command runs: from now on it is probed and looked at."""
        self._command = pid
        self._started.set()

    async def watch(self) -> None:
        """Probe and look, for ever; a gateway is well at once."""
        if self._claim.placement is Placement.GATEWAY:
            self._take(self.pulse.after(""))
            return
        await self._started.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._probe())
            if self._claim.placement is not Placement.LIBRARY and not self._asking:  # who are there to be called
                group.create_task(self._look())

    async def _probe(self) -> None:
        async with self._asking() if self._asking else nullcontext(self._usual()) as ask:
            while ask:
                self._take(self.pulse.after(await ask()))
                await asyncio.sleep(self.pulse.interval)
        self._take(self.pulse.after(""))

    def _usual(self) -> Probe | None:
        port = self._claim.ports[0].port if self._claim.ports else 0
        return probe.parse(self._claim.health, self._address, port) if port else None

    def _take(self, pulse: Pulse) -> None:
        has_changed = pulse.phase != self.pulse.phase
        self.pulse = pulse
        if has_changed and not self.is_draining:
            self._on_change()
            self._tell(local.Phase(phase=pulse.phase, reason=pulse.reason))

    async def _look(self) -> None:
        while True:
            found = exposed(self._command, [one.port for one in self._claim.ports])
            ports = tuple(sorted({one.port for one in found}))
            for one in found:
                if one.port not in self.exposed:
                    self._tell(local.Exposed(port=one.port, address=one.address))
            if ports != self.exposed:
                self.exposed = ports
                self._on_change()
            await asyncio.sleep(EXPOSED_INTERVAL if self.pulse.phase == "READY" else probe.INTERVAL)
