"""The control plane's side of every agent: it hears who is there, signs for workloads and counts reports.

One Register stream is one Session; ``control.enrolling`` makes resources of what is said in it. Invariant: a machine is
given certificates for the workloads that it registered and that its credential permits, and for nobody else's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, assert_never

from masche.control.enrolling import Enrolling
from masche.control.enrolment import EnrolmentError, Origin
from masche.control.gate import Gate
from masche.control.inbox import Inbox
from masche.control.leases import Leases
from masche.control.pace import Pace
from masche.control.registrations import Registration
from masche.control.sessions import Session
from masche.control.world import World
from masche.identity.authority import Authority
from masche.identity.csr import CsrError
from masche.identity.spiffe import SpiffeId
from masche.link.messages import (
    PROTOCOL_VERSION,
    FromAgent,
    FromControl,
    Heartbeat,
    Hello,
    MessageError,
    Plight,
    ProxyGone,
    ProxyState,
    Refused,
    Report,
    ReportReply,
    Roots,
    SignReply,
    SignRequest,
    Synced,
    Verdict,
)
from masche.link.service import Peer, RefusedError
from masche.model.ports import StoreError, Writer
from masche.model.refs import Name
from masche.telemetry.events import Events

REPORTS_PER_SECOND = 20
"""Of one process: one would do, but what many proxies saw comes in parts."""
VERDICTS_PER_SECOND = 200
"""Of one process; what is beyond is left to its next Report, which says the same."""
REFUSALS_AT_ONCE = 20
"""Of certificates, that are told of one machine; after that one a second."""
PROCESSES_PER_MACHINE = 500
"""So many streams may one machine have open: its agent's, and one for each process with the library."""
LOST_AFTER = 1.0
"""Seconds after which a process that did not come back is an event."""
EPOCHS_REMEMBERED = 2 * PROCESSES_PER_MACHINE
"""Of one machine, whose Reports are counted once."""


class Agents:
    """Implements ``link.service.LinkService``. ``wall`` is Unix seconds, ``tasks`` owns what outlives one call."""

    def __init__(
        self,
        *,
        world: World,
        writer: Writer,
        authority: Authority,
        leases: Leases,
        events: Events,
        gate: Gate,
        count: Callable[[Report], None],
        judge: Callable[[Verdict | Plight, str], None],
        wall: Callable[[], float],
        leaf_lifetime: float,
        signed: Callable[[], None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._world = world
        self._authority = authority
        self._events = events
        self._gate = gate
        self._count = count
        self._judge = judge
        self._wall = wall
        self._leaf_lifetime = leaf_lifetime
        self._signed = signed
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()
        self._sessions: dict[str, dict[str, Session]] = {}
        self._reported: dict[str, dict[str, int]] = {}
        self._reports = Pace(per_second=REPORTS_PER_SECOND, burst=5 * REPORTS_PER_SECOND)
        self._verdicts = Pace(per_second=VERDICTS_PER_SECOND, burst=VERDICTS_PER_SECOND)
        self._refusals = Pace(per_second=1, burst=REFUSALS_AT_ONCE)
        self._enrolling = Enrolling(
            world=world,
            writer=writer,
            leases=leases,
            events=events,
            gate=gate,
            is_here=self._is_here,
            wall=wall,
            start=self._start,
        )
        world.settled_hooks += (lambda: self._enrolling.tell_scopes(self._all_sessions()), self._forget_gone)

    # -- what is asked ----------------------------------------------------------------------------------------------

    def admit(self, peer: Peer) -> None:
        """Raise RefusedError for a machine whose credential was revoked."""
        self._gate.admit(peer)

    @property
    def machines(self) -> Mapping[str, Session]:
        """The machines that are connected, by their agent, or by one of their processes where no agent is."""
        return {
            machine: sessions.get("") or next(iter(sessions.values())) for machine, sessions in self._sessions.items()
        }

    def _all_sessions(self) -> Iterable[Session]:
        return tuple(session for sessions in self._sessions.values() for session in sessions.values())

    def _is_here(self, origin: Origin) -> bool:
        return origin[1] in self._sessions.get(origin[0], {})

    async def register(self, peer: Peer, incoming: AsyncIterator[FromAgent]) -> AsyncIterator[FromControl]:
        """Serve one Register stream until the agent goes or is sent away."""
        session = Session(peer)
        reader = self._start(self._read(session, incoming), name=f"agent {peer.address}")
        try:
            while (message := await session.outbox.get()) is not None:
                yield message
        finally:
            reader.cancel()
            self._end(session)

    async def sign(self, peer: Peer, request: SignRequest) -> SignReply:
        """Sign for a workload that this machine registered; its SPIFFE ID comes from the registration alone."""
        registration = self._world.registrations.get(request.proxy)
        machine = self._machine(peer, registration.machine if registration else "")
        try:
            account = await self._account(peer, machine, registration, request.workload)
        except RefusedError as error:
            self._note_refusal(machine, request, error.why)
            raise
        identity = SpiffeId.of_workload(self._authority.trust_domain, request.workload.namespace, account)
        try:
            issued = self._authority.sign(request.csr, identity, now=self._wall(), lifetime=self._leaf_lifetime)
        except CsrError as error:
            raise RefusedError(str(error)) from error
        self._signed()
        return SignReply(
            chain=issued.chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            lifetime=issued.lifetime,
            bundle=self.roots(),
        )

    async def _account(self, peer: Peer, machine: str, registration: Registration | None, workload: Name) -> str:
        """The service account of a workload that this machine registered and may run. Raises RefusedError."""
        occupant = registration.occupant(workload) if registration else None
        if registration is None or occupant is None or registration.machine != machine:
            raise RefusedError(
                f"{workload} is not registered by machine {machine}", fix="register it first, then ask again"
            )
        if why := await self._gate.permits(peer, workload.namespace, occupant.service_account):
            raise RefusedError(why)
        return occupant.service_account

    def _note_refusal(self, machine: str, request: SignRequest, why: str) -> None:
        """A machine that asks for what is not its own is told of, and not so often that it fills a disk."""
        if self._refusals.keeps(machine, now=self._world.now()):
            what = f"machine {machine} was refused a certificate of {request.workload} for {request.proxy}: {why}"
            self._authority.refuse(SpiffeId.of_machine(self._authority.trust_domain, machine), what)
            self._events.add(kind="sign-refused", severity="warning", about=machine, message=what)

    async def report(self, peer: Peer, report: Report) -> ReportReply:
        """Count a Report once, whatever its repeats."""
        machine = self._machine(peer, report.machine)
        if report.machine != machine:
            raise RefusedError(f"machine {machine} reports for {report.machine}")
        process = report.epoch if self._is_here((machine, report.epoch)) else ""
        if not self._reports.keeps(f"{machine} {process}", now=self._world.now()):
            raise RefusedError(f"machine {machine} reports more than {REPORTS_PER_SECOND} times a second")
        if self._is_new(report):
            for proxy in report.proxies:
                self._world.registrations.reported(proxy, machine)
            self._count(report)
        return ReportReply(sequence=report.sequence)

    def _is_new(self, report: Report) -> bool:
        """Whether nobody counted this Report; from now on somebody did. Who reported longest ago is forgotten first."""
        known = self._reported.setdefault(report.machine, {})
        last = known.pop(report.epoch, -1)
        known[report.epoch] = max(last, report.sequence)
        if len(known) > EPOCHS_REMEMBERED:
            del known[next(iter(known))]
        return last < report.sequence

    def roots(self) -> Roots:
        """The trust bundle as it is now."""
        return Roots(trust_domain=self._authority.trust_domain, roots=self._authority.bundle.pem)

    async def expel(self, machine: str) -> None:
        """Send a revoked machine's agent away, and its proxies, and let nobody call what it runs any more.

        Raises StoreError.
        """
        for session in tuple(self._sessions.get(machine, {}).values()):
            session.end(Refused(proxy="", why=f"the machine {machine} is revoked"))
        for registration in tuple(self._world.registrations.of_machine(machine)):
            self._world.proxy(registration.state.proxy).wake()
            self._world.unregister(registration.state.proxy)
        await self._enrolling.remove(self._enrolling.workloads_on(machine))

    def close(self) -> None:
        """Send every agent away and wait for nothing any more: this control plane is stopping."""
        for session in self._all_sessions():
            session.close()
        for task in self._running:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._tasks.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    # -- one session --------------------------------------------------------------------------------------------------

    def _machine(self, peer: Peer, claimed: str) -> str:
        """The machine that calls. On our own Unix socket it is the one it claims to be, if that said hello there."""
        if peer.machine is not None:
            return peer.machine
        if not any(session.peer.is_local for session in self._sessions.get(claimed, {}).values()):
            raise RefusedError("this machine's agent has not said hello", fix="open Register first")
        return claimed

    async def _read(self, session: Session, incoming: AsyncIterator[FromAgent]) -> None:
        """Hear one agent until it goes. Whatever goes wrong with it ends its stream and nobody else's."""
        inbox = Inbox()
        filling = self._start(inbox.fill(incoming), f"words of {session.peer.address}")
        try:
            async for message in inbox.messages():
                await self._hear(session, message)
        except (RefusedError, EnrolmentError) as error:
            session.end(Refused(proxy="", why=error.why, fix=error.fix))
        except (MessageError, StoreError) as error:
            session.end(Refused(proxy="", why=str(error)))
        except Exception as error:  # noqa: BLE001 - one agent must not take the control plane and all others with it
            what = f"the stream of machine {session.machine or session.peer.address} failed: {error!r}"
            self._events.add(kind="agent-failed", severity="error", about=session.machine, message=what)
            session.end(Refused(proxy="", why="the control plane could not handle a message; see its events"))
        else:
            session.close()
        finally:
            filling.cancel()

    async def _hear(self, session: Session, message: FromAgent) -> None:
        if not session.machine and not isinstance(message, Hello):
            raise RefusedError("the first message of a Register stream is Hello")
        self._gate.admit(session.peer)  # the machine may have been revoked since the stream was opened
        match message:
            case Hello():
                self._greet(session, message)
            case ProxyState():
                await self._enrolling.take(session, message)
            case ProxyGone():
                await self._enrolling.leave(session, message.proxy)
            case Synced():
                await self._enrolling.forget_others(session)
            case Heartbeat():
                self._enrolling.renew(session)
                await self._enrolling.give_back(session)
            case Verdict() | Plight():
                if self._verdicts.keeps(f"{session.machine} {session.process}", now=self._world.now()):
                    self._judge(message, session.machine)
            case _:
                assert_never(message)

    def _greet(self, session: Session, hello: Hello) -> None:
        if session.peer.machine not in {None, hello.machine}:
            raise RefusedError(f"machine {session.peer.machine} says that it is {hello.machine}")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise RefusedError(
                f"masche {hello.agent_version} on machine {hello.machine} speaks version {hello.protocol_version} of "
                f"the link, and this control plane version {PROTOCOL_VERSION}",
                fix="install the same release of masche on both",
            )
        sessions = self._sessions.get(hello.machine, {})
        if (older := sessions.get(hello.process)) is not None:
            older.close()  # of a broken connection, or somebody with a copy of the credential: one speaks for a process
        elif len(sessions) >= PROCESSES_PER_MACHINE:
            raise RefusedError(f"machine {hello.machine} has {PROCESSES_PER_MACHINE} streams open already")
        session.machine, session.process, session.agent_version = hello.machine, hello.process, hello.agent_version
        session.zone = hello.zone
        self._sessions.setdefault(hello.machine, {})[hello.process] = session
        if not session.process:
            what = f"machine {hello.machine} is connected"
            self._events.add(kind="machine-connected", message=what, about=hello.machine)
        session.say(self.roots())

    def _forget_gone(self) -> None:
        """Of a process that ended without a word nobody will speak again: it is known as long as its workloads are."""
        here = self._world.newest.workloads
        for each in tuple(self._world.registrations):
            if (
                each.process
                and not self._is_here((each.machine, each.process))
                and here.keys().isdisjoint(each.workloads)
            ):
                self._world.unregister(each.state.proxy)

    def _end(self, session: Session) -> None:
        sessions = self._sessions.get(session.machine, {})
        if sessions.get(session.process) is not session:
            return
        del sessions[session.process]
        if not sessions:
            del self._sessions[session.machine]
        if not session.process:
            what = f"machine {session.machine} is not connected; its workloads keep serving"
            self._events.add(kind="machine-lost", severity="warning", about=session.machine, message=what)
        elif session.proxies:
            self._start(self._notice_loss(session), name=f"process {session.process}")

    async def _notice_loss(self, session: Session) -> None:
        """Say that a process is gone, unless it is back in a moment: who forks, or has a new connection, is."""
        await asyncio.sleep(LOST_AFTER)
        if not self._is_here(session.origin):
            for proxy in session.proxies:
                what = f"{proxy} is not connected any more and did not say that it leaves"
                self._events.add(kind="process-lost", severity="warning", about=proxy, message=what)
