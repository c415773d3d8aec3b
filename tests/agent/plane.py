"""A small control plane for tests of the agent: the real link and xDS handlers, with configuration made by hand.

Every workload's ports are forwarded by TCP over mutual TLS; what it may call is said by ``services``. Everything that
the agent sends is recorded, byte for byte, before it is understood.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from masche.identity import transport
from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId
from masche.link import service
from masche.link.messages import (
    Accepted,
    Drained,
    FromAgent,
    FromControl,
    Hello,
    ProxyGone,
    ProxyState,
    Refused,
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
from masche.model.blob import Blob
from masche.model.refs import Name, PortRef
from masche.model.view import Protocol
from masche.wire import framing, types
from masche.wire.discovery import MAX_REQUEST_BYTES
from masche.wire.messages import encode
from masche.xds import listening, server
from masche.xds.verdict import Rejection
from masche.xds.wanted import Wanted

TRUST_DOMAIN = "mesh.local"
TLS = "envoy.extensions.transport_sockets.tls.v3."
TYPES = "type.googleapis.com/"


def reference(name: str, namespace: str = "shop") -> PortRef:
    return PortRef(namespace, name, 80)


class Plane:
    """The double. Change ``services``, then call ``changed``."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.socket = socket
        self.authority = Authority.open(folder, TRUST_DOMAIN, now=time.time(), audit=lambda _: None)
        self.states: dict[str, ProxyState] = {}
        self.history: list[FromAgent] = []
        self.reports: list[Report] = []
        self.services: tuple[PortRef, ...] = ()
        self.strangers: dict[str, list[tuple[str, int]]] = {}
        """Endpoints of a service that are nobody's here."""
        self.received: list[bytes] = []
        self.refusals: dict[str, str] = {}
        self.rejections: list[Rejection] = []
        self.conversations: dict[str, server.Conversation] = {}
        self.lifetime = 3600.0
        self.signed = 0
        self.confirms_drains = True
        self._boxes: list[asyncio.Queue[FromControl | None]] = []
        self._wakes: dict[object, Callable[[], None]] = {}
        self._server: Any = None

    async def start(self) -> None:
        options = transport.server(max_receive_bytes=MAX_REQUEST_BYTES)
        self._server = grpc.aio.server(interceptors=[_Recorder(self.received)], options=options)
        handlers = (service.handlers(self, trust_domain=lambda: TRUST_DOMAIN), server.handlers(_Provider(self)))
        self._server.add_generic_rpc_handlers(handlers)
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        listening.bind_unix(self._server, self.socket)
        await self._server.start()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(grace=None)
            self._server = None
        self.states.clear()
        self._boxes.clear()

    # -- the link ---------------------------------------------------------------------------------------------------

    def admit(self, peer: Peer) -> None:
        assert peer.is_local

    async def register(self, peer: Peer, incoming: AsyncIterator[FromAgent]) -> AsyncIterator[FromControl]:
        box: asyncio.Queue[FromControl | None] = asyncio.Queue()
        self._boxes.append(box)
        reading = asyncio.create_task(self._read(incoming, box))
        try:
            while (message := await box.get()) is not None:
                yield message
        finally:
            reading.cancel()

    async def _read(self, incoming: AsyncIterator[FromAgent], box: "asyncio.Queue[FromControl | None]") -> None:
        said: set[str] = set()
        async for message in incoming:
            self.history.append(message)
            match message:
                case Hello():
                    box.put_nowait(self.roots())
                case ProxyState():
                    self._enrol(message, box, said)
                case ProxyGone(proxy=proxy):
                    self.states.pop(proxy, None)
                    said.discard(proxy)
                    self.changed()
                case _:
                    pass
        box.put_nowait(None)

    def _enrol(self, state: ProxyState, box: "asyncio.Queue[FromControl | None]", said: set[str]) -> None:
        occupant = state.occupants[0]
        if why := self.refusals.get(occupant.labels["app"]):
            box.put_nowait(Refused(proxy=state.proxy, why=why, fix="ask for it"))
            return
        self.states[state.proxy] = state
        if state.proxy not in said:
            said.add(state.proxy)
            box.put_nowait(Accepted(proxy=state.proxy))
            box.put_nowait(self.scope(state))
        if occupant.state.phase == "DRAINING" and self.confirms_drains:
            box.put_nowait(Drained(proxy=state.proxy))
        self.changed()

    def scope(self, state: ProxyState) -> Scope:
        services = tuple(
            ScopeService(port=port, protocol=Protocol.HTTP, name=port.service, hosts=(port.service,))
            for port in self.services
        )
        return Scope(proxy=state.proxy, workload=state.occupants[0].seat.workload, services=services)

    def say(self, message: FromControl) -> None:
        for box in self._boxes:
            box.put_nowait(message)

    def roots(self) -> Roots:
        return Roots(trust_domain=TRUST_DOMAIN, roots=self.authority.bundle.pem)

    async def sign(self, peer: Peer, request: SignRequest) -> SignReply:
        state = self.states.get(request.proxy)
        if state is None:
            raise RefusedError("not registered")
        identity = SpiffeId.of_workload(TRUST_DOMAIN, request.workload.namespace, state.occupants[0].service_account)
        issued = self.authority.sign(request.csr, identity, now=time.time(), lifetime=self.lifetime)
        self.signed += 1
        return SignReply(
            chain=issued.chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            lifetime=issued.lifetime,
            bundle=self.roots(),
        )

    async def report(self, peer: Peer, report: Report) -> ReportReply:
        self.reports.append(report)
        return ReportReply(sequence=report.sequence)

    # -- xDS --------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        for wake in tuple(self._wakes.values()):
            wake()

    def wanted(self, proxy: str) -> Wanted | None:
        state = self.states.get(proxy)
        return Wanted.of(self._blobs(state)) if state else None

    def _blobs(self, state: ProxyState) -> Sequence[Blob]:
        occupant = state.occupants[0]
        seat = occupant.seat
        blobs = [blob for port in seat.ports for blob in inbound(seat.bind, port.app_port, port.mesh_port)]
        for local in seat.local_ports:
            account = next(
                (
                    f"spiffe://{TRUST_DOMAIN}/ns/{local.service.namespace}/sa/{one.occupants[0].service_account}"
                    for one in self.states.values()
                    if one.occupants[0].labels["app"] == local.service.service
                ),
                f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/{local.service.service}",
            )
            blobs += outbound(local.service, local.port, account, self._endpoints(local.service))
        if seat.proxy_port:
            blobs.append(_listener("proxy", "127.0.0.1", seat.proxy_port, "nothing"))
        return blobs

    def _endpoints(self, service: PortRef) -> list[tuple[str, int]]:
        return [
            (occupant.address, occupant.seat.ports[0].mesh_port)
            for state in self.states.values()
            for occupant in state.occupants
            if occupant.labels["app"] == service.service and occupant.state.phase == "READY"
        ] + self.strangers.get(service.service, [])

    def state_of(self, service: str) -> ProxyState:
        return next(state for state in self.states.values() if state.occupants[0].labels["app"] == service)

    def phase(self, service: str) -> str:
        found = [one for one in self.states.values() if one.occupants[0].labels["app"] == service]
        return found[0].occupants[0].state.phase if found else ""


class _Provider:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def admit(
        self, peer: server.Peer, node_id: str, conversation: server.Conversation, wake: Callable[[], None]
    ) -> "server.Proxy":
        if node_id not in self._plane.states:
            raise server.RefusedError(f"{node_id} is not registered")
        self._plane.conversations[node_id] = conversation
        proxy = _Proxy(self._plane, node_id)
        self._plane._wakes[proxy] = wake
        return proxy


class _Proxy:
    def __init__(self, plane: Plane, node_id: str) -> None:
        self._plane, self._node_id = plane, node_id

    def wanted(self) -> Wanted | None:
        return self._plane.wanted(self._node_id)

    def progressed(self, rejected: Sequence[Rejection]) -> None:
        self._plane.rejections += rejected

    def closed(self, why: str) -> None:
        self._plane._wakes.pop(self, None)


class _Recorder(grpc.aio.ServerInterceptor):
    """Wraps what reads the bytes of each call."""

    def __init__(self, received: list[bytes]) -> None:
        self._received = received

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        return handler and handler._replace(request_deserializer=self._record)

    def _record(self, data: bytes) -> bytes:
        self._received.append(data)
        return data


def _blob(kind: str, name: str, body: dict[str, Any], eds_name: str = "") -> Blob:
    return framing.blob(kind, name, encode(kind.removeprefix(TYPES), body), eds_name=eds_name)


def _secret(name: str) -> dict[str, Any]:
    return {"name": name, "sds_config": {"ads": {}, "resource_api_version": "V3"}}


def _common(validation: dict[str, Any]) -> dict[str, Any]:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [_secret("default")],
        **validation,
    }


def inbound(bind: str, app_port: int, mesh_port: int) -> list[Blob]:
    name = f"inbound/{app_port}"
    context = {
        "@type": f"{TYPES}{TLS}DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _common({"validation_context_sds_secret_config": _secret("ROOTCA")}),
    }
    cluster = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": 1.0,
        "load_assignment": _assignment(name, [("127.0.0.1", app_port)]),
    }
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return [_blob(types.CLUSTER, name, cluster), _listener(name, bind, mesh_port, name, socket, direction="INBOUND")]


def outbound(service: PortRef, port: int, identity: str, endpoints: list[tuple[str, int]]) -> list[Blob]:
    name = service.path
    sans = [{"san_type": "URI", "matcher": {"exact": identity}}]
    validation = {
        "default_validation_context": {"match_typed_subject_alt_names": sans},
        "validation_context_sds_secret_config": _secret("ROOTCA"),
    }
    context = {
        "@type": f"{TYPES}{TLS}UpstreamTlsContext",
        "common_tls_context": _common({"combined_validation_context": validation}),
    }
    cluster = {
        "name": name,
        "type": "EDS",
        "connect_timeout": 1.0,
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "outlier_detection": {
            "consecutive_5xx": 3,
            "interval": 0.5,
            "base_ejection_time": 1,
            "max_ejection_percent": 50,
        },
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
    }
    return [
        _blob(types.CLUSTER, name, cluster, eds_name=name),
        _blob(types.ENDPOINTS, name, _assignment(name, endpoints)),
        _listener(name, "127.0.0.1", port, name),
    ]


def _assignment(name: str, endpoints: list[tuple[str, int]]) -> dict[str, Any]:
    found = [{"endpoint": {"address": _address(host, port)}} for host, port in endpoints]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": found}] if found else []}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(
    name: str, host: str, port: int, cluster: str, socket: dict[str, Any] | None = None, *, direction: str = "OUTBOUND"
) -> Blob:
    proxy = {
        "@type": f"{TYPES}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": cluster,
    }
    chain: dict[str, Any] = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}
    if socket:
        chain["transport_socket"] = socket
    return _blob(
        types.LISTENER,
        name,
        {"name": name, "address": _address(host, port), "traffic_direction": direction, "filter_chains": [chain]},
    )


@asynccontextmanager
async def running(folder: Path, data: Path) -> AsyncIterator[Plane]:
    plane = Plane(folder, data / "control.sock")
    await plane.start()
    try:
        yield plane
    finally:
        await plane.stop()


def name_of(state: ProxyState) -> Name:
    return state.occupants[0].seat.workload
