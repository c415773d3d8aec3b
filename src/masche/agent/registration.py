"""One seat as the control plane knows it: taken or refused, told of its services, and out of traffic.

Whoever sits there, with a proxy or without, registers, is answered, and drains in the same way. Invariant: a refusal
that comes before the first Scope ends the start; one that comes later is told to the command and changes nothing else.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from masche.agent import local
from masche.agent.occupancy import ClaimError
from masche.agent.secrets import Identity
from masche.agent.uplink import ForProxy, Listener
from masche.link.client import LAST_CALLS, Connected, Disconnected
from masche.link.messages import Accepted, Drained, Refused, Roots, Scope, ScopeService

OFFLINE_AFTER = 1.5
"""Seconds that a start waits for a control plane before it begins with what the last run left."""

DRAINED_WITHIN = 12.0
"""Seconds that a leave waits for the control plane to say that callers have it."""

Tell = Callable[["local.FromAgent"], None]
"""Reaches whoever claimed a seat."""

OnScope = Callable[[tuple[ScopeService, ...], bool], None]
"""Told what may be called, and whether that is the first answer."""


class Desk(Protocol):
    """Where a control plane is heard: the Uplink, or what passes on the part of one of a proxy's workloads."""

    @property
    def is_connected(self) -> bool:
        """Whether a control plane is there."""
        ...

    def listen(self, proxy: str, listener: Listener) -> None:
        """Tell ``listener`` everything that concerns this proxy."""
        ...

    def leave(self, proxy: str) -> None:
        """Whoever listened is gone."""
        ...


class Registration:
    """What was heard for one ``proxy``. ``created`` are the resources that were made for it."""

    def __init__(self, desk: Desk, identity: Identity, proxy: str, *, on_scope: OnScope, tell: Tell) -> None:
        self.created: tuple[str, ...] = ()
        self._desk = desk
        self._identity = identity
        self._proxy = proxy
        self._on_scope = on_scope
        self._tell = tell
        self._answered = asyncio.Event()
        self._scoped = asyncio.Event()
        self._drained = asyncio.Event()
        self._refusal: Refused | None = None

    def __repr__(self) -> str:
        return f"<Registration {self._proxy}{'' if self.is_taken else ', not taken'}>"

    @property
    def is_taken(self) -> bool:
        """Whether every part of the control plane knows the seat."""
        return self._scoped.is_set()

    def begin(self) -> None:
        """Hear from now on."""
        self._desk.listen(self._proxy, self._hear)

    async def taken(self) -> None:
        """Return once the seat is taken."""
        await self._scoped.wait()

    async def answered(self, within: float | None) -> bool:
        """Wait for an answer so many seconds; say whether the seat is taken. Raises ClaimError when it was refused."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._answered.wait()
        if self._refusal and not self.is_taken:
            raise ClaimError(self._refusal.why, fix=self._refusal.fix)
        return self.is_taken

    async def settled(self, *, resume: Callable[[], bool], waiting: Callable[[], str]) -> None:
        """Wait until the seat is taken, or until ``resume`` says that what the last run left stands in for that.

        ``waiting`` says what it waits for. Raises ClaimError when it was refused.
        """
        told = False
        while not await self.answered(OFFLINE_AFTER):
            if resume():
                self._tell(local.Progress(text="no control plane: starting from the last good configuration"))
                return
            if not told:
                told = True
                self._tell(local.Progress(text=waiting()))

    async def drained(self, put: Callable[[], None]) -> bool:
        """Let ``put`` tell that it leaves, and wait; say whether the control plane confirmed that callers have it."""
        self._drained.clear()
        put()
        if self._desk.is_connected:
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAINED_WITHIN):
                    await self._drained.wait()
                    await asyncio.sleep(LAST_CALLS)
        return self._drained.is_set()

    def end(self) -> None:
        """It is gone."""
        self._desk.leave(self._proxy)

    def _hear(self, event: ForProxy) -> None:
        match event:
            case Scope(services=services):  # said once every part of the control plane knows it
                is_first = not self.is_taken
                self._scoped.set()
                self._answered.set()
                self._on_scope(services, is_first)
            case Accepted(created=created):
                self.created = (*self.created, *map(str, created))
            case Refused():
                self._on_refusal(event)
            case Drained():
                self._drained.set()
            case Roots():
                self._identity.trust(event)
            case Connected() | Disconnected():
                pass

    def _on_refusal(self, refusal: Refused) -> None:
        self._refusal = refusal
        self._answered.set()
        if self.is_taken:
            self._tell(local.Denied(why=refusal.why, fix=refusal.fix))
