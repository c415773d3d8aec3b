"""One proxy and the workload it serves, from the claim of its seat to the end of its Envoy.

Order of a start: ports, registration, local ports for what may be called, certificate, Envoy, readiness. Order of an
end: out of traffic, until callers have it; then (by its runner) the command; then Envoy. While no control plane is
there a start uses what the last run of the same seat left on disk, or waits.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from masche.agent import admin, certificates, environment, local, occupancy
from masche.agent.berth import Berth
from masche.agent.capture.apply import CaptureError
from masche.agent.capture.host import Host as CaptureHost
from masche.agent.captured import Captured
from masche.agent.distress import Distress
from masche.agent.dns.server import MeshDns
from masche.agent.envoy import Place
from masche.agent.folders import Folders, private_folder
from masche.agent.last_good import LastGood
from masche.agent.local import Claim, SeatStatus
from masche.agent.occupancy import Record
from masche.agent.registration import Registration, Tell
from masche.agent.relay import Relay, Tenant
from masche.agent.sds import Shelf
from masche.agent.seats import PortBook
from masche.agent.secrets import Identity
from masche.agent.supervisor import Supervisor
from masche.agent.uplink import Uplink
from masche.agent.wellbeing import Asking, Wellbeing
from masche.agent.whereabouts import Whereabouts, whereabouts
from masche.link.messages import CertificateReport, ScopeService
from masche.link.probe import Pulse
from masche.link.workloads import proxy_id
from masche.model.refs import Name
from masche.model.vantage import Placement, Seat
from masche.wire.bootstrap import bootstrap

LISTENERS_WITHIN = 3.0
"""Seconds that a start waits for every local listener; then it begins without those that are still missing."""

OPEN_REQUESTS_WITHIN = 5.0
"""Seconds that a leave waits for open requests, once no new ones come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What all seats of one agent share.

    ``address`` is where other machines reach it, ``binary`` its Envoy; ``lacking`` says why it has none. ``hosts`` are
    those of captured workloads, to whom ``dns`` answers names.
    """

    folders: Folders
    machine: str
    zone: str
    address: str
    binary: Path
    envoy_version: str
    uplink: Uplink
    relay: Relay
    ports: PortBook
    hosts: CaptureHost
    dns: MeshDns
    rng: Random
    journal: Callable[[str], None]
    lacking: str = ""

    def waiting_for(self) -> str:
        """Say what the start of a seat waits for, while no control plane has accepted it."""
        uplink = self.uplink
        if uplink.is_connected:
            return f"waiting for the control plane at {uplink.address} to accept this workload"
        if uplink.address.startswith("unix:"):  # beside its control plane, and none of that is there
            return f"no control plane runs on {self.folders.data}: start it with `masche up`, or `masche join` one"
        why = f" ({uplink.why.splitlines()[0]})" if uplink.why else ""
        return f"waiting for the control plane at {uplink.address}{why}"


class Sidecar:
    """One seat that somebody claimed. ``tell`` reaches whoever claimed it."""

    def __init__(self, host: Host, name: Name, claim: Claim, tell: Tell) -> None:
        self.name = name
        self.claim = claim
        self.proxy = proxy_id(name, claim.placement)
        self._host = host
        self._tell = tell
        self._where = whereabouts(claim, host.address)
        self._folder = private_folder(host.folders.seat(str(name)))
        self.place = Place(folder=self._folder, admin=host.folders.sockets / _admin_socket(name))
        self._record = occupancy.read_record(self._folder)
        self._shelf = Shelf()
        self.last_good = LastGood(self._folder / "last-good")
        self.tenant = Tenant(
            proxy=self.proxy,
            shelf=self._shelf,
            last_good=self.last_good,
            upstream=lambda: host.uplink.stream(self.proxy),
        )
        self.identity = Identity(
            file=self._folder / "identity.json",
            proxy=self.proxy,
            workload=name,
            shelf=self._shelf,
            signer=host.uplink,
            rng=host.rng,
        )
        self.supervisor = Supervisor(host.binary, self.place, on_restart=self._on_restart)
        self._services: tuple[ScopeService, ...] = ()
        self._registration = Registration(host.uplink, self.identity, self.proxy, on_scope=self._on_scope, tell=tell)
        self._captured = _captured(host, name, claim, self._where)
        pulse = Pulse(phase=self._record.phase) if claim.workload and self._record else Pulse()
        self.wellbeing = Wellbeing(claim, pulse, on_change=self._put, tell=tell, asking=self._asking())
        self._berth = Berth(host.ports, name, claim, self.place, self._where)
        answered = partial(admin.good_answers, self.place.admin, "inbound")
        self.distress = Distress(self.proxy, claim, lambda: self.seat, answered=answered, tell=host.uplink.tell)

    def __repr__(self) -> str:
        return f"<Sidecar {self.name} {self.phase} {self.supervisor}>"

    @property
    def phase(self) -> str:
        """STARTING, READY, UNHEALTHY or DRAINING."""
        return self.wellbeing.phase

    @property
    def seat(self) -> Seat:
        """The Seat as the control plane was told."""
        return self._berth.seat

    @property
    def exposed(self) -> tuple[int, ...]:
        """Ports of the command that listen beyond loopback."""
        return self.wellbeing.exposed

    @property
    def workload(self) -> Name | None:
        """Whose calls its Envoy tells of."""
        return self.name

    def certificates(self) -> tuple[CertificateReport, ...]:
        """How its certificate stands."""
        return self.identity.report()

    @property
    def services(self) -> tuple[ScopeService, ...]:
        """What the workload may call."""
        return self._services

    def status(self) -> SeatStatus:
        """How it is now."""
        ports = {f"inbound/{port.app_port}": port.mesh_port for port in self.seat.ports}
        return SeatStatus(
            workload=str(self.name),
            proxy=self.proxy,
            phase=self.phase,
            reason=self.wellbeing.pulse.reason,
            envoy_pid=self.supervisor.pid,
            envoy_restarts=self.supervisor.restarts,
            is_online=self.tenant.is_online,
            not_after=self.identity.not_after,
            ports={**ports, "proxy": self.seat.proxy_port},
            rejections=dict(self.tenant.rejections),
            namespace_path=self.seat.namespace_path,
            address=self._captured.place.address if self._captured else "",
        )

    # -- its life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take the seat, say Ready, and serve until cancelled. ClaimError when the control plane refuses it."""
        if self._captured:
            await self._captured.prepare()
            if caution := self._captured.place.caution:
                self._tell(local.Progress(text=caution))
            if self.claim.workload and self._record:
                self._captured.know(self._record.services)  # a command asks already: names must not be unknown
            self._berth.move(self._captured)
        self._host.relay.admit(self.tenant)
        self._registration.begin()
        self.identity.load()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.identity.run(self._registration.taken))
            if self.claim.placement is Placement.GATEWAY:
                group.create_task(certificates.keep(self._host.folders.certificates, self._shelf, self._host.journal))
            if self._captured:
                group.create_task(self._captured.answer())
            await self._register()
            self.place.bootstrap.write_bytes(self._bootstrap())
            self.tenant.admitted.set()
            group.create_task(self.supervisor.run())
            await self._until_serving()
            self._say_ready()
            group.create_task(self.wellbeing.watch())
            group.create_task(self.distress.watch())

    async def _register(self) -> None:
        """Until the control plane has said what we may call, or the word of the last run stands in for it.

        An Envoy that still runs has all it needs: it is adopted at once, whoever is there.
        """
        if self._berth.is_adopting and self._record:
            self._registration.created = self._record.created
            self._open_for(self._record.services)
            self._put()
            return
        self._put()
        await self._registration.settled(resume=self._resume_offline, waiting=self._host.waiting_for)

    def _resume_offline(self) -> bool:
        """Whether everything that an earlier run left is there and fits: configuration, certificate, the same ports."""
        record = self._record
        if self._host.uplink.is_connected or record is None or not self.identity.is_valid:
            return False
        if not self.last_good.has_listeners():
            return False
        self._open_for(record.services)
        return self.seat == record.seat

    async def _until_serving(self) -> None:
        if self.identity.not_after == 0:
            self._tell(local.Progress(text="waiting for a certificate"))
        await self.identity.obtained()
        self._tell(local.Progress(text="waiting for Envoy to have its configuration"))
        await self.supervisor.wait_ready()
        await self._until_listening()

    async def _until_listening(self) -> None:
        """Envoy says ready when it has a configuration; that may be one from before our local ports were known."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTENERS_WITHIN):
                while not await self._listens():  # noqa: ASYNC110 - Envoy is asked
                    await asyncio.sleep(0.05)

    async def _listens(self) -> bool:
        has_ports = self._berth.wanted <= await admin.listening_ports(self.place.admin)
        return has_ports and (self._captured is None or await self._captured.is_served())

    def _say_ready(self) -> None:
        reached = environment.by_name if self._captured else environment.beside(self._berth.local)
        variables = environment.variables(self.claim.namespace, self._services, reached)
        proxied = environment.proxied(self.seat.proxy_port) if self.seat.proxy_port else {}
        listens = tuple(f"{self.seat.bind}:{port.mesh_port}" for port in self.seat.ports)
        self._tell(
            local.Ready(
                workload=str(self.name),
                environment={**variables, **proxied, **(self._captured.variables if self._captured else {})},
                created=self._registration.created,
                listens=listens,
                namespace_path=self.seat.namespace_path,
            )
        )

    def _open_for(self, services: tuple[ScopeService, ...]) -> None:
        self._services = services
        if self._captured:
            self._captured.know(services)
        else:
            self._berth.open_for(services)

    # -- what is said -------------------------------------------------------------------------------------------------

    def _put(self) -> None:
        self._host.uplink.put(
            occupancy.proxy_state(
                self.claim,
                self.seat,
                zone=self._host.zone,
                address=self._where.advertised,
                phase=self.phase,
                reason=self.wellbeing.pulse.reason,
                is_exposed=bool(self.exposed),
                version=self._host.envoy_version,
            )
        )
        self._write_record()

    def _write_record(self) -> None:
        if self._services or self._registration.is_taken:
            record = Record(
                claim=self.claim,
                seat=self.seat,
                services=self._services,
                phase=self.wellbeing.pulse.phase,
                created=self._registration.created,
            )
            occupancy.write_record(self._folder, record)

    def _on_scope(self, services: tuple[ScopeService, ...], is_first: bool) -> None:
        before = self.seat
        self._open_for(services)
        if self.seat != before:
            self._put()
        elif is_first:
            self._write_record()
        if not self.tenant.is_online:
            self.tenant.turn()

    def _on_restart(self, count: int) -> None:
        text = f"Envoy ended and is started again (restart {count})"
        self._host.journal(f"{self.name}: {text}")
        self._tell(local.Progress(text=text))

    def _bootstrap(self) -> bytes:
        return bootstrap(
            node_id=self.proxy,
            cluster=self.claim.service,
            zone=self.claim.zone or self._host.zone,
            xds_socket=str(self._host.folders.relay_socket),
            admin_socket=str(self.place.admin),
            outlier_log=str(self.place.outliers),
            source=self._where.source,
        )

    def _asking(self) -> Asking | None:
        """What asks a captured command how it is."""
        captured = self._captured
        way = self.place.admin.with_suffix(".door")
        return (lambda: captured.probe(way)) if captured else None

    def command_started(self, pid: int) -> None:
        """The command runs: from now on it is probed and looked at."""
        self.wellbeing.command_started(pid)

    # -- leaving ------------------------------------------------------------------------------------------------------

    async def drain(self) -> bool:
        """Take the workload out of traffic; say whether the control plane confirmed that every caller has it."""
        self.wellbeing.is_draining = True
        is_confirmed = await self._registration.drained(self._put)
        await self.supervisor.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(OPEN_REQUESTS_WITHIN):
                while await admin.open_requests(self.place.admin):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
        return is_confirmed

    @property
    def folder(self) -> Path:
        """Where it keeps its things."""
        return self._folder

    def terminate(self) -> None:
        """End its Envoy at once, if it still runs."""
        self.supervisor.terminate()

    async def release(self) -> None:
        """The command has ended: deregister and stop Envoy. What was learned stays on disk for the next run."""
        self._registration.end()
        await self.supervisor.stop()
        self._host.relay.dismiss(self.proxy)
        self._host.ports.let_go_of(str(self.name))
        if self._captured:
            try:
                await self._captured.release()
            except CaptureError as error:
                self._host.journal(f"{self.name}: its network namespace is still there: {error}")


def _admin_socket(name: Name) -> str:
    """Short, as paths of Unix sockets must be."""
    digest = re.sub(r"[^a-z0-9]", "", name.name.rpartition("-")[2])[:12]
    return f"{digest or 'envoy'}.admin"


def _captured(host: Host, name: Name, claim: Claim, where: Whereabouts) -> Captured | None:
    return Captured(host.hosts, host.dns, host.ports, name, claim, where=where) if claim.is_captured else None
