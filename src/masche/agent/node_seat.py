"""One workload that the machine's Envoy serves, from the claim of its seat to the end of its host.

Order of a start: host, registration, names, certificate, Envoy listening inside the host. Order of an end: out of
traffic, until callers have it; then (by its runner) the command; then Envoy's listeners; then the host. Invariant: the
host goes only when Envoy no longer listens in it, or the next of this name would get listeners in a host that is gone.
"""

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from masche.agent import admin, environment, local, occupancy
from masche.agent.capture.apply import CaptureError
from masche.agent.captured import Captured
from masche.agent.distress import Distress
from masche.agent.folders import private_folder
from masche.agent.local import Claim, Proof, SeatStatus
from masche.agent.node import Node
from masche.agent.occupancy import ClaimError, Record
from masche.agent.registration import Registration, Tell
from masche.agent.seats import INBOUND_PORT
from masche.agent.secrets import Identity
from masche.agent.sidecar import OPEN_REQUESTS_WITHIN, Host
from masche.agent.wellbeing import Wellbeing
from masche.agent.whereabouts import whereabouts
from masche.agent.witness import NoAnswerError
from masche.identity.spiffe import SpiffeId
from masche.link.messages import CertificateReport, Occupant, ScopeService
from masche.link.probe import Pulse
from masche.model.refs import Name
from masche.model.vantage import Placement, Seat
from masche.wire import secret

LOOKING_SECONDS = 0.02
"""How often Envoy is asked whether it listens."""

SAID_AFTER = 1.5
"""Seconds after which a start says what it still waits for."""

ASK_AGAIN_SECONDS = 0.5
"""How soon it is looked whether what Envoy refused can be had now; twice as late after each time in vain."""

DROPPED_WITHIN = 3.0
"""Seconds that an end waits for Envoy to listen there no more; then the host stays, for whoever tidies up."""


class NodeSeat:
    """One seat that somebody claimed. ``tell`` reaches whoever claimed it."""

    def __init__(self, host: Host, node: Node, name: Name, claim: Claim, tell: Tell) -> None:
        self.name = name
        self.claim = claim
        self.proxy = node.proxy
        self._host = host
        self._node = node
        self._tell = tell
        self._where = whereabouts(claim, host.address)
        self.folder = private_folder(host.folders.seat(str(name)))
        self._record = occupancy.read_record(self.folder)
        self._mesh_ports = self._take_ports()
        self.identity = Identity(
            file=self.folder / "identity.json",
            proxy=node.proxy,
            workload=name,
            shelf=node.shelf,
            signer=host.uplink,
            rng=host.rng,
            certificate=secret.certificate_of(name),
        )
        self._captured = Captured(host.hosts, host.dns, host.ports, name, claim, where=self._where)
        self._services: tuple[ScopeService, ...] = ()
        self._is_refused, self._ask_again_at, self._ask_again_after = False, 0.0, ASK_AGAIN_SECONDS
        self._registration = Registration(
            node.desk(name), self.identity, node.proxy, on_scope=self._on_scope, tell=tell
        )
        pulse = Pulse(phase=self._record.phase) if claim.workload and self._record else Pulse()
        way = host.folders.sockets / f"{name.name.rpartition('-')[2][:12]}.door"
        asking = lambda: self._captured.probe(way)  # noqa: E731 - what asks the command, once there is a place
        self.wellbeing = Wellbeing(claim, pulse, on_change=self._put, tell=tell, asking=asking)
        self.seat = self._made()
        answered = partial(admin.good_answers, node.place.admin, f"inbound/{name}")
        self.distress = Distress(self.proxy, claim, lambda: self.seat, answered=answered, tell=host.uplink.tell)

    def __repr__(self) -> str:
        return f"<NodeSeat {self.name} {self.phase} {self._captured}>"

    @property
    def phase(self) -> str:
        """STARTING, READY, UNHEALTHY or DRAINING."""
        return self.wellbeing.phase

    def status(self) -> SeatStatus:
        """How it is now. Of what its Envoy rejected it is what names this workload."""
        rejections = {kind: why for kind, why in self._node.tenant.rejections.items() if str(self.name) in why}
        return SeatStatus(
            workload=str(self.name),
            proxy=self.proxy,
            phase=self.phase,
            reason=self.wellbeing.pulse.reason,
            envoy_pid=self._node.supervisor.pid,
            envoy_restarts=self._node.supervisor.restarts,
            is_online=self._node.tenant.is_online,
            not_after=self.identity.not_after,
            ports={f"inbound/{port.app_port}": port.mesh_port for port in self.seat.ports},
            rejections=rejections,
            namespace_path=self._captured.place.namespace_path,
            address=self._captured.place.address,
        )

    def occupant(self) -> Occupant:
        """What the control plane is told of it."""
        return occupancy.occupant(
            self.claim,
            self.seat,
            zone=self._host.zone,
            address=self._where.advertised,
            phase=self.phase,
            reason=self.wellbeing.pulse.reason,
        )

    def certificates(self) -> tuple[CertificateReport, ...]:
        """How its certificate stands."""
        return self.identity.report()

    # -- its life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take the seat, say Ready, and serve until cancelled. ClaimError when there is no place or it is refused."""
        await self._captured.prepare()
        if caution := self._captured.place.caution:
            self._tell(local.Progress(text=caution))
        self.seat = self._made()
        if self.claim.workload and self._record:
            self._captured.know(self._record.services)  # a command asks already: names must not be unknown
        self.identity.load()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.identity.run(self._registration.taken))
            group.create_task(self._captured.answer())
            self._registration.begin()
            self._node.seat(self)
            await self._register()
            self._record = None  # of a hundred workloads it is a hundred times what all of them may call
            await self._until_serving()
            self._say_ready()
            group.create_task(self.wellbeing.watch())
            group.create_task(self.distress.watch())

    async def _register(self) -> None:
        """As a sidecar does; whoever has listeners in an Envoy that still runs needs nobody's leave to go on."""
        record = self._record
        if record and self.claim.workload and self._node.is_adopting and record.seat == self.seat:
            self._registration.created = record.created
            self._know(record.services)
            self._node.open()
            return
        await self._registration.settled(resume=self._resume_offline, waiting=self._host.waiting_for)

    def _resume_offline(self) -> bool:
        """Whether everything that an earlier run left is there and fits: configuration, certificate, the same place."""
        record = self._record
        if self._host.uplink.is_connected or record is None or not self.identity.is_valid:
            return False
        if record.seat != self.seat or not self._node.knows(self._listeners()):
            return False
        self._know(record.services)
        self._node.open()
        self._node.tenant.turn()  # it may be there for others, and be told of this one when it comes back
        return True

    async def _until_serving(self) -> None:
        """Until Envoy listens where connections will arrive, and holds all that belongs to this seat."""
        await self.identity.obtained()
        said = asyncio.get_running_loop().call_later(SAID_AFTER, self._say_waiting)
        wanted = self._listeners()
        try:
            while not (wanted <= await self._node.listeners() and await self._captured.is_served()):
                if self._node.failure:
                    raise ClaimError(self._node.failure)
                await asyncio.sleep(LOOKING_SECONDS)
                await self._ask_again()
        finally:
            said.cancel()

    async def _ask_again(self) -> None:
        """Envoy does not try again what it refused: it is told once more when nobody has the ports that it lacks.

        If it refuses that for another reason, all who sit here would pay for asking often.
        """
        now = asyncio.get_running_loop().time()
        self._is_refused |= bool(self.status().rejections)
        if not self._is_refused or now < self._ask_again_at:
            return
        place, there = self._captured.place, await self._node.listeners()
        ways = {f"capture/{self.name}": place.outbound_port, f"capture-inbound/{self.name}": place.inbound_port}
        self._ask_again_at = now + self._ask_again_after
        if not {port for name, port in ways.items() if name not in there} & await self._captured.taken():
            self._is_refused = False
            self._ask_again_after *= 2
            self._node.turn()

    def _say_waiting(self) -> None:
        why = "".join(f"; it rejects {each}" for each in self.status().rejections.values())
        self._tell(local.Progress(text=f"waiting for Envoy to listen for it{why}"))

    def _listeners(self) -> set[str]:
        """The names of the listeners that belong to this seat."""
        inbound = {f"inbound/{self.name}/{port.app_port}" for port in self.seat.ports}
        return {f"capture/{self.name}", *inbound, *({f"capture-inbound/{self.name}"} if inbound else ())}

    def _say_ready(self) -> None:
        self._tell(
            local.Ready(
                workload=str(self.name),
                environment={
                    **self._captured.variables,
                    **environment.variables(self.claim.namespace, self._services, environment.by_name),
                },
                created=self._registration.created,
                listens=tuple(f"{self.seat.bind}:{port.mesh_port}" for port in self.seat.ports),
                namespace_path=self._captured.place.namespace_path,
            )
        )

    def _take_ports(self) -> dict[int, int]:
        ports = self._host.ports
        found = ports.take_inbound(
            str(self.name),
            [one.port for one in self.claim.ports],
            address=self._where.bind,
            preferred=INBOUND_PORT,
            only=self._where.port,
            is_in_use=self._node.is_adopting,
        )
        ports.save()
        return found

    def _made(self) -> Seat:
        place = self._captured.place
        return occupancy.seat_of(
            self.name,
            self.claim,
            bind=self._where.bind,
            mesh_ports=self._mesh_ports,
            namespace_path=place.namespace_path,
            app_address=self._captured.app_address,
            capture=self._captured.capture,
        )

    # -- what is said -------------------------------------------------------------------------------------------------

    def _put(self) -> None:
        self._node.put()
        self._write_record()

    def _on_scope(self, services: tuple[ScopeService, ...], is_first: bool) -> None:
        del is_first  # its names are answered anew each time, and nothing else depends on them
        self._know(services)

    def _know(self, services: tuple[ScopeService, ...]) -> None:
        self._services = services
        self._captured.know(services)
        self._write_record()

    def _write_record(self) -> None:
        record = Record(
            claim=self.claim,
            seat=self.seat,
            services=self._services,
            phase=self.wellbeing.pulse.phase,
            created=self._registration.created,
        )
        occupancy.write_record(self.folder, record)

    async def prove(self) -> Proof:
        """Say as whom its calls are to arrive, and have one arrive."""
        account = SpiffeId.of_workload(self.identity.trust_domain, self.claim.namespace, self.claim.service_account)
        proof = Proof(workload=str(self.name), expected=str(account))
        if not self._captured.place.namespace_path:
            return replace(proof, error="it has no network namespace from which to call")
        try:
            return replace(proof, found=await self._captured.witnessed())
        except NoAnswerError as error:
            return replace(proof, error=str(error))

    def command_started(self, pid: int) -> None:
        """The command runs: from now on it is probed."""
        self.wellbeing.command_started(pid)

    # -- leaving ------------------------------------------------------------------------------------------------------

    async def drain(self) -> bool:
        """Take the workload out of traffic; say whether the control plane confirmed that every caller has it."""
        self.wellbeing.is_draining = True
        is_confirmed = await self._registration.drained(self._put)
        clusters = f"inbound/{self.name}/"
        with suppress(TimeoutError):
            async with asyncio.timeout(OPEN_REQUESTS_WITHIN):
                while await admin.open_requests(self._node.place.admin, clusters):  # noqa: ASYNC110 - Envoy is asked
                    await asyncio.sleep(0.05)
        return is_confirmed

    def terminate(self) -> None:
        """Nobody sits here any more; the machine's Envoy goes on for the others."""
        self._node.unseat(self.name)

    async def release(self) -> None:
        """The command has ended: deregister, and take its host away. What was learned stays for the next run."""
        self._registration.end()
        self._node.unseat(self.name)
        try:
            await self._node.dropped(self._listeners(), within=DROPPED_WITHIN)
            await self._captured.release()
        except (CaptureError, TimeoutError) as error:
            self._host.journal(f"{self.name}: its network namespace is still there: {error or 'Envoy listens in it'}")
        self._host.ports.let_go_of(str(self.name))


def occupant_of(folder: Path, zone: str, address: str) -> Occupant | None:
    """Who had the seat of this folder in an earlier agent, as that one said it; None when nobody did on the node."""
    record = occupancy.read_record(folder)
    if record is None or record.claim.placement is not Placement.NODE:
        return None
    return occupancy.occupant(
        record.claim, record.seat, zone=zone, address=whereabouts(record.claim, address).advertised, phase=record.phase
    )
