"""A real Envoy that guards one port with the policies of many cases: a route for each, with RBAC filters of its own.

The filters of a route are what the compiler makes of the policies of a whole port. Who is let through gets 200 from the
route itself. Callers come in plaintext or with mutual TLS, over IPv4 or IPv6, from several addresses.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ssl import SSLContext

from live.client import Answer
from live.mesh import PROXIES, Live, free_port
from masche.compiler.envoy import inbound, rbac
from masche.identity.spiffe import SpiffeId
from masche.model.blob import Blob
from masche.model.refs import Name
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.wire import framing, types
from masche.wire.messages import Body, encode
from parity.policies import Case
from parity.raw import Line

CASE = "x-case"
"""The header that chooses the route."""

CALLEE = "spiffe://mesh.local/ns/shop/sa/orders"
_TABLE = "envoy.config.route.v3.RouteConfiguration"
_NONE: Body = {"filter_metadata": {"masche": {"implicit_denial": ""}}}


class Guarded:
    """The Envoy, and connections to it that are kept."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._seats = {4: _seat(f"{PROXIES}99", 6000), 6: _seat("::1", 6001)}
        self._lines: dict[tuple[int, str, str], Line] = {}
        self._contexts: dict[str, SSLContext] = {}
        self.addresses = {family: seat.bind for family, seat in self._seats.items()}
        self.ports = {family: seat.ports[0].app_port for family, seat in self._seats.items()}

    def load(self, held: Sequence[tuple[Policy, ...]]) -> None:
        """Guard by these policies, each of its own route, and by no others."""
        self._live.hold(CALLEE, [blob for seat in self._seats.values() for blob in _blobs(seat, held)])

    def ask(self, case: Case, index: int) -> Answer:
        """Send the request of a case to the route of this number."""
        asked = case.request
        return self._line(case).ask(asked.method, asked.target, asked.authority, [*asked.headers, (CASE, str(index))])

    def _line(self, case: Case) -> Line:
        key = (case.family, case.source, case.caller)
        if key not in self._lines:
            seat = self._seats[case.family]
            self._lines[key] = Line((seat.bind, seat.ports[0].mesh_port), self._context(case.caller), case.source)
        return self._lines[key]

    def _context(self, caller: str) -> SSLContext | None:
        if caller and caller not in self._contexts:
            self._contexts[caller] = self._live.context(str(SpiffeId.parse(f"spiffe://{caller}")))
        return self._contexts.get(caller)

    def close(self) -> None:
        for line in self._lines.values():
            line.close()


@contextmanager
def guarded(live: Live) -> Iterator[Guarded]:
    with ExitStack() as stack:
        found = Guarded(live)
        stack.callback(found.close)
        yield found


def _seat(bind: str, app_port: int) -> Seat:
    port = SeatPort(name="", app_port=app_port, mesh_port=free_port())
    return Seat(workload=Name("shop", "orders-1"), bind=bind, ports=(port,), app_address=bind)


def _blobs(seat: Seat, held: Sequence[tuple[Policy, ...]]) -> Iterator[Blob]:
    (port,) = seat.ports
    spoken = InboundPort(target=port.app_port, protocol=Protocol.HTTP)
    yield inbound.listener(Inbound(mtls=MtlsMode.PERMISSIVE, ports=(spoken,)), seat, port)
    routes = [_route(index, each, port.app_port) for index, each in enumerate(held)]
    name = f"inbound/{port.app_port}"
    body: Body = {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]}
    yield framing.blob(types.ROUTES, name, encode(_TABLE, body))


def _route(index: int, held: tuple[Policy, ...], port: int) -> Body:
    return {
        "match": {"prefix": "/", "headers": [{"name": CASE, "string_match": {"exact": str(index)}}]},
        "direct_response": {"status": 200},
        "metadata": _NONE,
        "typed_per_filter_config": rbac.http_rules(held, port),
    }
