"""The control plane's side of the link: from raw gRPC calls to a LinkService, with the caller's identity proved.

Two sets of handlers stand on two listeners. ``handlers`` (Register, SignCsr, Report) belongs on a port that requires a
client certificate, or on the Unix socket of the control plane's own machine. ``joining_handlers`` (Join, Renew) belongs
on a port of its own without client certificates: gRPC for Python can either require them or not ask for them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeAlias, assert_never, cast

import grpc
import grpc.aio
import msgspec

from masche.identity.spiffe import Machine, SpiffeError, SpiffeId
from masche.link import messages
from masche.link.calls import ADMITTED, JOINING, SERVICE
from masche.link.messages import (
    FromAgent,
    FromControl,
    JoinReply,
    JoinRequest,
    MessageError,
    RenewRequest,
    Report,
    ReportReply,
    SignReply,
    SignRequest,
)
from masche.link.refusal import RefusedError
from masche.model.frozen import frozen


@frozen
class Peer:
    """Who calls. ``machine`` is the id in the client certificate, or None for this machine's own Unix socket.

    The socket has mode 0600 in a folder of mode 0700, so that whoever can open it has our uid or is root: possession of
    the connection stands in for SO_PEERCRED, which gRPC does not show. ``address`` is gRPC's text for logs.
    """

    machine: str | None
    serial: str = ""
    address: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the caller proved itself by opening the Unix socket."""
        return self.machine is None


class LinkService(Protocol):
    """What a control plane does with the link. Each method may raise RefusedError."""

    def admit(self, peer: Peer) -> None:
        """Raise RefusedError when this machine credential is revoked; called before anything of a call is read."""
        ...

    def register(self, peer: Peer, incoming: AsyncIterator[FromAgent]) -> AsyncIterator[FromControl]:
        """One Register stream: its life is the lease. Ends when ``incoming`` does, or to send the agent away."""
        ...

    async def sign(self, peer: Peer, request: SignRequest) -> SignReply:
        """Sign for a workload that this machine has registered."""
        ...

    async def report(self, peer: Peer, report: Report) -> ReportReply:
        """Count one Report; one with a sequence already counted is only answered."""
        ...


class JoiningService(Protocol):
    """What a control plane does for machines that have no valid certificate. Each method may raise RefusedError."""

    async def join(self, source: str, request: JoinRequest) -> JoinReply:
        """Spend a token; ``source`` is the address that asks, for the rate limit."""
        ...

    async def renew(self, source: str, request: RenewRequest) -> JoinReply:
        """Give a new machine credential for an old one."""
        ...


Handlers: TypeAlias = "grpc.GenericRpcHandler"
Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


def handlers(service: LinkService, *, trust_domain: Callable[[], str]) -> Handlers:
    """Register, SignCsr and Report, for a port that requires client certificates and for the Unix socket."""
    calls = _Calls(service, trust_domain)
    return _handlers(SERVICE, Register=_stream(calls.register), SignCsr=_unary(calls.sign), Report=_unary(calls.report))


def joining_handlers(service: JoiningService) -> Handlers:
    """Join and Renew, for the port without client certificates."""
    calls = _JoiningCalls(service)
    return _handlers(JOINING, Join=_unary(calls.join), Renew=_unary(calls.renew))


def _handlers(name: str, **methods: Method) -> Handlers:
    return grpc.method_handlers_generic_handler(name, methods)  # pyright: ignore[reportUnknownMemberType] - grpc's stubs leave it untyped


def _unary(behaviour: "Callable[[bytes, Context], Awaitable[bytes]]") -> Method:
    return cast("Method", grpc.unary_unary_rpc_method_handler(behaviour))  # pyright: ignore[reportUnknownMemberType] - grpc's stubs leave it untyped


def _stream(behaviour: "Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]") -> Method:
    return cast("Method", grpc.stream_stream_rpc_method_handler(behaviour))  # pyright: ignore[reportUnknownMemberType] - as above


Context = grpc.aio.ServicerContext[bytes, bytes]


def peer_of(context: Context, trust_domain: str) -> Peer:
    """Who is behind a call: a machine of ``trust_domain`` by its certificate, or this machine by the Unix socket.

    Raises RefusedError for anything else: no certificate on a TCP port, another trust domain, a workload's certificate.
    """
    address = context.peer() or ""
    found = context.auth_context().get("peer_spiffe_id", ())
    if not found:
        if address.startswith("unix:"):
            return Peer(machine=None, address=address)
        raise RefusedError("no client certificate with a SPIFFE ID", fix="join this machine with `masche join`")
    return Peer(machine=_machine(found, trust_domain), address=address)


def _machine(found: Any, trust_domain: str) -> str:
    """ "An X.509 SVID MUST contain exactly one URI SAN": gRPC gives an ID only then, and we look again."""
    try:
        [raw] = found
        spiffe_id = SpiffeId.parse(raw.decode())
    except (ValueError, SpiffeError) as error:
        raise RefusedError(f"the client certificate has no single valid SPIFFE ID: {error}") from error
    if spiffe_id.trust_domain != trust_domain:
        raise RefusedError(f"{spiffe_id} is not of the trust domain {trust_domain}")
    if not isinstance(role := spiffe_id.role, Machine):
        raise RefusedError(f"{spiffe_id} is not a machine", fix="use the agent's machine credential for the link")
    return role.id


class _Calls:
    """The three authenticated calls as gRPC makes them."""

    def __init__(self, service: LinkService, trust_domain: Callable[[], str]) -> None:
        self._service = service
        self._trust_domain = trust_domain

    async def register(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            peer = self._admit(context)
            await context.send_initial_metadata(ADMITTED)
            async for message in self._service.register(peer, _known(requests)):
                yield messages.encode(message)
        except (RefusedError, MessageError) as error:
            await _abort(context, error)

    async def sign(self, data: bytes, context: Context) -> bytes:
        async def act() -> SignReply:
            peer = self._admit(context)
            return await self._service.sign(peer, messages.decode(data, SignRequest))

        return await _answer(context, act)

    async def report(self, data: bytes, context: Context) -> bytes:
        async def act() -> ReportReply:
            peer = self._admit(context)
            return await self._service.report(peer, messages.decode(data, Report))

        return await _answer(context, act)

    def _admit(self, context: Context) -> Peer:
        peer = peer_of(context, self._trust_domain())
        self._service.admit(peer)
        return peer


class _JoiningCalls:
    """The two calls for machines without a certificate; nothing longer than MAX_JOIN_BYTES is read."""

    def __init__(self, service: JoiningService) -> None:
        self._service = service

    async def join(self, data: bytes, context: Context) -> bytes:
        async def act() -> JoinReply:
            request = messages.decode(data, JoinRequest, limit=messages.MAX_JOIN_BYTES)
            return await self._service.join(_source(context), request)

        return await _answer(context, act)

    async def renew(self, data: bytes, context: Context) -> bytes:
        async def act() -> JoinReply:
            request = messages.decode(data, RenewRequest, limit=messages.MAX_JOIN_BYTES)
            return await self._service.renew(_source(context), request)

        return await _answer(context, act)


async def _known(requests: AsyncIterator[bytes]) -> AsyncIterator[FromAgent]:
    """The messages of a stream without the kinds that only a newer agent knows."""
    async for data in requests:
        if (message := messages.from_agent(data)) is not None:
            yield message


async def _answer(context: Context, act: Callable[[], Awaitable[msgspec.Struct]]) -> bytes:
    try:
        return messages.encode(await act())
    except (RefusedError, MessageError) as error:
        return await _abort(context, error)


async def _abort(context: Context, error: RefusedError | MessageError) -> NoReturn:
    """End the call: the detail's first line says why, what follows is the fix."""
    match error:
        case RefusedError():
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{error.why}\n{error.fix}".rstrip())
        case MessageError():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        case _:
            assert_never(error)


def _source(context: Context) -> str:
    """The caller's address without its port, which changes with every connection."""
    return (context.peer() or "").rpartition(":")[0]
