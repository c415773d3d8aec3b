"""The ports of one seat, and the Seat that they make: mesh ports, its own proxy port, one per service that it may call.

Invariant: a port that was given stays, also while a predecessor's Envoy listens on it, which is then adopted.
"""

from masche.agent import occupancy
from masche.agent.captured import Captured
from masche.agent.envoy import Place, runs
from masche.agent.local import Claim
from masche.agent.seats import INBOUND_PORT, PROXY_PORT, PortBook
from masche.agent.whereabouts import TUNNEL_PORT, Whereabouts
from masche.link.messages import ScopeService
from masche.model.refs import Name, PortRef
from masche.model.vantage import Placement, Seat


class Berth:
    """What one seat occupies. Taking it may raise NoPortError."""

    def __init__(self, ports: PortBook, name: Name, claim: Claim, place: Place, where: Whereabouts) -> None:
        self.name = name
        self.claim = claim
        self.local: dict[PortRef, int] = {}
        self.is_adopting = runs(place)
        self._ports = ports
        self._captured: Captured | None = None
        self._is_bare = claim.placement is Placement.GATEWAY or claim.is_captured
        self._bind = where.bind
        self._mesh_ports = ports.take_inbound(
            str(name),
            [one.port for one in claim.ports],
            address=where.bind,
            preferred=TUNNEL_PORT if claim.is_east_west else INBOUND_PORT,
            only=where.port,
            is_in_use=self.is_adopting,
        )
        self._proxy_port = 0 if self._is_bare else self._take("proxy", preferred=PROXY_PORT)
        ports.save()
        self.seat = self._made()

    def __repr__(self) -> str:
        return f"<Berth {self.seat}>"

    @property
    def wanted(self) -> set[int]:
        """The ports on which its proxy is to listen."""
        proxy = {self._proxy_port} if self._proxy_port else set[int]()
        return {*self._mesh_ports.values(), *proxy, *self.local.values()}

    def open_for(self, services: tuple[ScopeService, ...]) -> None:
        """Give each service that may be called a local port; a gateway needs none, and who is captured has names."""
        if self._is_bare:
            return
        for service in services:
            self.local[service.port] = self._take(service.port.path)
        self._ports.save()
        self.seat = self._made()

    def move(self, captured: Captured) -> None:
        """The application is there, where its connections are captured."""
        self._captured = captured
        self.seat = self._made()

    def _take(self, purpose: str, *, preferred: int = 0) -> int:
        return self._ports.take(f"{self.name}#{purpose}", preferred=preferred, is_in_use=self.is_adopting)

    def _made(self) -> Seat:
        captured = self._captured
        return occupancy.seat_of(
            self.name,
            self.claim,
            bind=self._bind,
            mesh_ports=self._mesh_ports,
            proxy_port=self._proxy_port,
            local=self.local,
            namespace_path=captured.place.namespace_path if captured else "",
            app_address=captured.app_address if captured else "127.0.0.1",
            capture=captured.capture if captured else None,
        )
