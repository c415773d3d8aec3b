"""Runs the API in the control plane's own loop, on loopback, and stops without waiting for whoever is still looking.

Invariant: once ``start`` returned, the port is bound and the address file says where.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from masche.api.app import STATIC_DIR, app
from masche.api.connections import Connection
from masche.api.credentials import ApiFolder, Credentials
from masche.api.guard import MAX_HEADER_BYTES
from masche.api.live import Streams
from masche.api.plane import Plane
from masche.identity.files import write_private

DEFAULT_PORT = 15080
MAX_CONNECTIONS = 512
GRACE_SECONDS = 2


class AddressError(Exception):
    """The API cannot listen there; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A running API."""

    host: str
    port: int
    credentials: Credentials

    @property
    def url(self) -> str:
        """``http://127.0.0.1:15080``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def login_link(self, *, now: float) -> str:
        """A link that logs one browser in, once. ``now`` in Unix seconds. The secret is in the fragment."""
        code, _ = self.credentials.codes.create(now=now)
        return f"{self.url}/login#{code}"


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the process has an owner, and that is not the API."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    plane: Plane,
    *,
    data: Path,
    credentials: Credentials,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    allowed_hosts: tuple[str, ...] = (),
    static_dir: Path = STATIC_DIR,
) -> AsyncGenerator[Listening]:
    """Serve while the block runs. ``port`` 0 takes a free one. Raises AddressError when it cannot listen.

    It answers to loopback names, to ``host`` and to ``allowed_hosts``, and to no other name.
    """
    streams = Streams()
    application = app(
        plane, credentials=credentials, allowed_hosts=(*allowed_hosts, host), static_dir=static_dir, streams=streams
    )
    async with listening(application, host=host, port=port, option="--api-port") as bound:
        try:
            write_private(ApiFolder(data).address, f"{host}:{bound}".encode())
            yield Listening(host=host, port=bound, credentials=credentials)
        finally:
            streams.close()


@contextlib.asynccontextmanager
async def listening(application: ASGIApp, *, host: str, port: int, option: str) -> AsyncGenerator[int]:
    """Serve any ASGI application while the block runs; yields the port. ``option`` is what chooses another one.

    Raises AddressError when it cannot listen.
    """
    listener = _bind(host, port, option)
    server = _Server(_config(application))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.serve(sockets=[listener]), name=f"http on {port}")
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait({running})


def _config(application: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        application,  # pyright: ignore[reportArgumentType] # uvicorn's own ASGI types are narrower than Starlette's
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _bind(host: str, port: int, option: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
        listener.settimeout(0.0)
    except OSError as error:
        listener.close()
        raise AddressError(_why_not(host, port, option, error)) from error
    return listener


def _why_not(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: stop what listens there, or choose another with {option}"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user: choose one above 1023 with {option}"
    return (
        f"cannot listen on {host} port {port}: {error.strerror}: choose an address of this machine with --api-address"
    )
