"""All parts of one control plane, made in the order in which they need each other. Nothing runs yet.

``control.process`` opens the ground that they stand on and runs them; tests stand them on a store in memory.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from masche.control.agents import Agents
from masche.control.exposition import Counters, Exposition
from masche.control.gate import Gate
from masche.control.habits import FILE, HabitKeeper
from masche.control.leases import Leases
from masche.control.measures import Measures
from masche.control.mirror import mirror
from masche.control.options import UpOptions
from masche.control.reading import Reading
from masche.control.server_identity import ServerIdentity
from masche.control.streams import Streams
from masche.control.vigil import Vigil
from masche.control.world import World
from masche.control.writing import Writing
from masche.identity.authority import Authority
from masche.identity.credential import Machines
from masche.identity.join import Tokens
from masche.model.ports import Now, Records, Source, Writer
from masche.registry.static import StaticSource
from masche.telemetry import logs
from masche.telemetry.events import Event, Events

_log = logging.getLogger("masche.control")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Store(Source, Writer, Records, Protocol):
    """Where everything is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a control plane stands on. ``wall`` is Unix seconds, ``now`` monotonic."""

    options: UpOptions
    store: Store
    authority: Authority
    machines: Machines
    wall: Callable[[], float]
    now: Now


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Everything that decides. What listens is not among them. ``folder`` is the truth of ``--static``."""

    ground: Ground
    world: World
    events: Events
    measures: Measures
    habits: HabitKeeper
    vigil: Vigil
    reading: Reading
    writing: Writing
    exposition: Exposition
    identity: ServerIdentity
    tokens: Tokens
    agents: Agents
    streams: Streams
    folder: StaticSource | None

    def work(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs for as long as the control plane does."""
        always = (
            self.world.follow(),
            self.world.settle(),
            self.identity.renew(),
            self.vigil.watch(),
            self.measures.helm.run(),
            self.habits.keep(),
        )
        store = self.ground.store
        return always if self.folder is None else (*always, mirror(self.folder, store, store))


def assemble(ground: Ground, tasks: asyncio.TaskGroup) -> Parts:
    """Make all parts. ``tasks`` owns what an agent's stream leaves running."""
    counters = Counters()
    events = Events(wall=ground.wall, heard=_noted(counters))
    world = World(ground.store, trust_domain=ground.authority.trust_domain, now=ground.now, events=events)
    habits = HabitKeeper(world, ground.options.data / FILE, wall=ground.wall)
    measures = Measures(world, events=events, wall=ground.wall, called=habits.note)
    leases = Leases(lease=ground.options.lease)
    vigil = Vigil(world, writer=ground.store, leases=leases, events=events, successes=measures.last_success)
    reading = Reading(world=world, expiry=measures.certificate_expiry)
    static = ground.options.static
    gate = Gate(ground.machines)
    return Parts(
        ground=ground,
        world=world,
        events=events,
        measures=measures,
        habits=habits,
        vigil=vigil,
        reading=reading,
        writing=Writing(world=world, writer=ground.store, events=events, read_only=_read_only(static)),
        exposition=Exposition(world, counters=counters, measures=measures, reading=reading, vigil=vigil),
        identity=ServerIdentity(ground.authority, listen=ground.options.listen, wall=ground.wall),
        tokens=Tokens(ground.store),
        agents=_agents(ground, world, leases=leases, gate=gate, measures=measures, counters=counters, tasks=tasks),
        streams=Streams(world, events=events, is_revoked=gate.is_revoked, wall=ground.wall, rejected=counters.rejected),
        folder=StaticSource(static) if static else None,
    )


def _noted(counters: Counters) -> Callable[[Event], None]:
    """Every event is counted, and is a line of the log."""

    def note(event: Event) -> None:
        counters.heard(event)
        logs.say(_log, _LEVELS[event.severity], event.message, kind=event.kind, about=event.about)

    return note


def _read_only(static: Path | None) -> str:
    return f"resources come from {static}" if static else ""


def _agents(
    ground: Ground,
    world: World,
    *,
    leases: Leases,
    gate: Gate,
    measures: Measures,
    counters: Counters,
    tasks: asyncio.TaskGroup,
) -> Agents:
    return Agents(
        world=world,
        writer=ground.store,
        authority=ground.authority,
        leases=leases,
        events=world.events,
        gate=gate,
        count=measures.count,
        judge=measures.judge,
        wall=ground.wall,
        leaf_lifetime=ground.options.leaf_ttl,
        signed=counters.signed,
        tasks=tasks,
    )
