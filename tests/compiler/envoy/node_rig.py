"""One real Envoy that serves several workloads, each in a real network namespace with its connections captured."""

import asyncio
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from envoy_rig import Authority, Envoy, free_port, remove, short_folder
from views import cluster, identity, outbound, port, view

from masche.agent.capture.host import Host, Place
from masche.agent.capture.sockets import in_namespace
from masche.compiler.addresses import IPV4, IPV6
from masche.compiler.envoy import capture, clusters, endpoints
from masche.compiler.envoy import listeners as every
from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.shared import blobs
from masche.model.blob import Blob
from masche.model.refs import Name, PortRef
from masche.model.vantage import Capture, Placement, Seat, SeatPort
from masche.model.view import Endpoints, EndpointView, Inbound, InboundPort, Locality, Outbound, Protocol, Route, View
from masche.wire import framing, secret, types

T = TypeVar("T")
ROOT = Authority.named("root")


def virtual(service: PortRef) -> tuple[str, str]:
    """Addresses for a Service, as the compiler would make them of its name."""
    number = 1 + sum(service.service.encode()) * 7
    return str(IPV4[number]), str(IPV6[number])


@dataclass
class Member:
    """One workload: where it is, what it is told, and its ports."""

    name: str
    place: Place
    seat: Seat
    view: View
    blobs: tuple[Blob, ...] = ()

    def within(self, function: Callable[[], T]) -> T:
        """Call something short from its network namespace; sockets stay there."""
        return in_namespace(self.place.namespace_path, function)

    def connect(self, host: str, number: int, timeout: float = 10) -> socket.socket:
        """Connect as a process of the workload would."""
        return self.within(lambda: socket.create_connection((host, number), timeout=timeout))

    def call(self, service: PortRef, *, ipv6: bool = False) -> socket.socket:
        """Connect to a Service at its virtual address."""
        return self.connect(virtual(service)[ipv6], service.port)


@dataclass
class Node:
    """The Envoy of one machine and its workloads."""

    envoy: Envoy
    host: Host
    placement: Placement = Placement.NODE
    members: dict[str, Member] = field(default_factory=dict)
    ways: dict[PortRef, Protocol] = field(default_factory=dict)
    serving: dict[PortRef, list[tuple[str, int]]] = field(default_factory=dict)
    elsewhere: list[Blob] = field(default_factory=list)
    is_local: bool = True
    is_registry_only: bool = False
    gateways: tuple[str, ...] = ()
    """The gateways between zones by which detours may be taken."""
    settings_of: dict[PortRef, dict] = field(default_factory=dict)
    """More fields of the Cluster of a Service."""
    routes_of: dict[PortRef, tuple[Route, ...]] = field(default_factory=dict)
    """The routes of a Service, where they are others than the usual one."""

    def add(self, name: str) -> Member:
        """Give a workload a host of its own."""
        place = asyncio.run(self.host.prepare(Name("shop", f"{name}-1")))
        capture = Capture(port=place.outbound_port, inbound_port=place.inbound_port, has_ipv6=place.has_ipv6)
        seat = Seat(
            workload=Name("shop", f"{name}-1"), bind="127.0.0.1", namespace_path=place.namespace_path, capture=capture
        )
        self.members[name] = member = Member(name, place, seat, view(name, placement=self.placement))
        return member

    def remove(self, name: str) -> None:
        """Let a workload go, its host after its listeners."""
        member = self.members.pop(name)
        for service, some in self.serving.items():
            self.serving[service] = [each for each in some if each[0] != name]
        self.put()
        asyncio.run(self.host.release(member.seat.workload))

    def serve(self, name: str, service: PortRef, app_port: int, protocol: Protocol = Protocol.HTTP, **inbound) -> None:
        """Let a workload answer for a Service; ``inbound`` are fields of its Inbound."""
        member, mesh_port = self.members[name], free_port()
        place = SeatPort(name=service.service, app_port=app_port, mesh_port=mesh_port)
        member.seat = replace(member.seat, ports=(*member.seat.ports, place))
        before = member.view.inbound
        spoken = (*before.ports, InboundPort(target=app_port, protocol=protocol))
        member.view = replace(member.view, inbound=replace(Inbound(ports=spoken), **inbound))
        self.way(service, protocol)
        self.serving.setdefault(service, []).append((name, mesh_port))

    def way(self, service: PortRef, protocol: Protocol = Protocol.HTTP) -> None:
        """Let everybody call a Service."""
        self.ways[service] = protocol

    @staticmethod
    def forget() -> None:
        """Let everything be encoded anew."""
        for module in (capture, clusters, every):
            for each in vars(module).values():
                if hasattr(each, "cache_clear"):
                    each.cache_clear()

    def put(self) -> None:
        """Tell Envoy everything."""
        everything = [*self.elsewhere, *map(self._instances, self.serving)]
        for member in self.members.values():
            told = replace(
                member.view,
                outbound=tuple(map(self._outbound, self.ways)),
                clusters=tuple(map(self._cluster, self.ways)),
                is_registry_only=self.is_registry_only,
                east_west=self.gateways,
            )
            member.blobs = (*blobs(told), *listeners(told, member.seat))
            everything += [*member.blobs, *secrets_of(member)]
        self.envoy.put({(each.type_url, each.name): each for each in everything}.values())

    def _outbound(self, service: PortRef) -> Outbound:
        return outbound(
            service, *self.routes_of.get(service, ()), protocol=self.ways[service], addresses=virtual(service)
        )

    def _cluster(self, service: PortRef):
        answering = tuple(identity(name) for name, _ in self.serving.get(service, ())) or (identity("elsewhere"),)
        return cluster(service, self.ways[service], identities=answering, **self.settings_of.get(service, {}))

    def _instances(self, service: PortRef) -> Blob:
        some = tuple(
            EndpointView(address="127.0.0.1", port=mesh_port, workload=f"shop/{name}-1")
            for name, mesh_port in self.serving[service]
        )
        here = frozenset(f"shop/{name}-1" for name in self.members) if self.is_local else frozenset()
        where = (Locality(zone="a", priority=0, endpoints=some),)
        return endpoints.blob(Endpoints(service=service, localities=where), local=here)


def secrets_of(member: Member) -> Iterable[Blob]:
    """What the agent would answer for a workload."""
    name = secret.CERTIFICATE
    if member.view.vantage.placement is Placement.NODE:
        name = secret.certificate_of(member.seat.workload)
    certificate = secret.certificate(name, *ROOT.issue(member.view.identity))
    yield framing.blob(types.SECRET, name, certificate)
    yield framing.blob(types.SECRET, secret.ROOTS, secret.roots(secret.ROOTS, {"mesh.local": ROOT.pem}))


@contextmanager
def node(placement: Placement = Placement.NODE) -> Iterator[Node]:
    """A machine whose namespaces, links and Envoy end with the block."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="n1t")))
        host = Host(data, file=data / "hosts.json")
        stack.callback(lambda: asyncio.run(host.cleanup()))
        folder = short_folder()
        stack.callback(remove, folder)
        envoy = Envoy(folder)
        stack.callback(envoy.close)
        yield Node(envoy, host, placement)


__all__ = ["ROOT", "Member", "Node", "node", "port", "secrets_of", "virtual"]
