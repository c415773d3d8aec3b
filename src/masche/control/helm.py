"""Steers: gives the Steersman what was seen, publishes what it decides, and tells every move as an event.

Once a second, and after a verdict at once but never more than ten times a second. Invariant: whatever goes wrong in a
look, the Steering in force stays, and so does the control plane.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping

from masche.compiler.steer.moves import Decision, Move
from masche.compiler.steer.standing import Link, Standing
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import survey
from masche.control.ejections import Ejections
from masche.control.panics import panicking, ports
from masche.control.plights import Plights
from masche.control.sightings import Sightings
from masche.control.world import World
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.telemetry.events import Events

INTERVAL = 1.0
SHORTEST = 0.1
"""Seconds between two looks, however many verdicts come."""

SLICE = 0.004
"""Seconds of work after which everybody else has their turn; what is decided is published at the end, all at once."""

RESPITE = 4.0
"""After a look everybody else has the loop for so many times what it took, so that verdicts in a large mesh starve
nobody; a look is never put off for longer than the interval."""

DRY_RUN = "dry-run"
"""The kind of an event about what would have moved."""


class Helm:
    """The steering loop. ``sightings`` is what came in since the last look, ``plights`` who fails all its callers."""

    def __init__(self, world: World, *, events: Events, ejections: Ejections) -> None:
        self.sightings = Sightings()
        self.plights = Plights()
        self._world = world
        self._events = events
        self._ejections = ejections
        self._steersman = Steersman()
        self._urgent = asyncio.Event()
        self._panics: Mapping[PortRef, str] = {}
        self._ports: tuple[Mesh, tuple[PortRef, ...]] = (world.mesh, ports(world.mesh))
        self._terrain = survey(world.mesh, self._ports[1])
        self._failure = ""
        self._has_begun = False
        self._cost = 0.0

    def hurry(self) -> None:
        """Look as soon as the last look is ``SHORTEST`` seconds past."""
        self._urgent.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            rest = min(INTERVAL, max(SHORTEST, RESPITE * self._cost))
            await asyncio.sleep(rest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL - rest):
                    await self._urgent.wait()
            self._urgent.clear()
            try:
                await self._look_in_slices()
            except Exception as error:  # noqa: BLE001 - what cannot be steered must not end what serves already
                self._failed(f"{type(error).__name__}: {error}")

    async def _look_in_slices(self) -> None:
        """Look, and let others have the loop between short spells."""
        began, cost = self._world.now(), 0.0
        for _ in self._steps():
            spent = self._world.now() - began
            if spent >= SLICE:
                cost += spent
                await asyncio.sleep(0)
                began = self._world.now()
        self._cost = cost + self._world.now() - began

    def look(self) -> None:
        """Look without a pause."""
        for _ in self._steps():
            pass

    def _steps(self) -> Iterator[None]:
        """Take what was seen, decide, publish and tell, in short steps between which the caller may pause."""
        now, mesh = self._world.now(), self._world.mesh
        self._begin()
        if self._ports[0] is not mesh:
            self._ports = (mesh, ports(mesh))
            self._terrain = survey(mesh, self._ports[1], self._terrain)
            yield
        if self._ejections:
            here = {each.state.proxy for each in self._world.registrations}
            self._ejections.keep_only(here, mesh.workloads, now=now)
        self.plights.keep_only(mesh.workloads, now=now)
        self._steersman.suffering = self.plights.by_port(mesh, self._ports[1])
        for key, seen in self.sightings.taken():
            self._steersman.saw(key, seen, now=now)
            yield
        decision = yield from self._steersman.steer_by_steps(self._terrain, now=now)
        if decision.steering is not None:
            self._world.steer(decision.steering)
        self._tell(decision)
        self._watch_panics(panicking(self._terrain, self._world.compilation.steering, self._ejections))
        if lost := self._world.compilation.unsteered:
            (port, zone), why = min(lost.items())
            self._failed(f"the calls of zone {zone!r} to {port}, {why}")
        else:
            self._failure = ""

    def _begin(self) -> None:
        """A control plane that starts amid a running mesh says that it has yet to learn what the last one knew."""
        if self._has_begun or not self._world.synced.is_set():
            return
        self._has_begun = True
        if self._world.mesh.workloads:
            what = "this control plane has just started: weights are fair until callers have reported for some seconds"
            self._events.add(kind="steering-anew", about="mesh", message=what)

    def _tell(self, decision: Decision) -> None:
        for move in decision.moves:
            self._events.add(kind=_kind(move), severity=move.severity, about=move.about, message=move.sentence)

    def _watch_panics(self, found: Mapping[PortRef, str]) -> None:
        for port in found.keys() - self._panics.keys():
            self._events.add(kind="panic", severity="error", about=str(port), message=found[port])
        for port in self._panics.keys() - found.keys():
            over = f"{port}: there is a healthy instance again, or none at all"
            self._events.add(kind="panic-over", about=str(port), message=over)
        self._panics = found

    def _failed(self, failure: str) -> None:
        if failure != self._failure:
            what = f"traffic is not steered now, and the last weights stay: {failure}"
            self._events.add(kind="steering-failed", severity="error", about="mesh", message=what)
        self._failure = failure

    # -- what is asked ----------------------------------------------------------------------------------------------

    def standings(self, port: PortRef) -> tuple[Standing, ...]:
        """How the instances of a port stand with the callers of each zone."""
        return self._steersman.instances(port)

    def links(self) -> tuple[Link, ...]:
        """How the ways between zones stand."""
        return self._steersman.links()

    @property
    def panics(self) -> Mapping[PortRef, str]:
        """The ports without a healthy instance, each with a sentence."""
        return self._panics


def _kind(move: Move) -> str:
    return DRY_RUN if move.is_dry_run else move.kind
