"""The aggregated discovery service over gRPC: reads requests, lets a pure stream decide, writes what it decided.

One writer per stream; a request is read only after all that was decided before it is written, so a proxy that does not
read cannot make us remember. Invariant: bytes of resources are joined here and never encoded.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import grpc
import grpc.aio

from masche.identity.spiffe import SpiffeError, SpiffeId
from masche.model.frozen import frozen
from masche.model.ports import Now
from masche.wire import discovery
from masche.wire.discovery import DeltaRequest, SotwRequest
from masche.wire.framing import WireError, sotw_frame
from masche.xds.limits import Limits
from masche.xds.sotw import SotwStream
from masche.xds.stream import Stream
from masche.xds.verdict import Decision, Rejection, Send, TypeStatus
from masche.xds.wanted import Wanted

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
FIRST_REQUEST_TIMEOUT = 10.0

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
"""A call with bytes in and bytes out."""

Handlers: TypeAlias = "grpc.GenericRpcHandler"

# The published stubs of grpcio leave the parameters of these two generic functions unknown.
_stream_stream = cast("Callable[[object], grpc.RpcMethodHandler[Any, Any]]", grpc.stream_stream_rpc_method_handler)  # pyright: ignore[reportUnknownMemberType] - see above
_generic_handler = cast("Callable[[str, object], Handlers]", grpc.method_handlers_generic_handler)  # pyright: ignore[reportUnknownMemberType] - see above


class RefusedError(Exception):
    """This peer may not be this proxy. The text says why and is told to the peer."""


@frozen
class Peer:
    """Who is at the other end. ``is_local``: on the Unix socket that only this user can open; then there is no ID."""

    spiffe_id: SpiffeId | None
    is_local: bool
    address: str


class Conversation(Protocol):
    """One stream of either kind, as whoever owns its proxy may look at it."""

    def is_live(self, wanted: Wanted) -> bool:
        """Whether the proxy acknowledged all of ``wanted`` that it subscribed to, and holds nothing else."""
        ...

    def status(self) -> Sequence[TypeStatus]:
        """Say how far each type is."""
        ...


class Proxy(Protocol):
    """One admitted stream, as the owner of the configuration sees it. All calls come from the event loop."""

    def wanted(self) -> Wanted | None:
        """Return what the proxy should hold now; None while that is not known, and then nothing is sent.

        Raises RefusedError when it is not to be served any more: the stream then ends.
        """
        ...

    def progressed(self, rejected: Sequence[Rejection]) -> None:
        """Hear that the proxy answered something; ``rejected`` are resources that it refused just now."""
        ...

    def closed(self, why: str) -> None:
        """Hear that the stream has ended. The last call."""
        ...


class Provider(Protocol):
    """Who decides which proxies are served, and with what."""

    async def admit(self, peer: Peer, node_id: str, conversation: Conversation, wake: Callable[[], None]) -> Proxy:
        """Admit a stream, or raise RefusedError.

        ``wake`` is to be called in the event loop whenever ``wanted`` may have a new answer; it costs nothing when it
        has none. ``conversation`` tells how far the proxy is, at any time until ``closed``.
        """
        ...


class _Talk(Conversation, Protocol):
    """What the pure streams have in common beyond what their owner sees."""

    def request(self, request: Any, *, now: float) -> Decision: ...
    def want(self, wanted: Wanted, *, now: float) -> Decision: ...
    def tick(self, *, now: float) -> Decision: ...
    def next_deadline(self, *, now: float) -> float | None: ...


@frozen
class _Variant:
    """How one of the two protocols is read, decided and written."""

    decode: Callable[[bytes], DeltaRequest | SotwRequest]
    start: Callable[..., _Talk]
    encode: Callable[[Send], bytes]


def _encode_delta(send: Send) -> bytes:
    frames = [blob.frame for blob in send.blobs]
    return discovery.encode_delta_response(send.type_url, send.nonce, frames, send.removed)


def _encode_sotw(send: Send) -> bytes:
    frames = [sotw_frame(blob) for blob in send.blobs]
    return discovery.encode_sotw_response(send.type_url, send.nonce, frames, send.version)


_DELTA = _Variant(decode=discovery.decode_delta_request, start=Stream, encode=_encode_delta)
_SOTW = _Variant(decode=discovery.decode_sotw_request, start=SotwStream, encode=_encode_sotw)


def handlers(provider: Provider, *, limits: Limits = Limits(), now: Now = time.monotonic) -> Handlers:  # noqa: B008 - frozen
    """Return the handlers of both variants of the service, to be added to any gRPC server."""

    def method(variant: _Variant) -> "grpc.RpcMethodHandler[Any, Any]":
        async def serve(_requests: object, context: Context) -> None:
            await _serve(provider, variant, context, limits=limits, now=now)

        return _stream_stream(serve)

    methods = {"DeltaAggregatedResources": method(_DELTA), "StreamAggregatedResources": method(_SOTW)}
    return _generic_handler(SERVICE, methods)


class _End(Exception):  # noqa: N818 - it ends a stream, by whoever's fault
    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


async def _serve(provider: Provider, variant: _Variant, context: Context, *, limits: Limits, now: Now) -> None:
    try:
        first = await _first(variant, context)
        session = _Session(variant, context, talk=variant.start(now=now(), limits=limits), now=now)
        proxy = await provider.admit(_peer(context), first.node_id, session.talk, session.wake)
    except _End as end:
        await context.abort(end.code, end.why)
    except RefusedError as refusal:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(refusal))
    else:
        await _converse(session, proxy, first, context)


async def _converse(session: "_Session", proxy: Proxy, first: DeltaRequest | SotwRequest, context: Context) -> None:
    end: _End | None = None
    why = "the proxy went away"
    try:
        await session.run(proxy, first)
    except* _End as ends:
        end = next(found for found in ends.exceptions if isinstance(found, _End))
        why = end.why
    except* RefusedError as refusals:
        why = str(refusals.exceptions[0])
        end = _End(grpc.StatusCode.PERMISSION_DENIED, why)
    except* grpc.aio.BaseError as errors:
        why = f"the connection failed: {errors.exceptions[0]}"
    finally:
        proxy.closed(why)
    if end:
        await context.abort(end.code, end.why)


async def _first(variant: _Variant, context: Context) -> DeltaRequest | SotwRequest:
    """Read the first request, the only one that needs to carry the node."""
    try:
        async with asyncio.timeout(FIRST_REQUEST_TIMEOUT):
            data = await _read(context)
    except TimeoutError:
        raise _End(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came") from None
    if data is None:
        raise _End(grpc.StatusCode.CANCELLED, "the stream was closed before its first request")
    request = _decoded(variant, data)
    if not request.node_id:
        raise _End(grpc.StatusCode.INVALID_ARGUMENT, "node.id is required in the first request of a stream")
    return request


async def _read(context: Context) -> bytes | None:
    """Return the next message, or None at the end of the stream, for which gRPC has an object of its own."""
    data = cast("object", await context.read())
    return data if isinstance(data, bytes) else None


def _decoded(variant: _Variant, data: bytes) -> DeltaRequest | SotwRequest:
    try:
        return variant.decode(data)
    except WireError as error:
        raise _End(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error


def _peer(context: Context) -> Peer:
    """Tell who called. gRPC verified the chain; what it found in the certificate must be exactly one SPIFFE ID."""
    address = context.peer()
    ids = list((context.auth_context() or {}).get("peer_spiffe_id", ()))
    if address.startswith("unix:"):
        return Peer(spiffe_id=None, is_local=True, address=address)
    if len(ids) != 1:
        raise _End(grpc.StatusCode.UNAUTHENTICATED, "a client certificate with exactly one SPIFFE ID is required")
    try:
        return Peer(spiffe_id=SpiffeId.parse(ids[0].decode()), is_local=False, address=address)
    except (SpiffeError, UnicodeDecodeError) as error:
        raise _End(grpc.StatusCode.UNAUTHENTICATED, f"the client certificate's SPIFFE ID: {error}") from error


class _Session:
    """One call: a reader, a writer, and what is decided and not yet written (at most one response per type)."""

    def __init__(self, variant: _Variant, context: Context, *, talk: _Talk, now: Now) -> None:
        self.talk = talk
        self._variant, self._context, self._now = variant, context, now
        self._outbox: deque[Send] = deque()
        self._awake = asyncio.Event()
        self._written = asyncio.Event()
        self._wanted: Wanted | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Let the writer look whether something else is wanted now."""
        self._awake.set()

    async def run(self, proxy: Proxy, first: DeltaRequest | SotwRequest) -> None:
        """Serve until the proxy leaves; raise _End when the stream must end, in an exception group."""
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(proxy))
                await self._read(proxy, first)
                writer.cancel()
        finally:
            if self._alarm:
                self._alarm.cancel()

    async def _read(self, proxy: Proxy, request: DeltaRequest | SotwRequest) -> None:
        self.wake()
        while True:
            self._carry_out(self.talk.request(request, now=self._now()), proxy)
            if self._outbox:
                self._written.clear()
                self.wake()
                await self._written.wait()
            data = await _read(self._context)
            if data is None:
                return
            request = _decoded(self._variant, data)

    async def _write(self, proxy: Proxy) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            self._look(proxy)
            while self._outbox:
                await self._context.write(self._variant.encode(self._outbox.popleft()))
            self._written.set()

    def _look(self, proxy: Proxy) -> None:
        wanted = proxy.wanted()
        if wanted is None or wanted is self._wanted:
            decision = self.talk.tick(now=self._now())
        else:
            self._wanted = wanted
            decision = self.talk.want(wanted, now=self._now())
        self._carry_out(decision, proxy)

    def _carry_out(self, decision: Decision, proxy: Proxy) -> None:
        self._outbox.extend(decision.sends)
        if decision.has_settled:
            proxy.progressed(decision.rejected)
        if decision.violation:
            raise _End(grpc.StatusCode[decision.violation.blame.value], decision.violation.why)
        self._set_alarm()

    def _set_alarm(self) -> None:
        now = self._now()
        deadline = self.talk.next_deadline(now=now)
        if self._alarm:
            self._alarm.cancel()
        self._alarm = None
        if deadline is not None:
            self._alarm = asyncio.get_running_loop().call_later(deadline - now, self.wake)
