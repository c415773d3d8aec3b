"""Stands between the Envoys of this machine and a control plane: one Unix socket, one upstream stream per proxy.

Secrets are answered here. Everything else passes byte for byte, both ways; acknowledgements are Envoy's own, and what
they acknowledge is kept as last good. A stream lives in one mode, told by a control plane or from the last good
configuration; when the mode ends so does the stream, and Envoy comes back saying what it holds. Programs with an xDS
client of their own are passed on (``courier``).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from masche.agent.last_good import LastGood
from masche.agent.offline import Offline, Wants
from masche.agent.sds import Sds, Shelf
from masche.link.courier import Courier
from masche.link.upstream import OverError, Upstream, ending
from masche.wire import framing
from masche.wire.discovery import (
    DeltaRequest,
    DeltaResponse,
    SotwRequest,
    decode_delta_request,
    decode_delta_response,
    decode_sotw_request,
)
from masche.wire.framing import WireError
from masche.wire.types import SECRET

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = f"/{SERVICE}/DeltaAggregatedResources"

MAX_PENDING = 64
"""Responses that an Envoy may leave unanswered before the oldest is no longer waited for."""

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(slots=True, eq=False)
class Tenant:
    """One proxy behind the relay.

    ``upstream`` opens a stream to a control plane that knows this proxy, or returns None when there is none;
    ``admitted`` is set once Envoy may be told anything. ``wants`` is for a proxy that serves several (``offline``).
    """

    proxy: str
    shelf: Shelf
    last_good: LastGood
    upstream: Callable[[], Upstream | None]
    wants: Wants | None = None
    admitted: asyncio.Event = field(default_factory=asyncio.Event)
    is_online: bool = False
    rejections: dict[str, str] = field(default_factory=dict[str, str])
    sessions: set["_Session | Courier"] = field(default_factory=lambda: set[_Session | Courier]())  # noqa: PLW0108 - defined below

    def turn(self) -> None:
        """End its streams, so that Envoy returns and is told by whoever is there now; what it refused, once more."""
        self.rejections.clear()
        for session in self.sessions:
            session.over.set()

    def retire(self) -> None:
        """Tell those that are here nothing more, and let them stay: a successor comes, and is told instead."""
        for session in self.sessions:
            if isinstance(session, _Session):
                session.retire()

    def note(self, request: DeltaRequest | SotwRequest) -> None:
        """Remember what it refuses of each type, until it takes something."""
        if request.error_code:
            self.rejections[request.type_url] = request.error_message
        elif request.nonce:
            self.rejections.pop(request.type_url, None)

    def told(self, is_told: bool) -> None:
        """Hear whether a control plane tells it what to hold."""
        self.is_online = is_told


class Relay:
    """The gRPC server that all Envoys of the machine use."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._tenants: dict[str, Tenant] = {}
        self._server: Any = None  # the stubs of grpc.aio leave the parameters of their generics open

    def __repr__(self) -> str:
        return f"<Relay {self._socket}: {', '.join(sorted(self._tenants)) or 'nobody'}>"

    def admit(self, tenant: Tenant) -> None:
        """From now on serve this proxy."""
        self._tenants[tenant.proxy] = tenant

    def dismiss(self, proxy: str) -> None:
        """Stop serving this proxy."""
        if tenant := self._tenants.pop(proxy, None):
            tenant.turn()

    async def start(self) -> None:
        """Listen, for this user alone."""
        library: Any = grpc  # as above
        self._server = library.aio.server(options=OPTIONS)
        methods = {
            "DeltaAggregatedResources": library.stream_stream_rpc_method_handler(self._serve),
            "StreamAggregatedResources": library.stream_stream_rpc_method_handler(self._pass_on),
        }
        self._server.add_generic_rpc_handlers((library.method_handlers_generic_handler(SERVICE, methods),))
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()
        self._socket.chmod(0o600)

    async def stop(self) -> None:
        """End every stream; Envoys keep what they hold."""
        if self._server:
            await self._server.stop(grace=None)

    async def _serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        if (raw := await _first(requests)) is not None:
            tenant = await self._admitted(raw, decode_delta_request, context)
            await _held(tenant, _Session(tenant, requests, context.write), raw)

    async def _pass_on(self, requests: AsyncIterator[bytes], context: Context) -> None:
        if (raw := await _first(requests)) is not None:
            tenant = await self._admitted(raw, decode_sotw_request, context)
            courier = Courier(
                requests, context.write, open_upstream=tenant.upstream, note=tenant.note, told=tenant.told
            )
            await _held(tenant, courier, raw)

    async def _admitted(
        self, raw: bytes, decode: Callable[[bytes], DeltaRequest | SotwRequest], context: Context
    ) -> Tenant:
        """Whose first request this is, once it may be told anything."""
        try:
            first = decode(raw)
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        tenant = self._tenants.get(first.node_id)
        if tenant is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no proxy {first.node_id} has a seat here")
        await tenant.admitted.wait()
        return tenant


async def _first(requests: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(requests)
    except StopAsyncIteration:
        return None


async def _held(tenant: Tenant, session: "_Session | Courier", first: bytes) -> None:
    """Run one stream as its tenant's."""
    tenant.sessions.add(session)
    try:
        await session.run(first)
    finally:
        tenant.sessions.discard(session)


class _Session:
    """One stream of one Envoy."""

    def __init__(
        self, tenant: Tenant, requests: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self.over = asyncio.Event()
        self._tenant = tenant
        self._requests = requests
        self._write_raw = write
        self._writing = asyncio.Lock()
        self._sds = Sds(tenant.shelf)
        self._offline = Offline(tenant.last_good, tenant.wants)
        self._pending: dict[str, DeltaResponse] = {}
        self._node = b""
        self._upstream: Upstream | None = None
        self._is_retired = False

    def retire(self) -> None:
        """Say nothing more; secrets are still given, as calls go on."""
        self._is_retired = True
        if self._upstream:
            self._upstream.cancel()

    async def run(self, first: bytes) -> None:
        """Serve until Envoy leaves, the upstream ends, or the mode must change."""
        self._node = _node_field(first)
        self._upstream = self._tenant.upstream()
        self._tenant.is_online = self._upstream is not None
        changed = asyncio.Event()
        unwatch = self._tenant.shelf.watch(changed.set)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._from_envoy(first))
                group.create_task(self._secrets(changed))
                group.create_task(self._until_over())
                if self._upstream:
                    group.create_task(self._from_upstream(self._upstream))
        except* (OverError, WireError, grpc.aio.AioRpcError, grpc.aio.UsageError):
            pass  # whatever ended it, Envoy reconnects and says what it holds
        finally:
            unwatch()
            if not self._is_retired:
                self._tenant.is_online = False
            if self._upstream:
                self._upstream.cancel()

    async def _until_over(self) -> None:
        await self.over.wait()
        raise OverError

    async def _from_envoy(self, first: bytes) -> None:
        await self._take(first)
        async for raw in self._requests:
            await self._take(raw)
        raise OverError

    async def _take(self, raw: bytes) -> None:
        try:
            request = decode_delta_request(raw)
        except WireError as error:
            raise OverError from error
        if request.type_url == SECRET:
            self._sds.read(request)
            self._tenant.note(request)
            await self._write(self._sds.answer())
        elif self._is_retired:
            return
        elif self._upstream:
            self._settle(request)
            with ending():
                await self._upstream.write(self._with_node(raw, request))
        else:
            await self._write(self._offline.answer(request))

    def _with_node(self, raw: bytes, request: DeltaRequest) -> bytes:
        """Envoy names its node once per stream; when that was in a request for secrets, we must say it upstream.

        Fields of a message may come in any order and any number of pieces, so putting one in front is a valid message.
        """
        node, self._node = self._node, b""
        return raw if request.node_id else node + raw

    def _settle(self, request: DeltaRequest) -> None:
        """Keep what Envoy acknowledges here; what it rejects stays as it was before."""
        self._tenant.last_good.let_go(request.type_url, request.unsubscribe)
        response = self._pending.pop(request.nonce, None)
        if response is None:
            return
        self._tenant.note(request)
        if not request.error_code:
            self._tenant.last_good.keep(response)

    async def _from_upstream(self, upstream: Upstream) -> None:
        while True:
            try:
                with ending():
                    raw: Any = await upstream.read()
            except OverError:
                if self._is_retired:
                    return
                raise
            if not isinstance(raw, bytes):
                raise OverError  # grpc's end of the stream
            response = decode_delta_response(raw)
            if response.type_url == SECRET:
                continue  # secrets are made here; nobody on a network may hand one in
            self._pending[response.nonce] = response
            if len(self._pending) > MAX_PENDING:
                del self._pending[next(iter(self._pending))]
            await self._write(raw)

    async def _secrets(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            await self._write(self._sds.answer())

    async def _write(self, raw: bytes | None) -> None:
        if raw is not None:
            async with self._writing:
                await self._write_raw(raw)


def _node_field(raw: bytes) -> bytes:
    """The encoded ``node`` of a request (field 1), tag and length included."""
    return b"".join(raw[part.start : part.end] for part in framing.fields(raw) if part.number == 1)
