"""The door in front of a grpcio server: every call is judged before its handler, in sync and in asyncio servers alike.

What gRPC does not show a handler, its door asks of no call (``grpc_seen``). Invariant: each call is ended
exactly once, and one whose method does not exist is judged all the same.
"""

import hashlib
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

import grpc
import grpc.aio

from masche.library import peer as peers
from masche.library.core import context as contexts
from masche.library.core import trace
from masche.library.core.outcomes import GRPC_AS_HTTP
from masche.library.inbound.deciding import Answer, Shown
from masche.library.inbound.door import Door, Passage
from masche.library.peer import Peer
from masche.model.frozen import frozen
from masche.traffic.deadline import SHORTEST, Deadline
from masche.traffic.request import Connection, Headers, Request

_UNKNOWN_HOST: Final = "unknown.invalid"
"""The host of every call: gRPC for Python does not say which one was asked for."""

_CODES: Final = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
"""gRPC, "HTTP to gRPC Status Code Mapping"; but 429, which only limits answer, is said as they are told to."""
_UNIMPLEMENTED: Final = "Method not found!"


# --------------------------------------------------------------------------------------------- what is known of a call


@lru_cache(maxsize=4096)
def _fingerprint(pem: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()


def shown_by(context: Any, local: str) -> Shown | None:
    """Say what the caller proved: exactly one SPIFFE ID, under roots that were checked in the handshake."""
    proved: Mapping[str, Iterable[bytes]] = context.auth_context() or {}
    ids, pems = tuple(proved.get("peer_spiffe_id", ())), tuple(proved.get("x509_pem_cert", ()))
    if len(ids) != 1 or len(pems) != 1:
        return None
    return Shown(peer=ids[0].decode(), certificate=_fingerprint(pems[0]), local=local)


def request_of(method: str, metadata: Any, context: Any, port: int, shown: Shown | None) -> Request:
    """Read a call as the request that it is."""
    texts = ((key, value) for key, value in metadata or () if isinstance(value, str))
    connection = Connection(
        peer=shown.peer.removeprefix("spiffe://") if shown else None, source_ip=_address(context.peer()), port=port
    )
    return Request(
        method="POST",
        target=method,
        authority=_UNKNOWN_HOST,
        scheme="https" if shown else "http",
        headers=tuple(texts),
        connection=connection,
    )


def _address(peer: str) -> str:
    """``ipv4:127.0.0.1:1234``, ``ipv6:%5B::1%5D:1234``."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else ""


@frozen(kw_only=False)
class Refusal:
    """The mesh's own answer, in gRPC's words."""

    code: grpc.StatusCode
    details: str
    trailers: Headers

    @classmethod
    def of(cls, answer: Answer) -> "Refusal":
        """Read what would be said to a caller over HTTP."""
        kept = tuple(pair for pair in answer.headers if pair[0] != "content-type")
        return cls(_CODES.get(answer.status, grpc.StatusCode.UNKNOWN), answer.body.decode() or answer.why, kept)


# ------------------------------------------------------------------------------------------------------------ one call


class Judge:
    """Lets calls of one server in, or answers them. ``local`` says who we are."""

    def __init__(self, door: Door, local: Callable[[], str]) -> None:
        self._door = door
        self._local = local

    def __repr__(self) -> str:
        return f"<Judge {self._door!r}>"

    def enter(self, method: str, metadata: Any, context: Any) -> "Passage | Refusal":
        """Let a call pass, or say how it is answered."""
        shown = shown_by(context, self._local())
        if shown and (refused := _stranger(shown)):
            return refused
        entered = self._door.enter(request_of(method, metadata, context, self._door.port, shown), shown)
        return Refusal.of(entered) if isinstance(entered, Answer) else entered


def _stranger(shown: Shown) -> Refusal | None:
    """gRPC checks the roots of a certificate and no name in it: who is of another trust domain, it lets in.

    In Envoy and in our own TLS the handshake ends there. Without a certificate of our own nobody is one of us.
    """
    theirs, ours = (each.removeprefix("spiffe://").partition("/")[0] for each in (shown.peer, shown.local))
    if theirs == ours:
        return None
    why = f"{theirs or 'the caller'} is not the trust domain of this server"
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, why, ())


@contextmanager
def _within(passage: Passage, context: Any) -> Generator[None]:
    """What the application finds around a call, and its end."""
    caller = Peer.of(passage.shown.peer) if passage.shown else None
    is_broken = True
    try:
        with (
            peers.calling(caller),
            trace.within(trace.of(passage.request.headers)),
            contexts.until(_deadline(passage, context)),
        ):
            yield
        is_broken = False
    finally:
        if not passage.status:
            passage.begin(_status(context.code(), is_broken=is_broken), ())
        passage.end(is_broken=is_broken)


def _deadline(passage: Passage, context: Any) -> Deadline:
    """Until when gRPC itself lets the call go on; it keeps the header that said so to itself."""
    left = context.time_remaining()
    return passage.deadline if left is None else passage.deadline.within(max(left, SHORTEST), now=passage.started)


def _status(code: Any, *, is_broken: bool) -> int:
    """As the HTTP status that a gRPC status stands for, by which calls are counted everywhere."""
    if code is None:
        return 500 if is_broken else 200
    number = code if isinstance(code, int) else code.value[0]
    return GRPC_AS_HTTP.get(str(number), 200)


def _service_time(passage: Passage) -> Headers:
    """What only a caller that proved who it is learns: how long the answer took us."""
    headers = passage.begin(200, ())
    passage.status = 0
    return headers


# --------------------------------------------------------------------------------------------------------- interceptors

_MAKERS: Final[dict[tuple[bool, bool], Any]] = {
    (False, False): getattr(grpc, "unary_unary_rpc_method_handler"),  # noqa: B009 - its published stub is partly unknown
    (False, True): getattr(grpc, "unary_stream_rpc_method_handler"),  # noqa: B009 - as above
    (True, False): getattr(grpc, "stream_unary_rpc_method_handler"),  # noqa: B009 - as above
    (True, True): getattr(grpc, "stream_stream_rpc_method_handler"),  # noqa: B009 - as above
}


def _remade(handler: Any, made: Callable[[Any], Any], streaming: Callable[[Any], Any], missing: Any) -> Any:
    """The same handler with its behaviour wrapped; where there is none, one that judges and then says so."""
    if handler is None:
        return _MAKERS[True, True](missing)
    inner = next(
        each
        for each in (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
        if each is not None
    )
    wrap = streaming if handler.response_streaming else made
    return _MAKERS[handler.request_streaming, handler.response_streaming](
        wrap(inner),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


class Interceptor(grpc.ServerInterceptor):
    """For ``grpc.server(..., interceptors=[...])``."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return a handler that judges first."""
        judged = _Judged(self._judge, handler_call_details.method, handler_call_details.invocation_metadata)
        return _remade(continuation(handler_call_details), judged.unary, judged.streaming, judged.missing)


@frozen(kw_only=False)
class _Judged:
    """One call of a synchronous server, whatever its kind."""

    judge: Judge
    method: str
    metadata: Any

    def unary(self, inner: Any) -> Any:
        def behaviour(request: Any, context: Any) -> Any:
            passage = self._entered(context)
            with _within(passage, context):
                answer = inner(request, context)
                _tell(context, passage)
                return answer

        return behaviour

    def streaming(self, inner: Any) -> Any:
        def behaviour(request: Any, context: Any) -> Iterator[Any]:
            passage = self._entered(context)
            with _within(passage, context):
                yield from inner(request, context)

        return behaviour

    def missing(self, _requests: Any, context: Any) -> Iterator[Any]:
        passage = self._entered(context)
        with _within(passage, context):
            context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNIMPLEMENTED)
            yield from ()

    def _entered(self, context: Any) -> Passage:
        found = self.judge.enter(self.method, self.metadata, context)
        if isinstance(found, Passage):
            return found
        context.set_trailing_metadata(found.trailers)
        context.abort(found.code, found.details)
        raise AssertionError("abort raises")


def _tell(context: Any, passage: Passage) -> None:
    """The caller's proxy reads in the head of an answer how long we took; who sent a head already says nothing."""
    if passage.shown:
        with suppress(ValueError):
            context.send_initial_metadata(_service_time(passage))


class AioInterceptor(grpc.aio.ServerInterceptor):
    """For ``grpc.aio.server(interceptors=[...])``; handlers are coroutines, or asynchronous generators."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return a handler that judges first."""
        judged = _AioJudged(self._judge, handler_call_details.method, handler_call_details.invocation_metadata)
        return _remade(await continuation(handler_call_details), judged.unary, judged.streaming, judged.missing)


@frozen(kw_only=False)
class _AioJudged:
    """One call of an asyncio server, whatever its kind."""

    judge: Judge
    method: str
    metadata: Any

    def unary(self, inner: Any) -> Any:
        async def behaviour(request: Any, context: Any) -> Any:
            passage = await self._entered(context)
            with _within(passage, context):
                answer = await inner(request, context)
                if passage.shown:
                    with suppress(grpc.aio.UsageError):
                        await context.send_initial_metadata(_service_time(passage))
                return answer

        return behaviour

    def streaming(self, inner: Any) -> Any:
        async def behaviour(request: Any, context: Any) -> AsyncIterator[Any]:
            passage = await self._entered(context)
            with _within(passage, context):
                answers = inner(request, context)
                if inspect.isawaitable(answers):  # it writes by its context
                    await answers
                    return
                async for each in answers:
                    yield each

        return behaviour

    async def missing(self, _requests: Any, context: Any) -> AsyncIterator[Any]:
        passage = await self._entered(context)
        with _within(passage, context):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNIMPLEMENTED)
            yield b""

    async def _entered(self, context: Any) -> Passage:
        found = self.judge.enter(self.method, self.metadata, context)
        if isinstance(found, Passage):
            return found
        await context.abort(found.code, found.details, found.trailers)
        raise AssertionError("abort raises")
