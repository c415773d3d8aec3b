"""The one Envoy that serves every workload which sits on this machine in the node placement, and who sits there.

They are said to the control plane together, as the occupants of one proxy; what it says of one is passed on to that
one. Envoy lives from the first of them to the last. Invariant: who sat there when an agent died is said by the next
agent from its first word on, until it claims its seat again or has ended: nobody's traffic stops for another's sake.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from masche.agent import admin, witness
from masche.agent.envoy import EnvoyError, Place, runs
from masche.agent.folders import private_folder
from masche.agent.last_good import LastGood
from masche.agent.relay import Tenant
from masche.agent.returning import owner
from masche.agent.sds import Shelf
from masche.agent.sidecar import Host
from masche.agent.supervisor import Supervisor
from masche.agent.uplink import ForProxy, Listener
from masche.link.client import Connected, Disconnected
from masche.link.messages import Accepted, CertificateReport, Drained, Occupant, ProxyState, Refused, Roots, Scope
from masche.link.workloads import node_proxy_id
from masche.model.refs import Name
from masche.model.vantage import Placement
from masche.wire import secret
from masche.wire.bootstrap import bootstrap
from masche.wire.types import LISTENER

SEEN_SECONDS, ASKING_SHARE = 0.02, 5
"""How long what was seen of the listeners is good for: that, and so many times as long as it took to ask."""

MAX_CONNECTIONS = 100_000
MAX_HEAP_BYTES = 2 * 1024 * 1024 * 1024
"""The limits of an Envoy that stands in for a hundred."""


class Sitting(Protocol):
    """Who sits on the node."""

    @property
    def name(self) -> Name:
        """The workload."""
        ...

    def occupant(self) -> Occupant:
        """What the control plane is told of it."""
        ...

    def certificates(self) -> tuple[CertificateReport, ...]:
        """How its certificate stands."""
        ...


class Node:
    """The proxy ``node~<machine>``. ``part`` takes the last look at an Envoy that is about to end."""

    def __init__(self, host: Host, *, part: "Callable[[Node], Awaitable[None]] | None" = None) -> None:
        self.proxy = node_proxy_id(host.machine)
        self.shelf = Shelf()
        self.shelf.put(witness.certificate())
        self.failure = ""
        self._part = part or in_silence
        self._host = host
        folder = private_folder(host.folders.node)
        self.place = Place(folder=folder, admin=host.folders.sockets / "node.admin", is_handed_over=True)
        self.last_good = LastGood(folder / "last-good", keeps_removed=True)
        self._sitting: dict[Name, Sitting] = {}
        self._awaited: dict[Name, Occupant] = {}
        self._listeners: dict[Name, Listener] = {}
        self._occupied, self._vacated = asyncio.Event(), asyncio.Event()
        self._vacated.set()
        self._is_told = False
        self._asking, self._ask_again_at, self._listening = asyncio.Lock(), 0.0, set[str]()
        self.is_adopting = runs(self.place)
        self.tenant, self.supervisor = self._tenant(), self._supervisor()

    def __repr__(self) -> str:
        return f"<Node of {len(self._sitting)} workloads, {len(self._awaited)} awaited, {self.supervisor}>"

    @property
    def awaited(self) -> frozenset[Name]:
        """Who sat here in an earlier agent's time and has not come back yet."""
        return frozenset(self._awaited)

    @property
    def is_occupied(self) -> bool:
        """Whether anybody sits here, or is awaited."""
        return bool(self._sitting or self._awaited)

    @property
    def workload(self) -> Name | None:
        """Whose calls its Envoy tells of: each is named by a tag."""
        return None

    @property
    def exposed(self) -> tuple[int, ...]:
        """No port can be reached around this proxy."""
        return ()

    def certificates(self) -> tuple[CertificateReport, ...]:
        """How the certificates of all stand."""
        return tuple(each for one in self._sitting.values() for each in one.certificates())

    # -- who sits here ------------------------------------------------------------------------------------------------

    def desk(self, workload: Name) -> "Desk":
        """Where this workload hears the control plane."""
        return Desk(self, workload)

    def await_again(self, occupant: Occupant) -> None:
        """Somebody sat here before this agent came, and will claim the seat again."""
        self._awaited[occupant.seat.workload] = occupant
        self._changed()

    def seat(self, sitting: Sitting) -> None:
        """Serve a workload from now on."""
        self._awaited.pop(sitting.name, None)
        self._sitting[sitting.name] = sitting
        self._changed()

    def unseat(self, workload: Name) -> None:
        """It has gone, or will not come."""
        self._sitting.pop(workload, None)
        self._awaited.pop(workload, None)
        self._changed()

    def put(self) -> None:
        """Say who sits here."""
        if self._is_told and self.is_occupied:
            occupants = {**self._awaited, **{name: one.occupant() for name, one in self._sitting.items()}}
            self._host.uplink.put(
                ProxyState(
                    proxy=self.proxy,
                    placement=Placement.NODE,
                    occupants=tuple(occupants[name] for name in sorted(occupants)),
                    envoy_version=self._host.envoy_version,
                )
            )

    def _changed(self) -> None:
        now, before = (self._occupied, self._vacated) if self.is_occupied else (self._vacated, self._occupied)
        now.set()
        before.clear()
        self.put()

    async def listeners(self) -> set[str]:
        """The names of the listeners that its Envoy uses now, or a moment ago: it is asked once for all who wait."""
        async with self._asking:
            now = asyncio.get_running_loop().time
            if now() >= self._ask_again_at:
                began = now()
                self._listening = await admin.listener_names(self.place.admin)
                self._ask_again_at = now() + max(SEEN_SECONDS, ASKING_SHARE * (now() - began))
            return self._listening

    async def listening_for(self) -> frozenset[Name]:
        """Whose hosts its Envoy listens in now."""
        names = await self.listeners() if self.supervisor.pid else ()
        return frozenset(whose for each in names if (whose := owner(each)))

    def forget_secrets(self, listening: frozenset[Name]) -> None:
        """Have Envoy forget the secrets of those who left: who neither sits here nor has a listener calls nobody."""
        used = {secret.certificate_of(one) for one in (*self._sitting, *self._awaited, *listening)}
        if self.supervisor.pid and (unused := {each for each in self.shelf.known if secret.is_workloads(each)} - used):
            self.shelf.remove(*unused)

    async def dropped(self, listeners: set[str], *, within: float) -> None:
        """Wait until Envoy uses none of these, or is gone. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while self.supervisor.pid and listeners & await self.listeners():  # noqa: ASYNC110 - Envoy is asked
                await asyncio.sleep(0.02)

    def knows(self, listeners: set[str]) -> bool:
        """Whether Envoy once acknowledged all of these, so that it can have them without a control plane."""
        return len(self.last_good.named(LISTENER, listeners)) == len(listeners)

    # -- its life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep an Envoy while somebody sits here, for ever. Cancelled, it leaves that one running."""
        while True:
            await self._occupied.wait()
            await self._serve()

    async def _serve(self) -> None:
        self._begin()
        living = asyncio.create_task(self._live())
        vacated = asyncio.create_task(self._vacate())
        try:
            await vacated
            await self._part(self)
            await self.supervisor.stop()
        finally:
            for task in (living, vacated):
                task.cancel()
            await asyncio.gather(living, vacated, return_exceptions=True)
        self._end()

    def _begin(self) -> None:
        self.failure = ""
        self._is_told = True
        self._host.relay.admit(self.tenant)
        self._host.uplink.listen(self.proxy, self._hear)
        self.place.bootstrap.write_bytes(self._bootstrap())
        self.put()

    async def _live(self) -> None:
        try:
            await self.supervisor.run()
        except (EnvoyError, OSError) as error:  # whoever waits for it is told; the next claim tries again
            self.failure = str(error)
            self._host.journal(f"{self.proxy}: {error}")

    async def _vacate(self) -> None:
        """Until nobody sits here any more, and the control plane is told so."""
        while self.is_occupied:  # somebody may have come since the last one left
            await self._vacated.wait()
        self._is_told = False
        self._host.uplink.leave(self.proxy)

    def _end(self) -> None:
        self._host.relay.dismiss(self.proxy)
        self.is_adopting = False
        self.tenant, self.supervisor = self._tenant(), self._supervisor()

    def _tenant(self) -> Tenant:
        upstream = self._host.uplink.stream
        return Tenant(
            proxy=self.proxy,
            shelf=self.shelf,
            last_good=self.last_good,
            upstream=lambda: upstream(self.proxy),
            wants=lambda kind, name: kind != LISTENER or owner(name) in {None, *self._sitting, *self._awaited},
        )

    def _supervisor(self) -> Supervisor:
        return Supervisor(self._host.binary, self.place, on_restart=self._on_restart, feed=self)

    async def until_fed(self) -> None:
        """Return when all who sit here have come back and have their certificates: a successor lacks nothing then."""
        await self.tenant.admitted.wait()
        while self._awaited or not all(one.not_after for one in self.certificates()):  # noqa: ASYNC110 - others change it
            await asyncio.sleep(0.1)

    def retire(self) -> None:
        """The Envoy that runs now keeps what it holds until its successor serves."""
        self.tenant.retire()

    def turn(self) -> None:
        """Whoever runs is told again."""
        self.tenant.turn()

    def _on_restart(self, count: int) -> None:
        self._host.journal(f"{self.proxy}: Envoy ended and is started again (restart {count})")

    def _bootstrap(self) -> bytes:
        return bootstrap(
            node_id=self.proxy,
            cluster="node",
            zone=self._host.zone,
            xds_socket=str(self._host.folders.relay_socket),
            admin_socket=str(self.place.admin),
            outlier_log=str(self.place.outliers),
            max_connections=MAX_CONNECTIONS,
            max_heap_bytes=MAX_HEAP_BYTES,
        )

    # -- what is heard ------------------------------------------------------------------------------------------------

    def _hear(self, event: ForProxy) -> None:
        match event:
            case Scope(workload=workload):
                self._tell(workload, event)
                self.open()
            case Refused(workload=Name() as workload) | Drained(workload=Name() as workload):
                self._tell(workload, event)
            case Accepted(created=created):
                for name in self._makers(created):
                    self._tell(name, event)
            case Refused() | Drained() | Roots() | Connected() | Disconnected():
                for name in tuple(self._listeners):
                    self._tell(name, event)

    def _makers(self, created: tuple[Name, ...]) -> tuple[Name, ...]:
        """Those for whose sake these Services were created."""
        wishes = {name: one.occupant().service for name, one in self._sitting.items()}
        return tuple(name for name, wish in wishes.items() if wish and Name(name.namespace, wish.name) in created)

    def open(self) -> None:
        """Envoy may be told things, by whoever is there now."""
        self.tenant.admitted.set()
        if not self.tenant.is_online:
            self.tenant.turn()

    def _tell(self, workload: Name, event: ForProxy) -> None:
        if listener := self._listeners.get(workload):
            listener(event)

    def listen(self, workload: Name, listener: Listener) -> None:
        """Tell ``listener`` everything that concerns this workload."""
        self._listeners[workload] = listener

    def ignore(self, workload: Name) -> None:
        """Nobody listens for it any more."""
        self._listeners.pop(workload, None)

    @property
    def is_connected(self) -> bool:
        """Whether a control plane is there."""
        return self._host.uplink.is_connected


@dataclass(frozen=True, slots=True)
class Desk:
    """What one workload of a node hears of the control plane: what concerns it."""

    node: Node
    workload: Name

    @property
    def is_connected(self) -> bool:
        """Whether a control plane is there."""
        return self.node.is_connected

    def listen(self, proxy: str, listener: Listener) -> None:
        """Tell ``listener`` everything that concerns the workload."""
        del proxy  # it is the node
        self.node.listen(self.workload, listener)
        if self.is_connected:
            listener(Connected())

    def leave(self, proxy: str) -> None:
        """The workload listens no more."""
        del proxy  # it stays
        self.node.ignore(self.workload)


async def in_silence(_proxy: object) -> None:
    """Nobody wants to know what was seen last."""
