"""One program that is in the mesh without a proxy, by gRPC's own xDS client and server, and the seat it has.

The agent does for it what a proxy beside it would: it registers it, probes it, has its certificate signed and renewed,
and passes its xDS stream on. The program is given a bootstrap, and finds key, certificate and roots in files that it
names. Order of a start: registration, certificate, bootstrap, then the command. Invariant: files of the key are this
user's alone, and go when the seat does.
"""

import asyncio
from pathlib import Path

from masche.agent import local, occupancy
from masche.agent.folders import private_folder
from masche.agent.last_good import LastGood
from masche.agent.local import Claim, SeatStatus
from masche.agent.occupancy import ClaimError, Record
from masche.agent.registration import Registration, Tell
from masche.agent.relay import Tenant
from masche.agent.sds import Shelf
from masche.agent.secrets import Identity
from masche.agent.sidecar import Host
from masche.agent.wellbeing import Wellbeing
from masche.agent.whereabouts import whereabouts
from masche.identity import shown
from masche.identity.files import write_private
from masche.link.courier import STATE_OF_THE_WORLD
from masche.link.probe import Pulse
from masche.link.workloads import proxy_id
from masche.model.refs import Name
from masche.wire.grpc_bootstrap import bootstrap

SOFTWARE = "gRPC"
"""What stands where a proxy says which Envoy it is."""

SAID_AFTER = 1.5
"""Seconds after which a start says what it waits for."""

BOOTSTRAP = "GRPC_XDS_BOOTSTRAP"
"""The variable in which gRPC looks for the path of its bootstrap."""


class Program:
    """One seat without a proxy. ``tell`` reaches whoever claimed it."""

    def __init__(self, host: Host, name: Name, claim: Claim, tell: Tell) -> None:
        _check(claim)
        self.name = name
        self.claim = claim
        self.proxy = proxy_id(name, claim.placement)
        self.folder = private_folder(host.folders.seat(str(name)))
        self._host = host
        self._tell = tell
        self._where = whereabouts(claim, host.address)
        ports = {port.port: port.port for port in claim.ports}
        self.seat = occupancy.seat_of(name, claim, bind=self._where.bind, mesh_ports=ports, proxy_port=0, local={})
        self._shelf = Shelf()
        self.tenant = Tenant(
            proxy=self.proxy,
            shelf=self._shelf,
            last_good=LastGood(self.folder / "last-good"),
            upstream=lambda: host.uplink.stream(self.proxy, STATE_OF_THE_WORLD),
        )
        self.identity = Identity(
            file=self.folder / "identity.json",
            proxy=self.proxy,
            workload=name,
            shelf=self._shelf,
            signer=host.uplink,
            rng=host.rng,
            shown=self._certificates,
        )
        record = occupancy.read_record(self.folder)
        pulse = Pulse(phase=record.phase) if claim.workload and record else Pulse()
        self.wellbeing = Wellbeing(claim, pulse, on_change=self._put, tell=tell, address=self._answers_at)
        self._registration = Registration(host.uplink, self.identity, self.proxy, on_scope=_as_before, tell=tell)

    def __repr__(self) -> str:
        return f"<Program {self.name} {self.phase}, {'told' if self.tenant.is_online else 'not told'} what to hold>"

    @property
    def phase(self) -> str:
        """STARTING, READY, UNHEALTHY or DRAINING."""
        return self.wellbeing.phase

    @property
    def exposed(self) -> tuple[int, ...]:
        """No port of it is: they are there to be called, and want a certificate of the mesh themselves."""
        return ()

    @property
    def _certificates(self) -> Path:
        return self.folder / "certificates"

    @property
    def _answers_at(self) -> str:
        """Where it is probed: where it was told to listen."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._where.bind, self._where.bind)  # noqa: S104 - compared

    def status(self) -> SeatStatus:
        """How it is now."""
        return SeatStatus(
            workload=str(self.name),
            proxy=self.proxy,
            phase=self.phase,
            reason=self.wellbeing.pulse.reason,
            is_online=self.tenant.is_online,
            not_after=self.identity.not_after,
            ports={f"inbound/{port.app_port}": port.mesh_port for port in self.seat.ports},
            rejections=dict(self.tenant.rejections),
        )

    # -- its life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take the seat, say Ready, and serve until cancelled. ClaimError when the control plane refuses it."""
        self._host.relay.admit(self.tenant)
        self._registration.begin()
        self.identity.load()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.identity.run(self._registration.taken))
            self._put()
            await self._until_accepted()
            await self.identity.obtained()
            self.tenant.admitted.set()
            self._say_ready()
            group.create_task(self.wellbeing.watch())

    async def _until_accepted(self) -> None:
        """Who took the seat again has a command that runs: it is not kept waiting."""
        if self.claim.workload and self.identity.is_valid:
            return
        if await self._registration.answered(SAID_AFTER):
            return
        self._tell(local.Progress(text=self._host.waiting_for()))
        await self._registration.answered(None)

    def _say_ready(self) -> None:
        path = self.folder / "grpc-bootstrap.json"
        body = bootstrap(
            node_id=self.proxy,
            cluster=self.claim.service,
            zone=self.claim.zone or self._host.zone,
            server=f"unix:{self._host.folders.relay_socket}",
            certificates=self._certificates / shown.CURRENT,
        )
        write_private(path, body)
        environ = {BOOTSTRAP: str(path), **({"HOST": self._where.bind} if self.seat.ports else {})}
        listens = tuple(f"{self.seat.bind}:{port.app_port}" for port in self.seat.ports)
        created = self._registration.created
        self._tell(local.Ready(workload=str(self.name), environment=environ, created=created, listens=listens))

    def command_started(self, pid: int) -> None:
        """The command runs: from now on it is probed."""
        self.wellbeing.command_started(pid)

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
                is_exposed=False,
                version=SOFTWARE,
            )
        )
        record = Record(
            claim=self.claim, seat=self.seat, phase=self.wellbeing.pulse.phase, created=self._registration.created
        )
        occupancy.write_record(self.folder, record)

    # -- leaving ------------------------------------------------------------------------------------------------------

    async def drain(self) -> bool:
        """Take it out of traffic; say whether the control plane confirmed that every caller has it."""
        self.wellbeing.is_draining = True
        return await self._registration.drained(self._put)

    async def release(self) -> None:
        """The command has ended: deregister, and take its files away."""
        self._registration.end()
        self._host.relay.dismiss(self.proxy)
        shown.withdraw(self._certificates)

    def terminate(self) -> None:
        """Nothing of ours runs for it."""


def _check(claim: Claim) -> None:
    """Its port speaks mutual TLS, and what may be asked there, policies decide. Raises ClaimError."""
    if claim.health not in {"tcp", "none"}:
        raise ClaimError(
            f"--health {claim.health} asks in plaintext, and the port of a program without a proxy takes mutual TLS",
            fix="use tcp or none",
        )


def _as_before(_services: object, _is_first: object) -> None:
    """What it may call changes nothing here: gRPC asks for it by itself."""
