"""The agent's own Unix socket: runners claim seats here, and anybody of this user may ask how things are.

A claim's life is its connection. When a runner hangs up without leaving it was killed, and its command with it: the
seat is released at once. Envoys that nobody claims after a restart of the agent are ended once their runners had time,
and what a seat left on disk is forgotten when nobody came back for a week.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGTERM

from masche.agent import distress, leftovers, local, occupancy
from masche.agent.capture.apply import CaptureError
from masche.agent.envoy import EnvoyError, Place, adopt
from masche.agent.local import (
    AgentStatus,
    AskStatus,
    Claim,
    Denied,
    Leave,
    Proof,
    ProtocolError,
    Prove,
    Proved,
    Release,
    Started,
    Upgrade,
    Upgraded,
)
from masche.agent.node import Node, in_silence
from masche.agent.node_seat import NodeSeat, occupant_of
from masche.agent.occupancy import ClaimError, workload_names
from masche.agent.processes import ProcessId
from masche.agent.program import Program
from masche.agent.registration import Tell
from masche.agent.returning import wanted
from masche.agent.seats import NoPortError
from masche.agent.sidecar import Host, Sidecar
from masche.agent.sight import Proxy
from masche.link.probe import HealthError, parse
from masche.model.refs import Name
from masche.model.vantage import Placement

Seated = Sidecar | NodeSeat | Program
"""Who has a seat: an application with an Envoy of its own or with the machine's, or a program that needs none."""

LOOKING_SECONDS = 1.0
"""How often unclaimed Envoys are looked at, while there are any."""

TENDING_SECONDS = 3600.0
"""How often, once there are none, seats are looked for that nobody will take again."""


class Server:
    """All seats of this machine. ``part`` takes the last look at an Envoy that ends."""

    def __init__(self, host: Host, part: Callable[[Proxy], Awaitable[None]] = in_silence) -> None:
        self.host = host
        self.seated: dict[Name, Seated] = {}
        self.is_passing = False
        self.metrics = ""
        self.readiness = ""
        self.part = part
        self.node = Node(host, part=lambda node: self.part(node))  # noqa: PLW0108 - whoever that is by then
        self.idle_since = time.monotonic()

    def __repr__(self) -> str:
        return f"<Server of {len(self.seated)} seats>"

    def proxies(self) -> tuple[Proxy, ...]:
        """Return what has an Envoy."""
        sidecars = (each for each in self.seated.values() if isinstance(each, Sidecar))
        return (*sidecars, self.node) if self.node.is_occupied else tuple(sidecars)

    def suspect(self, proxy: str, cluster: str) -> None:
        """The Envoy of ``proxy`` says that the application behind a cluster of its own fails."""
        if (found := distress.suspect(cluster)) is None:
            return
        for each in self.seated.values():
            if not isinstance(each, Program) and each.proxy == proxy and found.workload in {None, each.name}:
                each.distress.suspect(found.port)

    def programs(self) -> tuple[Program, ...]:
        """Return those that need none."""
        return tuple(each for each in self.seated.values() if isinstance(each, Program))

    async def run(self) -> None:
        """Listen, for this user alone, until cancelled. Envoys are left running."""
        path = self.host.folders.agent_socket
        path.unlink(missing_ok=True)
        listener = await asyncio.start_unix_server(self._serve, path=str(path), limit=local.MAX_LINE_BYTES)
        path.chmod(0o600)
        try:
            async with listener, asyncio.TaskGroup() as group:
                group.create_task(self._tend_seats())
                group.create_task(self._tend_hosts())
                group.create_task(self.node.run())
                await listener.serve_forever()
        finally:
            path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            match await local.read_request(reader):
                case AskStatus():
                    writer.write(local.line(self.status()))
                case Prove():
                    writer.write(local.line(Proved(proofs=await self._proofs())))
                case Upgrade():
                    writer.write(local.line(await self._upgrade()))
                case Claim() as claim:
                    try:
                        await self._hold(claim, reader, writer)
                    finally:
                        self.host.dns.lender.drop(claim.workload)
                case None:
                    pass
                case _:
                    writer.write(local.line(Denied(why="the first word of a runner is a claim")))
        except asyncio.CancelledError:
            pass  # the agent ends; asyncio would report a handler that was cancelled as an error
        except ProtocolError as error:
            writer.write(local.line(Denied(why=str(error), fix="use the same version of masche on both sides")))
        finally:
            writer.close()

    async def _proofs(self) -> tuple[Proof, ...]:
        """One after the other: there is no hurry, and a hundred at once would be a load."""
        seats = [each for each in self.seated.values() if isinstance(each, NodeSeat)]
        return tuple([await each.prove() for each in seats])

    async def _upgrade(self) -> Upgraded | Denied:
        try:
            return Upgraded(pid=self.node.supervisor.pid if await self.node.supervisor.replace() else 0)
        except (EnvoyError, OSError) as error:
            return Denied(why=str(error), fix="the Envoy that ran before goes on")

    async def _hold(self, claim: Claim, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one claim until its runner has left or is gone."""

        def tell(message: local.FromAgent) -> None:
            if not writer.is_closing():
                writer.write(local.line(message))

        try:
            seated = self.sit(claim, tell, leftovers.peer_of(writer.get_extra_info("socket")))
        except (ClaimError, HealthError, NoPortError, OSError) as error:
            tell(_denied(error))
            return
        living = asyncio.create_task(seated.run())
        hearing = asyncio.create_task(_hear(seated, reader, tell))
        try:
            await asyncio.wait({living, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if living.done() and (error := living.exception()):
                self.host.journal(f"{seated.name}: {_cause(error)!r}")
                tell(_denied(_cause(error)))
            await self.release(seated, living)
        finally:  # being cancelled means that the agent ends: Envoy stays, and the runner brings a new agent
            for task in (living, hearing):
                task.cancel()
            await asyncio.gather(living, hearing, return_exceptions=True)
        tell(local.Released())
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    def sit(self, claim: Claim, tell: Tell, holder: ProcessId | None) -> Seated:
        """Find the seat for a runner: the one it had before, or the first of its kind that is free.

        Raises ClaimError, HealthError, NoPortError, OSError.
        """
        occupancy.check(claim, self.host.zone)
        parse(claim.health, "127.0.0.1", 1)
        names = (Name(*claim.workload.split("/", 1)),) if claim.workload else workload_names(self.host.machine, claim)
        name = next((one for one in names if one not in self.seated), None)
        if name is None:
            raise ClaimError(f"the seat of {claim.workload} is taken", fix="wait until its other runner has ended")
        seated = self._seat(name, claim, tell)
        leftovers.note_holder(seated.folder, holder)
        self.seated[name] = seated
        return seated

    def _seat(self, name: Name, claim: Claim, tell: Tell) -> Seated:
        if claim.placement is Placement.LIBRARY:
            return Program(self.host, name, claim, tell)
        if self.host.lacking:
            raise ClaimError(self.host.lacking)
        if claim.envoy and not claim.workload and not _is_same(claim.envoy, self.host.binary):
            raise ClaimError(
                f"the agent of this machine runs {self.host.binary}, not {claim.envoy}",
                fix="leave out --envoy, or end what the agent serves and begin with the command that says --envoy",
            )
        if claim.placement is Placement.NODE:
            return NodeSeat(self.host, self.node, name, claim, tell)
        return Sidecar(self.host, name, claim, tell)

    async def release(self, seated: Seated, living: "asyncio.Task[None]") -> None:
        """End a seat: it leaves the mesh, and an Envoy of its own stops."""
        try:
            if isinstance(seated, Sidecar):
                await self.part(seated)
            await seated.release()
        finally:
            seated.terminate()  # also when the agent ends in the middle of this: nobody would come for it
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            self.seated.pop(seated.name, None)
            self.idle_since = time.monotonic()

    async def _tend_seats(self) -> None:
        """End what nobody will claim any more, and now and then forget what nobody took for long."""
        began = time.monotonic()
        while True:
            while self._end_orphans(waited=time.monotonic() - began):  # noqa: ASYNC110 - other processes are looked at
                await asyncio.sleep(LOOKING_SECONDS)
            for folder in self._untaken():
                if leftovers.is_forgotten(folder, now=time.time()):
                    shutil.rmtree(folder, ignore_errors=True)
                    self.host.ports.release(folder.name.replace("~", "/", 1))
            self.node.last_good.prune(wanted(self.host.folders.seats.iterdir()))
            await asyncio.sleep(TENDING_SECONDS)

    def _end_orphans(self, *, waited: float) -> bool:
        """End each Envoy whose runner has ended; say whether any that nobody holds now is still there."""
        found = False
        for folder in self._untaken():
            if handle := adopt(Place(folder=folder, admin=folder / "unused")):
                found = True
                if leftovers.is_orphan(folder, waited=waited):
                    self.host.journal(f"{folder.name}: nobody will claim its Envoy, which is ended")
                    handle.send(SIGTERM)
                handle.close()
        return found

    def recall(self) -> None:
        """Say of those who sat on the node when an agent before us ended that they will be there again."""
        for folder in self._untaken():
            if not leftovers.is_orphan(folder, waited=0.0):
                found = occupant_of(folder, self.host.zone, self.host.address)
                if found:
                    self.node.await_again(found)

    async def _tend_hosts(self) -> None:
        """Take away the hosts of captured workloads whose runners have ended, whoever made them, for ever."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(LOOKING_SECONDS)
            waited = time.monotonic() - began
            folders = [each for each in self._untaken() if not leftovers.is_orphan(each, waited=waited)]
            held = {*self.seated, *map(_workload, folders)}
            for workload in self.node.awaited - held:
                self.node.unseat(workload)
            listening = await self.node.listening_for()
            self.node.forget_secrets(listening)
            try:
                await self.host.hosts.sweep({*held, *listening, *self.seated})
            except CaptureError as error:
                self.host.journal(f"what was left of hosts cannot be removed: {error}")

    def _untaken(self) -> tuple[Path, ...]:
        taken = {each.folder for each in self.seated.values()}
        return tuple(folder for folder in self.host.folders.seats.iterdir() if folder not in taken)

    def status(self) -> AgentStatus:
        """How this machine is."""
        uplink = self.host.uplink
        return AgentStatus(
            pid=os.getpid(),
            machine=self.host.machine,
            control=uplink.address,
            is_connected=uplink.is_connected,
            is_passing=self.is_passing,
            metrics=self.metrics,
            readiness=self.readiness,
            seats=tuple(each.status() for each in self.seated.values()),
        )


async def _hear(seated: Seated, reader: asyncio.StreamReader, tell: Tell) -> None:
    """Obey the runner until it releases the seat or hangs up."""
    while True:
        match await local.read_request(reader):
            case None | Release():
                return
            case Started(pid=pid):
                seated.command_started(pid)
            case Leave(is_ended=False):
                tell(local.Drained(is_confirmed=await seated.drain()))
            case Leave() | Claim() | AskStatus() | Upgrade() | Prove():
                continue


def _workload(folder: Path) -> Name:
    """Whose seat this is the folder of."""
    return Name(*folder.name.split("~", 1))


def _is_same(wanted: str, binary: Path) -> bool:
    return Path(wanted).resolve() == binary.resolve()


def _cause(error: BaseException) -> BaseException:
    """The first real error inside the groups in which tasks report theirs."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - a group of anything
    return error  # pyright: ignore[reportUnknownVariableType] - as above


def _denied(error: BaseException) -> Denied:
    fix = error.fix if isinstance(error, ClaimError) else ""
    return Denied(why=str(error) or type(error).__name__, fix=fix)
