"""An in-process control plane for the link: records what it hears, says what it is told to say."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc.aio

from masche.identity import keys, tls, transport
from masche.identity.admission import Admission
from masche.identity.authority import Authority, Issued
from masche.identity.bundle import TrustBundle
from masche.identity.credential import CredentialError, Machines
from masche.identity.csr import CsrError
from masche.identity.join import JoinError, Tokens
from masche.identity.keys import PrivateKey
from masche.identity.presented import Presented
from masche.identity.spiffe import SpiffeId
from masche.link import messages, service
from masche.link.client import LinkClient
from masche.link.messages import (
    Accepted,
    FromAgent,
    FromControl,
    Hello,
    JoinReply,
    JoinRequest,
    Occupant,
    ProxyState,
    RenewRequest,
    Report,
    ReportReply,
    Roots,
    Scope,
    ScopeService,
    SignReply,
    SignRequest,
)
from masche.link.refusal import RefusedError
from masche.link.service import Peer
from masche.model.refs import Name, PortRef
from masche.model.vantage import Placement, Seat
from masche.model.view import Protocol
from masche.testing.records import MemoryRecords

DOMAIN = "mesh.local"


class Plane:
    """A LinkService and a JoiningService."""

    def __init__(self, authority: Authority) -> None:
        records = MemoryRecords()
        self.authority = authority
        self.tokens = Tokens(records)
        self.machines = Machines(records, authority)
        self.admission = Admission(self.tokens, self.machines, DOMAIN)
        self.heard: list[tuple[Peer, FromAgent]] = []
        self.reports: list[Report] = []
        self.streams = 0
        self.outgoing: asyncio.Queue[FromControl | None] = asyncio.Queue()

    def admit(self, peer: Peer) -> None:
        if peer.machine in self.machines.revoked:
            raise RefusedError(f"the machine {peer.machine} is revoked", fix="join it again")

    async def register(self, peer: Peer, incoming: AsyncIterator[FromAgent]) -> AsyncIterator[FromControl]:
        self.streams += 1
        listener = asyncio.ensure_future(self._listen(peer, incoming))
        try:
            yield Roots(trust_domain=DOMAIN, roots=self.authority.bundle.pem)
            while (message := await self.outgoing.get()) is not None:
                yield message
        finally:
            listener.cancel()

    async def _listen(self, peer: Peer, incoming: AsyncIterator[FromAgent]) -> None:
        async for message in incoming:
            self.heard.append((peer, message))
            if isinstance(message, ProxyState):
                self.outgoing.put_nowait(Accepted(proxy=message.proxy))
        self.outgoing.put_nowait(None)

    async def sign(self, peer: Peer, request: SignRequest) -> SignReply:
        identity = SpiffeId.of_workload(DOMAIN, request.workload.namespace, request.workload.name)
        try:
            issued = self.authority.sign(request.csr, identity, now=time.time())
        except CsrError as error:
            raise RefusedError(str(error)) from error
        return SignReply(
            chain=issued.chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            lifetime=issued.lifetime,
            bundle=self.roots,
        )

    async def report(self, peer: Peer, report: Report) -> ReportReply:
        self.reports.append(report)
        return ReportReply(sequence=report.sequence)

    async def join(self, source: str, request: JoinRequest) -> JoinReply:
        try:
            machine, issued = await self.admission.join(
                source,
                token=request.token,
                name=request.machine,
                request=request.csr,
                now=time.time(),
                clock=time.monotonic(),
            )
        except (JoinError, CsrError, CredentialError) as error:
            raise RefusedError(str(error), fix="ask for a new token") from error
        return self._credential(machine, issued)

    async def renew(self, source: str, request: RenewRequest) -> JoinReply:
        try:
            machine, issued = await self.admission.renew(
                source,
                chain=request.chain,
                request=request.csr,
                proof=request.proof,
                now=time.time(),
                clock=time.monotonic(),
            )
        except (CsrError, CredentialError) as error:
            raise RefusedError(str(error)) from error
        return self._credential(machine, issued)

    def _credential(self, machine: str, issued: Issued) -> JoinReply:
        return JoinReply(
            machine=machine,
            chain=issued.chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            lifetime=issued.lifetime,
            bundle=self.roots,
        )

    @property
    def roots(self) -> Roots:
        return Roots(trust_domain=DOMAIN, roots=self.authority.bundle.pem)

    def states(self) -> list[ProxyState]:
        return [message for _, message in self.heard if isinstance(message, ProxyState)]


def proxy(name: str, app: str = "orders") -> ProxyState:
    seat = Seat(workload=Name("shop", app), bind="127.0.0.1")
    return ProxyState(proxy=name, placement=Placement.SIDECAR, occupants=(Occupant(seat=seat, service_account=app),))


def scope(name: str) -> Scope:
    carts = ScopeService(port=PortRef("shop", "carts", 80), protocol=Protocol.HTTP, hosts=("carts",))
    return Scope(proxy=name, workload=Name("shop", "orders"), services=(carts,))


def hello(machine: str = "m1") -> Hello:
    return Hello(machine=machine, agent_version="0.1.0")


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        await asyncio.sleep(0.01)


async def serve(plane: Plane, address: str) -> grpc.aio.Server:
    """A control plane on a Unix socket."""
    server = grpc.aio.server(options=transport.server(max_receive_bytes=messages.MAX_MESSAGE_BYTES))
    server.add_generic_rpc_handlers((service.handlers(plane, trust_domain=lambda: DOMAIN),))
    assert server.add_insecure_port(address)
    await server.start()
    return server


class Mutual:
    """A control plane with its two TLS servers; ``certify`` changes what it presents."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.presented = self.certify()
        self.link = grpc.aio.server(options=transport.server(max_receive_bytes=messages.MAX_MESSAGE_BYTES))
        self.link.add_generic_rpc_handlers((service.handlers(plane, trust_domain=lambda: DOMAIN),))
        self.port = self.link.add_secure_port("127.0.0.1:0", tls.mutual_server_credentials(lambda: self.presented))
        self.joining = grpc.aio.server(options=transport.door(max_receive_bytes=messages.MAX_JOIN_BYTES))
        self.joining.add_generic_rpc_handlers((service.joining_handlers(plane),))
        self.joining_port = self.joining.add_secure_port(
            "127.0.0.1:0", tls.joining_server_credentials(lambda: self.presented)
        )

    def certify(self) -> Presented:
        key = keys.generate()
        issued = self.plane.authority.sign_control_plane(keys.signing_request(key), ["localhost"], now=time.time())
        self.presented = Presented(chain=issued.chain, key=keys.private_pem(key), roots=self.plane.authority.bundle.pem)
        return self.presented

    def presented_by(self, key: PrivateKey, chain: str, bundle: TrustBundle) -> Presented:
        return Presented(chain=chain, key=keys.private_pem(key), roots=bundle.pem)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


async def connected(client: LinkClient) -> None:
    """Wait until a control plane has taken the client."""
    await until(lambda: client.is_connected, "connection")
