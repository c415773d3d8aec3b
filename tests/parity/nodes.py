"""The third placement of a running mesh: every workload on one node, in a network namespace of its own, captured.

The very mesh that sidecars carry out, with other instances of the same names: they are told of each other by the same
compiler, and which ones a call may reach is the same for both. What is called is a Service's virtual address.
"""

import asyncio
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from live.client import TIMEOUT, Answer
from live.mesh import BLOCK, PROXIES, Live, Standing
from live.proxies import Proxy
from masche.agent.capture.host import Host, Place
from masche.agent.capture.sockets import in_namespace
from masche.compiler.endpoints import endpoints
from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.envoy import shared
from masche.compiler.envoy.listeners import listeners
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.model.blob import Blob
from masche.model.refs import Name, PortRef
from masche.model.steering import NO_STEERING
from masche.model.vantage import Capture, Placement, Seat
from masche.model.view import Endpoints
from masche.testing.check_placement import Asked
from masche.wire import framing, secret, types
from masche.xds.wanted import Wanted
from parity.placements import Pairs, Placed
from parity.raw import Line

NODES = f"{BLOCK}.5."
"""Where the node takes mutual TLS for the workloads whose sidecars do so below PROXIES."""

NODE = "node"


class Machine:
    """One Envoy and the hosts of its workloads, for one mesh after another."""

    def __init__(self, live: Live, hosts: Host, proxy: Proxy) -> None:
        self.live = live
        self._hosts = hosts
        self._proxy = proxy
        self._places: list[Place] = []
        self.seated: dict[Name, Standing] = {}

    def place(self, index: int) -> Place:
        """Return the host of this number; a namespace is used again for the next mesh."""
        while len(self._places) <= index:
            workload = Name("parity", f"w-{len(self._places)}")
            self._places.append(asyncio.run(self._hosts.prepare(workload)))
        return self._places[index]

    def load(self, *, is_local: bool) -> None:
        """Carry out what ``live`` carries out, for everybody who has a sidecar there."""
        self.empty()
        members = (each for each in self.live.standing.values() if each.view.vantage.placement is Placement.SIDECAR)
        self.seated = {each.workload.name: self._stand(each, self.place(index)) for index, each in enumerate(members)}
        for each in self.seated.values():
            self._open(each.seat)
        blobs = {(blob.type_url, blob.name): blob for blob in self._blobs(is_local=is_local)}
        wanted = Wanted.of(tuple(blobs.values()))
        plane = self.live._plane
        plane.tell({**plane.worlds, NODE: wanted})
        self._proxy.until_listening(set(wanted.table(types.LISTENER)))

    def empty(self) -> None:
        """Serve nobody."""
        plane = self.live._plane
        for each in self.seated.values():
            for port in each.seat.ports:
                plane.run(self.live.backends.close_one(each.seat.namespace_path, port.app_port))
        self.seated = {}
        plane.tell({**plane.worlds, NODE: Wanted.of(())})
        self._proxy.until_listening(set())

    def _stand(self, sidecar: Standing, place: Place) -> Standing:
        told = view(self.live.mesh, stand(self.live.mesh, sidecar.workload, placement=Placement.NODE))
        seat = Seat(
            workload=sidecar.workload.name,
            bind=sidecar.seat.bind.replace(PROXIES, NODES),
            ports=sidecar.seat.ports,
            namespace_path=place.namespace_path,
            capture=Capture(
                port=place.outbound_port,
                inbound_port=place.inbound_port if sidecar.seat.ports else 0,
                has_ipv6=place.has_ipv6,
            ),
        )
        return Standing(workload=sidecar.workload, view=told, seat=seat)

    def _open(self, seat: Seat) -> None:
        for number in dict.fromkeys(port.app_port for port in seat.ports):
            bound = in_namespace(seat.namespace_path, lambda number=number: socket.create_server(("127.0.0.1", number)))
            self.live._plane.run(
                self.live.backends.open(seat.namespace_path, number, *reversed(seat.workload), bound=bound)
            )

    def _blobs(self, *, is_local: bool) -> Iterator[Blob]:
        here = frozenset(map(str, self.seated)) if is_local else frozenset[str]()
        for each in self.seated.values():
            yield from (*shared.blobs(each.view), *listeners(each.view, each.seat))
            yield from self._secrets(each)
            for known in each.view.clusters:
                found = endpoints(self.live.mesh, NO_STEERING, known.service, each.workload.spec.zone)
                yield encoded_endpoints.blob(self._moved(found), local=here)

    def _moved(self, found: Endpoints) -> Endpoints:
        """The instances of the node instead of those behind sidecars."""
        return replace(
            found,
            localities=tuple(
                replace(
                    locality,
                    endpoints=tuple(
                        replace(each, address=each.address.replace(PROXIES, NODES)) if each.is_mtls else each
                        for each in locality.endpoints
                    ),
                )
                for locality in found.localities
            ),
        )

    def _secrets(self, each: Standing) -> Iterator[Blob]:
        chain, key, roots = self.live.issue(each.view.identity)
        name = secret.certificate_of(each.workload.name)
        yield framing.blob(types.SECRET, name, secret.certificate(name, chain.encode(), key.reveal()))
        trusted = secret.roots(secret.ROOTS, {each.view.trust_domain: roots.encode()})
        yield framing.blob(types.SECRET, secret.ROOTS, trusted)


class Nodes(Placed):
    """One Envoy for all, between workloads that know nothing of it."""

    def __init__(self, machine: Machine, *, is_local: bool) -> None:
        super().__init__(machine.live)
        self._machine = machine
        self._lines: dict[tuple[str, PortRef], CapturedLine] = {}
        machine.load(is_local=is_local)

    def send(self, asked: Asked, headers: Pairs) -> Answer:
        standing = self._machine.seated[Name(*asked.caller.split("/"))]
        host, _, port = asked.authority.partition(":")
        way = standing.way(host, int(port or 0))
        assert way, f"{asked.authority} is no Service: nobody would connect to a virtual address for it"
        key = asked.caller, way.service
        if key not in self._lines:
            address = next(each for each in way.addresses if ":" not in each)
            self._lines[key] = CapturedLine(standing.seat.namespace_path, (address, way.service.port))
        return self._lines[key].ask(asked.method, asked.target, asked.authority, headers)

    def close(self) -> None:
        for line in self._lines.values():
            line.close()
        self._machine.empty()


class LocalSidecars(Placed):
    """Sidecars, called at the local port of each Service: as on a node, what was connected to says what is called."""

    def __init__(self, live: Live) -> None:
        super().__init__(live)
        self._lines: dict[tuple[str, PortRef], Line] = {}

    def send(self, asked: Asked, headers: Pairs) -> Answer:
        standing = self.live.standing[Name(*asked.caller.split("/"))]
        host, _, port = asked.authority.partition(":")
        way = standing.way(host, int(port or 0))
        assert way, f"{asked.authority} is no Service"
        key = asked.caller, way.service
        line = self._lines.setdefault(key, Line(standing.local(way.service)))
        return line.ask(asked.method, asked.target, asked.authority, headers)

    def close(self) -> None:
        for line in self._lines.values():
            line.close()


class CapturedLine(Line):
    """A connection that is made from within a network namespace."""

    def __init__(self, namespace_path: str, to: tuple[str, int]) -> None:
        super().__init__(to)
        self._namespace_path = namespace_path

    def _connected(self) -> socket.socket:
        found = in_namespace(self._namespace_path, lambda: socket.create_connection(self._to, TIMEOUT))
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found


def is_captured(live: Live, asked: Asked) -> bool:
    """Whether this request goes to a Service: only then would somebody on a node connect to a virtual address."""
    host, _, port = asked.authority.partition(":")
    return live.standing[Name(*asked.caller.split("/"))].way(host, int(port or 0)) is not None


@contextmanager
def machine(live: Live) -> Iterator[Machine]:
    """A node that ends with the block."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(TemporaryDirectory(prefix="n4t")))
        hosts = Host(data, file=data / "hosts.json")
        stack.callback(lambda: asyncio.run(hosts.cleanup()))
        proxy = Proxy(NODE, data, live._plane.path)
        stack.callback(proxy.close)
        yield Machine(live, hosts, proxy)


def captured(live: Live, every: Iterable[Asked]) -> list[Asked]:
    """Those requests that go to Services."""
    return [each for each in every if is_captured(live, each)]
