"""The control-plane process: opens what it stands on, runs its parts, and stops all of it in order.

Nothing is served before it is bound, and nothing is bound before the store, the authority and the folders are known to
be good: a start fails with one message, or it stands.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from masche.api.credentials import ApiFolder, Credentials, CredentialsError
from masche.api.server import AddressError, Listening, serving
from masche.control.audit import AuditLog
from masche.control.doors import DoorError, Doors
from masche.control.joining import Joining
from masche.control.options import UpOptions
from masche.control.parts import Ground, Parts, assemble
from masche.control.plane import ControlPlane
from masche.identity.admission import Admission
from masche.identity.authority import Authority
from masche.identity.credential import Machines
from masche.identity.files import UnsafeFileError, private_folder
from masche.identity.issuers import AuthorityError
from masche.model.ports import StoreError
from masche.registry.sqlite import SqliteStore
from masche.telemetry import logs

STORE = "masche.db"


class StartError(Exception):
    """The control plane cannot start; the message says what, why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A control plane that serves: where, and how a person gets in."""

    plane: ControlPlane
    api: Listening
    xds_address: str
    joining_address: str
    metrics_port: int
    data: Path


def main(options: UpOptions, announce: Callable[[Started], None]) -> int:
    """Run until SIGTERM or SIGINT; a second signal ends it at once. Raises StartError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the authority's key must not end up in a core file
    gc.set_threshold(50_000, 20, 50)
    with contextlib.closing(logs.configure(sys.stderr)), asyncio.Runner(loop_factory=_loop_factory()) as runner:
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
    with _alone():
        async with _ground(options) as ground, asyncio.TaskGroup() as tasks:
            parts = assemble(ground, tasks)
            async with _agents_let_in(parts) as doors, _at_work(parts, tasks), _served(parts, doors) as started:
                yield started


@contextlib.contextmanager
def _alone() -> Generator[None]:
    """Turn a group of one error, which is how a TaskGroup passes on what its block raised, into that error."""
    try:
        yield
    except ExceptionGroup as group:
        raise _only(group) from None


def _only(error: Exception) -> Exception:
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    return _only(group.exceptions[0]) if len(group.exceptions) == 1 else group


@contextlib.asynccontextmanager
async def _ground(options: UpOptions) -> AsyncGenerator[Ground]:
    """Open the folder, the authority and the store. Raises StartError."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            private_folder(options.data)
            store = await SqliteStore.open(options.data / STORE)
            stack.push_async_callback(store.close)
            audit = stack.enter_context(contextlib.closing(AuditLog(options.data / "audit.log", wall=time.time)))
            authority = Authority.open(
                options.data / "authority", options.trust_domain, now=time.time(), audit=audit.certificate
            )
            machines = Machines(store, authority)
            await machines.load()
        except (UnsafeFileError, AuthorityError, StoreError) as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(_no_folder(options.data, error)) from error
        yield Ground(
            options=options, store=store, authority=authority, machines=machines, wall=time.time, now=time.monotonic
        )


def _no_folder(data: Path, error: OSError) -> str:
    return f"{error.filename or data}: {error.strerror}: choose a folder that this user can write with --data"


@contextlib.asynccontextmanager
async def _agents_let_in(parts: Parts) -> AsyncGenerator[Doors]:
    """Serve xDS and the link while the block runs. Raises StartError."""
    ground = parts.ground
    options, domain = ground.options, ground.authority.trust_domain
    doors = Doors(options.listen, options.xds_port, data=options.data, presented=parts.identity.presented)
    try:
        doors.bind()
        joining = Joining(
            Admission(parts.tokens, ground.machines, domain),
            events=parts.events,
            roots=parts.agents.roots,
            addresses=(doors.address,),
            wall=ground.wall,
            now=ground.now,
        )
        await doors.open(parts.agents, parts.streams, joining, domain=domain)
        yield doors
    except DoorError as error:
        raise StartError(str(error)) from error
    finally:
        parts.agents.close()
        await doors.close()


@contextlib.asynccontextmanager
async def _at_work(parts: Parts, tasks: asyncio.TaskGroup) -> AsyncGenerator[None]:
    """Run what runs for ever while the block does."""
    running = [tasks.create_task(_for_ever(each)) for each in parts.work()]
    try:
        await asyncio.sleep(0)  # each begins, so that a start which fails later ends work and not mere promises of it
        yield
    finally:
        for task in running:
            task.cancel()


async def _for_ever(work: Coroutine[Any, Any, None]) -> None:
    await work
    raise RuntimeError(f"{work.__name__} ended although it never should")


@contextlib.asynccontextmanager
async def _served(parts: Parts, doors: Doors) -> AsyncGenerator[Started]:
    """Serve the API, the dashboard and the metrics while the block runs. Raises StartError."""
    options = parts.ground.options
    try:
        credentials = Credentials.load(ApiFolder(options.data), now=parts.ground.wall())
    except (CredentialsError, UnsafeFileError) as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(_no_folder(options.data, error)) from error
    plane = ControlPlane.of(parts, link_address=doors.address, joining_address=doors.joining_address)
    metrics = parts.exposition.serving(host=options.api_address, port=options.metrics_port)
    api = serving(
        plane,
        data=options.data,
        credentials=credentials,
        host=options.api_address,
        port=options.api_port,
        allowed_hosts=options.api_hosts,
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            metrics_port = await stack.enter_async_context(metrics)
            listening = await stack.enter_async_context(api)
        except AddressError as error:
            raise StartError(str(error)) from error
        yield Started(
            plane=plane,
            api=listening,
            xds_address=doors.address,
            joining_address=doors.joining_address,
            metrics_port=metrics_port,
            data=options.data,
        )
