"""A whole Mesh alive: an Envoy with mutual TLS for every Workload, its applications, and callers that use them.

What the Envoys hold is what the compiler made, byte for byte; certificates come from our own authority.
"""

import re
import ssl
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from live.echo import Backends, Received
from live.plane import Plane
from live.proxies import Proxy
from masche.compiler.east_west import reach
from masche.compiler.endpoints import endpoints
from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.envoy import shared, tunnels
from masche.compiler.envoy.listeners import listeners
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.identity import keys
from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId
from masche.model.blob import Blob
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.resources.workload import Workload
from masche.model.steering import NO_STEERING
from masche.model.vantage import LocalPort, Placement, Seat, SeatPort
from masche.model.view import Endpoints, Outbound, View
from masche.wire import framing, secret, types
from masche.xds.wanted import Wanted
from taken_ports import NETWORK as BLOCK
from taken_ports import PROXIES as PORTS

"""Two octets of loopback addresses that are this process' own."""

PROXIES, APPLICATIONS, BARE = f"{BLOCK}.1.", f"{BLOCK}.3.", f"{BLOCK}.2."
"""Where proxies take mutual TLS, where the applications behind them listen, and those that have no proxy."""

GATEWAY_OFFSET = 20_000
"""A Gateway's port is bound this much higher, since ports below 1024 may need root."""


ARRIVAL = 3.0
"""Seconds within which a copy of a request reaches its mirror."""


def here(text: str) -> str:
    """Move the addresses of a story into this process' own block."""
    return re.sub(r"\b127\.0\.[12]\.", PROXIES, text).replace("10.1.2.", BARE)


def free_port() -> int:
    """A port below the ephemeral range that nobody has, and no other test gets."""
    return PORTS.free()


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One Workload, what it is told, and where its proxy listens."""

    workload: Workload
    view: View
    seat: Seat

    def way(self, host: str, port: int) -> Outbound | None:
        """The Service port that a name means here."""
        named = (way for way in self.view.outbound if host.lower().rstrip(".") in way.hosts)
        return next((way for way in named if (way.service.port == port if port else way.answers_bare)), None)

    def local(self, service: PortRef) -> tuple[str, int]:
        """Where ``<SERVICE>_URL`` points."""
        return "127.0.0.1", next(each.port for each in self.seat.local_ports if each.service == service)

    @property
    def proxy(self) -> tuple[str, int]:
        """Where ``HTTP_PROXY`` points."""
        return "127.0.0.1", self.seat.proxy_port

    def gateway(self, port: int) -> tuple[str, int] | None:
        """Where a listener of the Gateway is really bound."""
        bound = dict(self.seat.gateway_ports).get(port)
        return (self.seat.bind, bound) if bound else None


class Live:
    """Envoys that carry out one Mesh after another."""

    def __init__(self, folder: Path, plane: Plane) -> None:
        self._folder, self._plane = folder, plane
        self._authorities: dict[str, Authority] = {}
        self._proxies: list[Proxy] = []
        self._secrets: dict[str, tuple[Blob, ...]] = {}
        self.backends = Backends()
        self.standing: dict[Name, Standing] = {}
        self.mesh = Mesh()
        self.steering = NO_STEERING
        self.instead: dict[PortRef, Endpoints] = {}

    def close(self) -> None:
        self._plane.run(self.backends.close())
        for proxy in self._proxies:
            proxy.close()

    # -- one mesh after another -----------------------------------------------------------------------------------

    def load(self, mesh: Mesh, callers: Collection[Name], gateways: Mapping[Name, Name] | None = None) -> None:
        """Carry out ``mesh``, and nothing of the one before it. Only ``callers`` get listeners to call by."""
        self._empty()
        self.steering, self.instead = NO_STEERING, {}
        self.mesh = mesh
        named = gateways or {}
        self.standing = {
            name: self._stand(workload, named.get(name), is_caller=name in callers)
            for name, workload in sorted(mesh.workloads.items())
            if workload.spec.tls == "MUTUAL"
        }
        self._plane.run(self._open_applications())
        self._tell()

    def change(self, mesh: Mesh) -> None:
        """Carry out another revision of the same Workloads: only what differs is sent."""
        self.mesh = mesh
        self.standing = {
            name: Standing(
                workload=each.workload, view=self._view(each.workload, each.view.vantage.gateway), seat=each.seat
            )
            for name, each in self.standing.items()
        }
        self._tell()

    @contextmanager
    def without(self, name: Name) -> Iterator[None]:
        """Kill the Envoy of a Workload; another takes its place after the block."""
        index = list(self.standing).index(name)
        self._proxies[index].close()
        try:
            yield
        finally:
            self._proxies[index] = Proxy(f"proxy-{index}", self._folder, self._plane.path)

    def hold(self, identity: str, blobs: Iterable[Blob]) -> None:
        """Let the first Envoy hold these Blobs as ``identity``, and stand for no Workload."""
        if not self._proxies:
            self._proxies.append(Proxy("proxy-0", self._folder, self._plane.path))
        proxy = self._proxies[0]
        trust_domain = SpiffeId.parse(identity).trust_domain
        wanted = Wanted.of((*blobs, *self._identity(identity, trust_domain)))
        self._plane.tell({proxy.node_id: wanted})
        proxy.until_listening(set(wanted.table(types.LISTENER)))

    def issue(self, identity: str) -> tuple[str, keys.Secret, str]:
        """Return a fresh chain for ``identity``, its key, and the roots of its trust domain (PEM all)."""
        authority, key = self._authority(SpiffeId.parse(identity).trust_domain), keys.generate()
        issued = authority.sign(keys.signing_request(key), SpiffeId.parse(identity), now=time.time())
        return issued.chain, keys.private_pem(key), authority.bundle.pem

    def context(self, identity: str) -> ssl.SSLContext:
        """Return what a caller without a proxy needs to show ``identity``; it trusts whoever answers."""
        chain, key, _ = self.issue(identity)
        pem = self._folder / "caller.pem"
        pem.write_bytes(chain.encode() + key.reveal())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(pem)
        return context

    def open(self, address: str, port: int, workload: str = "app-1") -> None:
        """Let an application answer there."""
        self._plane.run(self.backends.open(address, port, workload, "test"))

    def close_application(self, of: Standing) -> None:
        """Let the application of a Workload no longer be there."""
        for port in of.seat.ports:
            self._plane.run(self.backends.close_one(of.seat.app_address, port.app_port))

    def _tell(self) -> None:
        wanted = {proxy.node_id: Wanted.of(self.blobs(each)) for proxy, each in self._seated()}
        self._plane.tell(wanted)
        for proxy, _ in self._seated():
            proxy.until_listening(set(wanted[proxy.node_id].table(types.LISTENER)))

    def _empty(self) -> None:
        """Take everything away, so that no connection keeps the identity of the mesh before."""
        self._plane.run(self.backends.close())
        self._plane.tell({proxy.node_id: Wanted.of(()) for proxy in self._proxies})
        for proxy in self._proxies:
            proxy.until_listening(set())

    def _seated(self) -> Iterator[tuple[Proxy, Standing]]:
        for index, each in enumerate(self.standing.values()):
            if index == len(self._proxies):
                self._proxies.append(Proxy(f"proxy-{index}", self._folder, self._plane.path))
            yield self._proxies[index], each

    # -- what one workload gets -----------------------------------------------------------------------------------

    def _view(self, workload: Workload, gateway: Name | None) -> View:
        placement = Placement.GATEWAY if gateway else workload.spec.placement or Placement.SIDECAR
        return view(self.mesh, stand(self.mesh, workload, placement=placement, gateway=gateway))

    def _stand(self, workload: Workload, gateway: Name | None, *, is_caller: bool) -> Standing:
        told = self._view(workload, gateway)
        spec = workload.spec
        seat = Seat(
            workload=workload.name,
            bind=spec.address,
            ports=tuple(
                SeatPort(name=port.name, app_port=port.port, mesh_port=port.mesh_port or port.port)
                for port in spec.ports
            ),
            proxy_port=free_port() if is_caller else 0,
            local_ports=tuple(LocalPort(service=way.service, port=free_port()) for way in told.outbound if is_caller),
            app_address=spec.address.replace(PROXIES, APPLICATIONS),
            gateway_ports=tuple((each.port, each.port + GATEWAY_OFFSET) for each in told.gateway),
        )
        return Standing(workload=workload, view=told, seat=seat)

    def blobs(self, each: Standing) -> tuple[Blob, ...]:
        """All that the proxy of a Workload holds, secrets included."""
        zone = each.workload.spec.zone
        instances = (self.instances_of(known.service, zone) for known in each.view.clusters)
        return (
            *shared.blobs(each.view),
            *(tunnels.tables(reach(self.mesh)) if each.view.vantage.is_east_west else ()),
            *map(encoded_endpoints.blob, instances),
            *listeners(each.view, each.seat),
            *self._identity(each.view.identity, each.view.trust_domain),
            *self._certificates(each.view),
        )

    def instances_of(self, service: PortRef, zone: str) -> Endpoints:
        """What ``instead`` says, or the compiler."""
        return self.instead.get(service) or endpoints(self.mesh, self.steering, service, zone)

    def _identity(self, identity: str, trust_domain: str) -> tuple[Blob, ...]:
        if identity not in self._secrets:
            key, authority = keys.generate(), self._authority(trust_domain)
            issued = authority.sign(keys.signing_request(key), SpiffeId.parse(identity), now=time.time())
            pem, bundle = keys.private_pem(key).reveal(), authority.bundle.pem.encode()
            self._secrets[identity] = (
                _secret(secret.CERTIFICATE, secret.certificate(secret.CERTIFICATE, issued.chain.encode(), pem)),
                _secret(secret.ROOTS, secret.roots(secret.ROOTS, {trust_domain: bundle})),
            )
        return self._secrets[identity]

    def _authority(self, trust_domain: str) -> Authority:
        if trust_domain not in self._authorities:
            folder = self._folder / trust_domain
            self._authorities[trust_domain] = Authority.open(
                folder, trust_domain, now=time.time(), audit=lambda _: None
            )
        return self._authorities[trust_domain]

    def _certificates(self, told: View) -> Iterator[Blob]:
        """The certificates of a Gateway's listeners, as its agent would read them from Secrets."""
        for name in dict.fromkeys(name for each in told.gateway for _, name in each.certificates):
            namespace, _, bare = name.removeprefix("kubernetes://").partition("/")
            found = self.mesh.secrets[Name(namespace, bare)]
            yield _secret(name, secret.certificate(name, bytes(found.certificate), bytes(found.private_key)))

    # -- applications ---------------------------------------------------------------------------------------------

    async def _open_applications(self) -> None:
        for workload in self.mesh.workloads.values():
            address = workload.spec.address
            if workload.spec.tls == "MUTUAL":
                address = address.replace(PROXIES, APPLICATIONS)
            for port in dict.fromkeys(port.port for port in workload.spec.ports):
                await self.backends.open(address, port, *reversed(workload.name))
        for each in self.mesh.endpoint_slices.values():
            for port in each.ports:
                for index, endpoint in enumerate(each.endpoints):
                    name = f"{each.metadata.name}[{index}]"
                    await self.backends.open(endpoint.addresses[0], port.port, name, each.metadata.namespace)

    def instances(self, service: PortRef) -> set[tuple[str, int]]:
        """Return who answers for a Service port: workloads and the ports of their applications."""
        found = endpoints(self.mesh, NO_STEERING, service, "")
        return {
            (each.workload, self._application_port(each.workload, each.port))
            for locality in found.localities
            for each in locality.endpoints
        }

    def _application_port(self, workload: str, port: int) -> int:
        standing = self.standing.get(Name(*workload.split("/", 1)))
        return {each.mesh_port: each.app_port for each in standing.seat.ports}[port] if standing else port

    def proxy(self, name: Name) -> Proxy:
        """The Envoy of a Workload."""
        return next(proxy for proxy, each in self._seated() if each.workload.name == name)

    def forget(self) -> None:
        """Forget what applications received so far."""
        self.backends.log.clear()

    def arrived(self, is_meant: Callable[[Received], bool]) -> Received | None:
        """Wait until an application has received such a request since; None when it does not come."""
        end = time.monotonic() + ARRIVAL
        while time.monotonic() < end:
            if found := next((each for each in tuple(self.backends.log) if is_meant(each)), None):
                return found
            time.sleep(0.005)
        return None


def _secret(name: str, body: bytes) -> Blob:
    return framing.blob(types.SECRET, name, body)


@contextmanager
def living() -> Iterator[Live]:
    """Envoys, a control plane and an authority that end with the block."""
    with tempfile.TemporaryDirectory(prefix="ml") as name, ExitStack() as stack:
        folder = Path(name)
        plane = stack.enter_context(Plane(folder / "xds.sock"))
        live = Live(folder, plane)
        stack.callback(live.close)
        yield live
