"""What an agent says of its proxies becomes resources: committed first, then answered, so that an Accepted outlives a
crash of either side.

A proxy is said whole, and again whenever one of its workloads changes. Invariant: a change of one workload is one
commit, about it alone, and a refusal of one changes nothing of the others; who is not named any more left in order.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from masche.control.enrolment import Enrolment, EnrolmentError, Origin, Refusals, enrol
from masche.control.gate import Gate
from masche.control.leases import Leases
from masche.control.registrations import Registration
from masche.control.scopes import Scopes
from masche.control.sessions import Session
from masche.control.world import World
from masche.link.messages import Accepted, Drained, Occupant, ProxyState, Refused, Scope
from masche.link.refusal import RefusedError
from masche.link.workloads import node_proxy_id
from masche.model.ports import ConflictError, Delete, Edit, StoreError, Writer
from masche.model.refs import Kind, Name, Ref
from masche.model.vantage import Placement
from masche.telemetry.events import Events

DRAIN_PATIENCE = 10.0
"""Seconds that a leaving workload waits at the most for its callers to have heard of it."""

TRIES = 50

Start = Callable[[Coroutine[Any, Any, None], str], object]
"""Runs what outlives a message, under a name, until it is done or the control plane stops."""


class Enrolling:
    """Enrols for open Sessions. ``is_here``: whether who registered something is connected; ``wall``: Unix seconds."""

    def __init__(
        self,
        *,
        world: World,
        writer: Writer,
        leases: Leases,
        events: Events,
        gate: Gate,
        is_here: Callable[[Origin], bool],
        wall: Callable[[], float],
        start: Start,
    ) -> None:
        self._world = world
        self._writer = writer
        self._leases = leases
        self._events = events
        self._gate = gate
        self._is_here = is_here
        self._wall = wall
        self._start = start
        self._claims: dict[Name, Origin] = {}
        self._scopes = Scopes(world.compilation)

    # -- coming -------------------------------------------------------------------------------------------------------

    async def take(self, session: Session, state: ProxyState) -> None:
        """Register a proxy, or what is new of it, and answer. Of a node's whoever cannot be is refused alone."""
        try:
            await self._world.until_revision(0)
            self._check_proxy(session, state)
            found = await self._enrolled(session, state)
        except (EnrolmentError, RefusedError) as error:
            session.say(_refused(state.proxy, error))
            return
        except StoreError as error:
            session.say(Refused(proxy=state.proxy, why=str(error), fix="it is tried again"))
            return
        self._let_go(session, found.left)
        self._register(session, found.state)
        self._watch_drains(session, found.state)

    def _register(self, session: Session, state: ProxyState) -> None:
        registration = Registration(
            state=state,
            machine=session.machine,
            process=session.process,
            is_local=session.peer.is_local,
            since=self._wall(),
        )
        self._world.register(registration)
        session.proxies.add(state.proxy)
        self.renew(session)
        self._tell_scope(session, registration)

    def _check_proxy(self, session: Session, state: ProxyState) -> None:
        """The id of a proxy is what its configuration goes by, so nobody takes another's. Raises EnrolmentError."""
        if state.placement is Placement.NODE and state.proxy != node_proxy_id(session.machine):
            raise EnrolmentError(f"{state.proxy} is not the node proxy of machine {session.machine}")
        known = self._world.registrations.get(state.proxy)
        owner = (known.machine, known.process) if known else session.origin
        if owner != session.origin and self._is_here(owner):
            whose = f"machine {owner[0]}" if owner[0] != session.machine else "another process of this machine"
            raise EnrolmentError(f"the proxy {state.proxy} is run by {whose}", is_taken=True)

    async def _enrolled(self, session: Session, state: ProxyState) -> Enrolment:
        """Commit what was said, answer, and wait until it is compiled.

        Raises EnrolmentError, RefusedError, StoreError.
        """
        known = self._world.registrations.get(state.proxy)
        before = known.state if known and (known.machine, known.process) == session.origin else None
        denied = {**await self._not_permitted(session, state, before), **self._claimed_by_others(session, state)}
        if denied and state.placement is not Placement.NODE:
            raise next(iter(denied.values()))
        with self._claimed(session, [name for name in _names(state) if name not in denied]):
            found, revision = await self._written(session, state, before, denied)
            for name, error in found.refused.items():
                session.say(_refused(state.proxy, error, workload=name))
            session.say(Accepted(proxy=state.proxy, created=found.created))
            self._announce(before, found.state)
            await self._world.until_revision(revision)
        return found

    async def _not_permitted(
        self, session: Session, state: ProxyState, before: ProxyState | None
    ) -> dict[Name, EnrolmentError]:
        """Whom the machine's credential does not allow; what was registered as it is was allowed."""
        known = set(map(_who, before.occupants)) if before else set[tuple[Name, str]]()
        found: dict[Name, EnrolmentError] = {}
        for name, account in map(_who, state.occupants):
            if (name, account) not in known and (
                why := await self._gate.permits(session.peer, name.namespace, account)
            ):
                found[name] = EnrolmentError(why, fix="make a join token that allows it")
        return found

    def _claimed_by_others(self, session: Session, state: ProxyState) -> dict[Name, EnrolmentError]:
        return {
            name: EnrolmentError(f"Workload {name} is being registered by somebody else", is_taken=True)
            for name in _names(state)
            if self._claims.get(name, session.origin) != session.origin
        }

    @contextmanager
    def _claimed(self, session: Session, names: Iterable[Name]) -> Generator[None]:
        """Until what a proxy says is in the Mesh nobody else gets the names in it."""
        mine = dict.fromkeys(names, session.origin)
        self._claims |= mine
        try:
            yield
        finally:
            for name in mine:
                self._claims.pop(name, None)

    async def _written(
        self, session: Session, state: ProxyState, before: ProxyState | None, denied: Refusals
    ) -> tuple[Enrolment, int]:
        """Commit what a proxy enrols as. A Service is only made of a Mesh that nobody has moved on meanwhile."""
        for _ in range(TRIES):
            seen, mesh = self._world.newest_revision, self._world.newest
            found = enrol(
                mesh,
                state,
                origin=session.origin,
                is_alive=self._is_here,
                zone=session.zone,
                before=before,
                denied=denied,
            )
            if not found.edits:
                return found, seen
            try:
                change = await self._writer.commit(found.edits, expect=seen if found.created else None)
            except ConflictError:
                await self._world.until_newer_than(seen)
            else:
                return found, change.revision
        raise RefusedError("the store changes faster than a Service can be made in it", fix="it is tried again")

    def _announce(self, before: ProxyState | None, state: ProxyState) -> None:
        known = {each.seat.workload: each.state.phase for each in before.occupants} if before else {}
        for occupant in state.occupants:
            workload, own = occupant.seat.workload, occupant.state
            if known.get(workload) != own.phase:
                self._events.add(
                    kind="workload-state",
                    severity="warning" if own.phase == "UNHEALTHY" else "info",
                    about=str(workload),
                    message=f"{workload} is {own.phase}" + (f": {own.reason}" if own.reason else ""),
                )

    async def give_back(self, session: Session) -> None:
        """Enrol again what is said to run and is not in the store any more, whoever took it away."""
        here = self._world.newest.workloads
        for proxy in sorted(session.proxies):
            known = self._world.registrations.get(proxy)
            is_leaving = self._world.proxy(proxy).is_leaving
            if known is None or is_leaving or here.keys() >= set(known.workloads):
                continue
            lost = ", ".join(str(each) for each in known.workloads if each not in here)
            what = f"{lost} was gone from the store while it runs: it is registered again"
            self._events.add(kind="workload-returned", severity="warning", about=lost, message=what)
            await self.take(session, known.state)

    def renew(self, session: Session) -> None:
        """Renew the lease of everything that a Session registered."""
        now = self._world.now()
        for proxy in session.proxies:
            for workload in self._workloads_of(proxy):
                self._leases.heartbeat(workload, machine=session.machine, now=now)

    # -- going --------------------------------------------------------------------------------------------------------

    async def leave(self, session: Session, proxy: str) -> None:
        """A proxy and all that it serves go, in order."""
        registration = self._world.registrations.get(proxy)
        if registration is None or (registration.machine, registration.process) != session.origin:
            return
        self._world.proxy(proxy).is_leaving = True
        mine = [name for name in registration.workloads if not self._has_moved(name, proxy)]
        await self.remove(mine)
        session.proxies.discard(proxy)
        self._world.unregister(proxy)
        self._let_go(session, mine)

    def _has_moved(self, name: Name, proxy: str) -> bool:
        """Whether another proxy of the machine serves it now."""
        known = self._world.newest.workloads.get(name)
        return known is not None and known.status is not None and known.status.proxy != proxy

    def _let_go(self, session: Session, names: Iterable[Name]) -> None:
        for name in names:
            self._leases.leave(name)
            session.scopes.pop(name, None)
            session.draining.pop(name, None)
            self._events.add(kind="workload-left", about=str(name), message=f"{name} left in order")

    async def forget_others(self, session: Session) -> None:
        """A process said all it has: what the store still holds of it beside that is gone."""
        await self._world.until_revision(0)
        mine = {name for proxy in session.proxies for name in self._workloads_of(proxy)}
        stored = self.workloads_on(session.machine, session.process)
        await self.remove([name for name in stored if name not in mine])
        for registration in self._world.registrations.of_process(*session.origin):
            if registration.state.proxy not in session.proxies:
                self._world.unregister(registration.state.proxy)

    def workloads_on(self, machine: str, process: str | None = None) -> tuple[Name, ...]:
        """What the store holds of a machine, or of one process of it."""
        return tuple(
            name
            for name, each in self._world.newest.workloads.items()
            if each.status and each.status.machine == machine and process in {None, each.status.process}
        )

    def _workloads_of(self, proxy: str) -> tuple[Name, ...]:
        registration = self._world.registrations.get(proxy)
        return registration.workloads if registration else ()

    async def remove(self, names: Collection[Name]) -> None:
        """Take Workloads out of the store, whose leases end with that. Raises StoreError."""
        edits: list[Edit] = [Delete(ref=Ref(Kind.WORKLOAD, *name)) for name in names]
        for name in names:
            self._leases.leave(name)
        if edits:
            await self._writer.commit(edits)

    # -- what follows -------------------------------------------------------------------------------------------------

    def tell_scopes(self, sessions: Iterable[Session]) -> None:
        """Tell each workload what it may call, if that is something else than it was told last."""
        for session in sessions:
            for proxy in session.proxies:
                if (registration := self._world.registrations.get(proxy)) is not None:
                    self._tell_scope(session, registration)

    def _tell_scope(self, session: Session, registration: Registration) -> None:
        for vantage, seat in self._world.places(registration):
            services = self._scopes.services(vantage, seat)
            scope = Scope(proxy=registration.state.proxy, workload=seat.workload, services=services)
            if session.scopes.get(seat.workload) != scope:
                session.scopes[seat.workload] = scope
                session.say(scope)

    def _watch_drains(self, session: Session, state: ProxyState) -> None:
        for occupant in state.occupants:
            name = occupant.seat.workload
            if occupant.state.phase != "DRAINING":
                session.draining.pop(name, None)
            elif name not in session.draining:
                revision, _ = self._world.written.get(Ref(Kind.WORKLOAD, *name), (self._world.revision, 0))
                session.draining[name] = revision
                self._start(self._until_drained(session, state, name, revision), f"drain {name}")

    async def _until_drained(self, session: Session, state: ProxyState, name: Name, revision: int) -> None:
        """Say when everybody who calls knows that this one goes; a node's others stay in traffic."""
        try:
            async with asyncio.timeout(DRAIN_PATIENCE):
                await self._world.pulse.until(lambda: self._world.is_everywhere(revision))
        except TimeoutError:
            what = f"{name} leaves although some callers have not acknowledged it for {DRAIN_PATIENCE:g} s"
            self._events.add(kind="drain-late", severity="warning", about=state.proxy, message=what)
        if session.draining.get(name) == revision:
            del session.draining[name]
            is_one_of_many = state.placement is Placement.NODE
            session.say(Drained(proxy=state.proxy, workload=name if is_one_of_many else None))


def _names(state: ProxyState) -> Iterable[Name]:
    return (each.seat.workload for each in state.occupants)


def _who(occupant: Occupant) -> tuple[Name, str]:
    return occupant.seat.workload, occupant.service_account


def _refused(proxy: str, error: EnrolmentError | RefusedError, *, workload: Name | None = None) -> Refused:
    is_taken = isinstance(error, EnrolmentError) and error.is_taken
    return Refused(proxy=proxy, why=error.why, fix=error.fix, is_taken=is_taken, workload=workload)
