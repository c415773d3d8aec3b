"""Keeps one Envoy running in its place, and has it succeeded by another one when it is to be replaced.

Invariants: of one place at most one Envoy is told what to hold; a crashed one is back within two seconds; one that is
replaced serves until its successor does. Whatever is killed in the middle of that, one Envoy serves in the end: the
record on disk names both from the moment there are two.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Protocol

from masche.agent import admin
from masche.agent.envoy import EnvoyError, Place, Record, adopt, check, held, made_of, read_record, start, write_record
from masche.agent.lineage import Line
from masche.agent.processes import Handle

FIRST_DELAY = 0.05
LONGEST_DELAY = 0.5
"""Bounds of the pause before a restart: with the start itself (0.1 s) below the promised two seconds."""

HEALTHY_AFTER = 10.0
"""An Envoy that lived so long starts the back-off afresh."""

SUCCESSION_SECONDS = 20.0
"""How long a successor may take until it serves."""

ALONE_SECONDS = 3.0
"""How long it may take once the one before it is gone, which it may be waiting for in vain."""


class Feed(Protocol):
    """By whom an Envoy is told what to hold, where it can be replaced."""

    async def until_fed(self) -> None:
        """Return when a successor would be told all that the Envoy which runs now holds."""

    def retire(self) -> None:
        """Tell the Envoy that runs now nothing more."""

    def turn(self) -> None:
        """Have whoever runs come and ask again."""


class Supervisor:
    """Keeps one Envoy running until told to stop it. Cancelling ``run`` leaves the Envoy alone."""

    def __init__(
        self, binary: Path, place: Place, *, on_restart: Callable[[int], None], feed: Feed | None = None
    ) -> None:
        self.place = place
        self.restarts = 0
        self.successions = 0
        self._binary = binary
        self._on_restart = on_restart
        self._feed = feed
        self._handle: Handle | None = None
        self._before: Handle | None = None
        self._coming: Handle | None = None
        self._changing = asyncio.Lock()
        self._replaced = asyncio.Event()
        self._is_stopping = False
        self._inherited = 0
        self._delay = FIRST_DELAY

    def __repr__(self) -> str:
        return f"<Supervisor {self.place.folder.name}: {self._handle}, {self.restarts} restarts>"

    @property
    def is_inherited(self) -> bool:
        """Whether the Envoy now running was started by an agent before us."""
        return self.pid != 0 and self.pid == self._inherited

    @property
    def pid(self) -> int:
        """The pid of the Envoy now running; 0 for none."""
        return self._handle.process.pid if self._handle and not self._handle.has_ended else 0

    async def run(self) -> None:
        """Adopt or start, then restart for as long as nobody stops it. Raises EnvoyError, OSError: none starts."""
        self._adopt()
        if self._handle is None:
            self._handle = start(self._binary, self.place)
        renewing = asyncio.create_task(self._renew())
        try:
            await self._keep()
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            for each in () if self._is_stopping else self._all():  # whoever stops them waits for their end
                each.close()

    def _adopt(self) -> None:
        """Take over what an agent before us has left, also if it was about to replace it."""
        self._handle = adopt(self.place)
        record = read_record(self.place)
        if record and record.before:
            self._before = held(self.place, record.before)
            if self._handle is None and self._before:
                self._handle, self._before = self._before, None
        if self._handle:
            self._inherited = self._handle.process.pid

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            handle, began = self._handle, loop.time()
            assert handle is not None, "there is one as soon as it runs"
            await self._ended_or_replaced(handle)
            if self._is_stopping:
                return
            async with self._changing:
                if self._handle is handle and handle.has_ended:
                    is_healthy = loop.time() - began > HEALTHY_AFTER
                    self._delay = FIRST_DELAY if is_healthy else min(self._delay * 2, LONGEST_DELAY)
                    await asyncio.sleep(self._delay)
                    if (restarted := await self._restarted()) is None:
                        return
                    self._handle = restarted

    async def _ended_or_replaced(self, handle: Handle) -> None:
        self._replaced.clear()
        ended = asyncio.create_task(handle.wait())
        replaced = asyncio.create_task(self._replaced.wait())
        try:
            await asyncio.wait((ended, replaced), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            replaced.cancel()
            await asyncio.gather(ended, replaced, return_exceptions=True)

    async def _restarted(self) -> Handle | None:
        if self._before:  # it was to end when the one that crashed said so
            self._before.send(SIGTERM)
        while not self._is_stopping:
            self.restarts += 1
            self._on_restart(self.restarts)
            try:
                return start(self._binary, self.place)
            except (EnvoyError, OSError):
                await asyncio.sleep(LONGEST_DELAY)
        return None

    # -- succession -------------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Finish what an agent before us began, and replace an Envoy that is made of what is no longer there."""
        record = read_record(self.place)
        if not self._inherited or record is None or self._feed is None or not record.line.base:
            return
        with contextlib.suppress(EnvoyError, OSError):  # the one that runs goes on
            if record.before:
                await self._settle(record)
            if made_of(self._binary, self.place) != record.made_of:
                await self.replace()

    async def _settle(self, record: Record) -> None:
        async with self._changing:
            handle = self._handle
            if handle is None or handle.has_ended:
                return
            if handle.process == record.process:
                if not await self._serves(handle, record.line):
                    await self._beside(handle)
            elif not await admin.is_ready(self.place.admin):
                await self._beside(handle)  # its successor died, and has taken its admin socket with it

    async def replace(self) -> bool:
        """Have another Envoy, of the binary and the bootstrap of now, take over from the one that runs.

        No call is lost. Connections that are open after ``lineage.PARENT_SECONDS`` are cut. Returns whether there was
        one to take over from, and it can be.

        Raises:
            EnvoyError: the binary does not take the bootstrap, or a new one does not serve; the one that runs goes on.
        """
        feed = self._feed
        if feed is None or not self.pid:
            return False
        await check(self._binary, self.place)
        await feed.until_fed()
        async with self._changing:
            await self._alone()
            before, record = self._handle, read_record(self.place)
            if before is None or before.has_ended or self._is_stopping or record is None or not record.line.base:
                return False
            feed.retire()
            try:
                await self._succeed(feed, before, record)
            except (EnvoyError, OSError):
                feed.turn()
                raise
        return True

    async def _succeed(self, feed: Feed, before: Handle, record: Record) -> None:
        coming = self._coming = start(self._binary, self.place, succeeding=record)
        if await self._serves(coming, record.line.after(), before=before):
            self._before = before
            self._become(coming)
            return
        coming.send(SIGKILL)
        await coming.wait()
        self._coming = None
        feed.turn()
        await self._beside(before)

    async def _beside(self, before: Handle) -> None:
        """Start one that asks nothing of the one before it, which can have no other successor, and end that one."""
        handle = self._coming = start(self._binary, self.place)
        record = read_record(self.place)
        if record is None or not await self._serves(handle, record.line):
            raise EnvoyError(f"no new Envoy serves; see {self.place.log}")
        self._become(handle)
        before.send(SIGTERM)

    def _become(self, handle: Handle) -> None:
        self._handle, self._coming = handle, None
        self.successions += 1
        self._replaced.set()

    async def _serves(self, handle: Handle, line: Line, *, before: Handle | None = None) -> bool:
        """Wait until the Envoy of this line serves; False if it ends, or takes too long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SUCCESSION_SECONDS
        while not handle.has_ended and loop.time() < deadline:
            if await admin.live_line(self.place.admin) == (line.base, line.epoch):
                return True
            if before and before.has_ended:
                before, deadline = None, min(deadline, loop.time() + ALONE_SECONDS)
            await asyncio.sleep(0.02)
        return False

    async def _alone(self) -> None:
        """Wait until whoever was replaced has ended: of a line two live at a time, never three."""
        if self._before:
            await self._before.wait()
            self._before = None
            if record := read_record(self.place):
                write_record(self.place, Record(*record.process, line=record.line, made_of=record.made_of))

    # -- its life ---------------------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Return when Envoy says that it serves."""
        while not await admin.is_ready(self.place.admin):  # noqa: ASYNC110 - only Envoy knows; it can be asked, not awaited
            await asyncio.sleep(0.02)

    async def drain(self) -> None:
        """Ask callers to go elsewhere; open requests go on."""
        with contextlib.suppress(admin.AdminError):
            await admin.ask(self.place.admin, "/drain_listeners?inboundonly&graceful&skip_exit", method="POST")

    def terminate(self) -> None:
        """Ask it to end, and do not start it again."""
        self._is_stopping = True
        for each in self._all():
            each.send(SIGTERM)

    async def stop(self, grace: float = 5.0) -> None:
        """End it and wait for its end: SIGTERM, then SIGKILL after ``grace`` seconds."""
        self.terminate()
        if self._handle is None:
            return
        try:
            async with asyncio.timeout(grace):
                for each in self._all():
                    await each.wait()
        except TimeoutError:
            for each in self._all():
                each.send(SIGKILL)
                await each.wait()
        if record := read_record(self.place):
            record.line.clear(self.place.admin)
        self.place.record.unlink(missing_ok=True)
        self.place.admin.unlink(missing_ok=True)

    def _all(self) -> tuple[Handle, ...]:
        return tuple(each for each in (self._handle, self._before, self._coming) if each)
