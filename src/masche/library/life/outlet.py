"""Where gRPC's own xDS client, in this very process, asks the mesh: a Unix socket that is ours alone.

It stands in the mesh as a workload of its own beside us (``<our name>-grpc``), with our identity and no port, because
what gRPC is told is said in another dialect than what we are told. Its stream is carried on to whichever control plane
is there; key, certificate and roots are files, since gRPC reads nothing else, in a folder that goes with the process,
and in memory where the system has a place there: a process that is killed takes nothing away with it.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from msgspec.structs import replace

from masche.identity import shown, transport
from masche.identity.files import write_private
from masche.identity.presented import Presented
from masche.library.core.ports import MeshError
from masche.library.life.occupant import PLACEMENT
from masche.link.courier import STATE_OF_THE_WORLD, Courier
from masche.link.messages import ProxyState, State
from masche.link.upstream import Upstream
from masche.link.workloads import proxy_id
from masche.model.refs import Name
from masche.model.vantage import Dialect, Seat
from masche.wire import grpc_bootstrap
from masche.xds.client import MAX_RESPONSE_BYTES

FOLDER = "masche-grpc-"
"""How the names of folders begin in which such a process keeps what gRPC reads."""

LOOKING_SECONDS = 1.0
"""How often we look whether our certificate is another; gRPC itself looks every five."""

_WELL = State(phase="READY")


class Outlet:
    """See the module. It is made once per process and served in each run of the resident's loop.

    ``own`` is our workload, ``presented`` says what we show now or raises MeshError.
    """

    def __init__(self, own: Name, *, service: str, zone: str, presented: Callable[[], Presented]) -> None:
        self.name = Name(own.namespace, f"{own.name}-grpc")
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=_in_memory()))
        self._presented = presented
        self._shown: Presented | None = None
        self._channel: grpc.aio.Channel | None = None
        self._bootstrap = grpc_bootstrap.bootstrap(
            node_id=self.proxy,
            cluster=service,
            zone=zone,
            server=f"unix:{self._socket}",
            certificates=self._folder / "certificates" / shown.CURRENT,
        )

    def __repr__(self) -> str:
        return f"<Outlet {self.name} at {self._socket}>"

    @property
    def proxy(self) -> str:
        """Its ``Node.id``."""
        return proxy_id(self.name, PLACEMENT)

    @property
    def bootstrap(self) -> Path:
        """What gRPC is to read."""
        return self._folder / "grpc-bootstrap.json"

    @property
    def _socket(self) -> Path:
        return self._folder / "xds.sock"

    def state(self, ours: ProxyState) -> ProxyState:
        """What a control plane is told of it: as ours, without what makes us callable."""
        (occupant,) = ours.occupants
        seat = Seat(workload=self.name, bind=occupant.seat.bind)
        beside = replace(occupant, seat=seat, labels={}, ports=(), service=None, state=_WELL)
        return replace(ours, proxy=self.proxy, dialect=Dialect.GRPC, occupants=(beside,), envoy_version="gRPC")

    def show(self) -> None:
        """Write what we show now, when that is something new; an ended certificate is not left lying about."""
        with suppress(MeshError):
            now = self._presented()
            if now != self._shown:
                self._shown = now
                shown.show(self._folder / "certificates", _files(now))
                write_private(self.bootstrap, self._bootstrap)

    @property
    def is_connected(self) -> bool:
        """Whether a control plane is there that knows us."""
        return self._channel is not None

    def connect(self, address: str, presented: Presented | None) -> None:
        """A control plane is there and knows us."""
        self._channel = transport.channel(address, presented, max_receive_bytes=MAX_RESPONSE_BYTES)

    async def disconnect(self) -> None:
        """It is gone."""
        channel, self._channel = self._channel, None
        if channel:
            await channel.close(None)

    async def serve(self) -> None:
        """Take gRPC's streams, for as long as this runs."""
        library: Any = grpc  # its published stubs leave the parameters of these open
        server = library.aio.server()
        methods = {"StreamAggregatedResources": library.stream_stream_rpc_method_handler(self._carry)}
        service = STATE_OF_THE_WORLD.split("/")[1]
        server.add_generic_rpc_handlers((library.method_handlers_generic_handler(service, methods),))
        self._socket.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{self._socket}")
        await server.start()
        try:
            while True:
                self.show()
                await asyncio.sleep(LOOKING_SECONDS)
        finally:
            await server.stop(None)
            await self.disconnect()

    def close(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _carry(self, requests: AsyncIterator[bytes], context: Any) -> None:
        with suppress(StopAsyncIteration):
            first = await anext(requests)
            courier = Courier(
                requests, context.write, open_upstream=self._open, note=lambda _: None, told=lambda _: None
            )
            await courier.run(first)

    def _open(self) -> Upstream | None:
        channel: Any = self._channel
        return channel.stream_stream(STATE_OF_THE_WORLD)() if channel else None


_IN_MEMORY = "/dev/shm"  # noqa: S108 - what is made there is a folder of a name by chance, and of mode 0700


def _in_memory() -> str | None:
    """Where files are kept in memory; None: nowhere, or not for us."""
    return _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK | os.X_OK) else None


def _files(now: Presented) -> dict[str, bytes]:
    return {
        grpc_bootstrap.CERTIFICATE: now.chain.encode(),
        grpc_bootstrap.KEY: now.key.reveal(),
        grpc_bootstrap.ROOTS: now.roots.encode(),
    }
