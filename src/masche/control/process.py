"""The control-plane process: opens what it needs, starts what runs, and stops all of it in order.

Nothing is served before it is bound, and nothing is bound before the store, the authority and the folders are known to
be good: a start fails with one message, or it stands.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from masche.api.credentials import ApiFolder, Credentials, CredentialsError
from masche.api.server import AddressError, Listening, serving
from masche.control.agents import Agents, Permits
from masche.control.audit import AuditLog
from masche.control.exposition import Exposition
from masche.control.joining import Joining
from masche.control.leases import Leases
from masche.control.measures import Measures
from masche.control.mirror import mirror
from masche.control.options import UpOptions
from masche.control.plane import ControlPlane
from masche.control.reading import Reading
from masche.control.server_identity import ServerIdentity
from masche.control.streams import Streams
from masche.control.vigil import Vigil
from masche.control.world import World
from masche.identity import tls
from masche.identity.admission import Admission
from masche.identity.authority import Authority
from masche.identity.credential import Machines, refusal
from masche.identity.issuers import AuthorityError
from masche.identity.join import Tokens
from masche.identity.keys import UnsafeFileError, private_folder
from masche.link import service
from masche.link.service import Peer
from masche.model.ports import StoreError
from masche.registry.sqlite import SqliteStore
from masche.registry.static import StaticSource
from masche.telemetry.events import Events
from masche.xds import listening, server

SOCKET = "control.sock"
STORE = "masche.db"
GRACE = 2.0


class StartError(Exception):
    """The control plane cannot start; the message says what, why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A control plane that serves: where, and how a person gets in."""

    plane: ControlPlane
    api: Listening
    xds_address: str
    joining_address: str
    data: Path


def main(options: UpOptions, announce: Callable[[Started], None]) -> int:
    """Run until SIGTERM or SIGINT; a second signal ends it at once. Raises StartError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the authority's key must not end up in a core file
    gc.set_threshold(50_000, 20, 50)
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with runner:
        return runner.run(_main(options, announce))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _main(options: UpOptions, announce: Callable[[Started], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    async with control_plane(options) as started:
        announce(started)
        await stop.wait()
    return 0


def _stop(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():
        os._exit(128 + number)
    stop.set()


@contextlib.asynccontextmanager
async def control_plane(options: UpOptions) -> AsyncGenerator[Started]:
    """A control plane that runs while the block does. Raises StartError."""
    try:
        private_folder(options.data)
        credentials = Credentials.load(ApiFolder(options.data), now=time.time())
        audit = AuditLog(options.data / "audit.log", wall=time.time)
        authority = Authority.open(
            options.data / "authority", options.trust_domain, now=time.time(), audit=audit.certificate
        )
        store = await SqliteStore.open(options.data / STORE)
    except (UnsafeFileError, AuthorityError, StoreError, CredentialsError) as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(
            f"{error.filename or options.data}: {error.strerror}: choose a folder that this user can write with --data"
        ) from error
    try:
        async with _running(options, credentials, authority, store) as started:
            yield started
    finally:
        await store.close()
        audit.close()


@contextlib.asynccontextmanager
async def _running(
    options: UpOptions, credentials: Credentials, authority: Authority, store: SqliteStore
) -> AsyncGenerator[Started]:
    events = Events(wall=time.time, heard=lambda event: exposition.heard(event))  # noqa: PLW0108 - it is made below
    world = World(store, trust_domain=authority.trust_domain, now=time.monotonic)
    machines = Machines(store, authority)
    await machines.load()
    identity = ServerIdentity(authority, listen=options.listen, wall=time.time)
    measures = Measures(world, events=events, wall=time.time)
    leases = Leases(lease=options.lease)
    vigil = Vigil(world, writer=store, leases=leases, events=events, successes=measures.last_success)
    reading = Reading(world=world, expiry=measures.certificate_expiry)
    exposition = Exposition(world, measures=measures, reading=reading, vigil=vigil)
    async with asyncio.TaskGroup() as tasks:
        agents = Agents(
            world=world,
            writer=store,
            authority=authority,
            leases=leases,
            events=events,
            permits=_permits(machines),
            admit=_admit(machines),
            count=measures.count,
            wall=time.time,
            leaf_lifetime=options.leaf_ttl,
            signed=exposition.signed,
            tasks=tasks,
        )
        streams = Streams(
            world,
            events=events,
            is_revoked=lambda each: each in machines.revoked,
            wall=time.time,
            rejected=exposition.rejected,
        )
        link = _Link(options, agents, streams, identity, world)
        running: list[asyncio.Task[Any]] = []
        try:
            await link.start(Admission(Tokens(store), machines, authority.trust_domain), agents, events)
            plane = ControlPlane.of(
                options=options,
                world=world,
                writer=store,
                events=events,
                measures=measures,
                reading=reading,
                authority=authority,
                identity=identity,
                machines=machines,
                tokens=Tokens(store),
                agents=agents,
                vigil=vigil,
                link_address=link.address,
                joining_address=link.joining_address,
                wall=time.time,
            )
            work = [world.follow(), world.settle(), identity.renew(), vigil.watch(), measures.steer()]
            if options.static is not None:
                work.append(mirror(StaticSource(options.static), store, store))
            running = [tasks.create_task(each) for each in work]
            async with (
                exposition.serving(host=options.api_address, port=options.metrics_port),
                serving(
                    plane, data=options.data, credentials=credentials, host=options.api_address, port=options.api_port
                ) as api,
            ):
                yield Started(
                    plane=plane,
                    api=api,
                    xds_address=link.address,
                    joining_address=link.joining_address,
                    data=options.data,
                )
        except AddressError as error:
            raise StartError(str(error)) from error
        finally:
            plane_tasks = [task for task in running if not task.done()]
            await link.stop()
            for task in plane_tasks:
                task.cancel()
            agents.close()


def _permits(machines: Machines) -> Permits:
    async def permits(peer: Peer, namespace: str, account: str) -> str:
        if peer.machine is None:
            return ""
        record = await machines.find(peer.machine)
        if record is None:
            return f"machine {peer.machine} is not known here"
        return refusal(record.grant, namespace, account)

    return permits


def _admit(machines: Machines) -> Callable[[Peer], None]:
    def admit(peer: Peer) -> None:
        if peer.machine in machines.revoked:
            raise service.RefusedError(f"the machine {peer.machine} is revoked", fix="join it again under another name")

    return admit


def _grpc_server(handlers: Sequence[Any]) -> grpc.aio.Server:
    made: Any = grpc.aio
    return made.server(handlers=handlers, options=listening.options())


class _Link:
    """The gRPC servers: xDS and link over mutual TLS and over the Unix socket, and the door for new machines."""

    def __init__(
        self, options: UpOptions, agents: Agents, streams: Streams, identity: ServerIdentity, world: World
    ) -> None:
        self._options = options
        self._identity = identity
        handlers = (service.handlers(agents, trust_domain=lambda: world.trust_domain), server.handlers(streams))
        self._server = _grpc_server(handlers)
        self._door = _grpc_server(())
        self.address = ""
        self.joining_address = ""

    async def start(self, admission: Admission, agents: Agents, events: Events) -> None:
        """Bind and serve. Raises StartError."""
        options = self._options
        try:
            listening.bind_unix(self._server, options.data / SOCKET)
            port = self._bind(self._server, options.xds_port, tls.mutual_server_credentials(self._identity.presented))
            wanted = options.xds_port + 1 if options.xds_port else 0
            door = self._bind(self._door, wanted, tls.joining_server_credentials(self._identity.presented))
        except (RuntimeError, OSError) as error:
            raise StartError(
                f"cannot listen on {options.listen} port {options.xds_port} or {options.xds_port + 1}: another process "
                "has it, or the address is not this machine's; choose others with --xds-port and --listen"
            ) from error
        self.address = f"{options.listen}:{port}"
        self.joining_address = f"{options.listen}:{door}"
        joining = Joining(
            admission, events=events, roots=agents.roots, addresses=(self.address,), wall=time.time, now=time.monotonic
        )
        door_handlers: Any = self._door
        door_handlers.add_generic_rpc_handlers((service.joining_handlers(joining),))
        await self._server.start()
        await self._door.start()

    def _bind(self, to: grpc.aio.Server, port: int, credentials: grpc.ServerCredentials) -> int:
        host = f"[{self._options.listen}]" if ":" in self._options.listen else self._options.listen
        bound = to.add_secure_port(f"{host}:{port}", credentials)
        if not bound:
            raise OSError(f"port {port}")
        return bound

    async def stop(self) -> None:
        """Refuse new calls and end the open ones."""
        await asyncio.gather(self._server.stop(GRACE), self._door.stop(GRACE))
        (self._options.data / SOCKET).unlink(missing_ok=True)
