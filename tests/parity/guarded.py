"""A real Envoy that guards one port with the policies of many cases: a route for each, with RBAC filters of its own.

The filters of a route are what the compiler makes of the policies of a whole port. Who is let through gets 200 from the
route itself. Callers come in plaintext or with mutual TLS, over IPv4 or IPv6, from several addresses.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ssl import SSLContext

from live.client import Answer
from live.mesh import PROXIES, Live, free_port
from masche.compiler.envoy import inbound, neighbours, rbac
from masche.compiler.envoy.carried import CALLED, inside
from masche.compiler.envoy.clusters import CLUSTER, RAW_BUFFER
from masche.compiler.envoy.inbound import Served
from masche.compiler.envoy.managers import tcp_proxy
from masche.compiler.envoy.parts import address
from masche.compiler.envoy.peer import introduced
from masche.compiler.envoy.seated import Seated
from masche.identity.spiffe import SpiffeId
from masche.model.blob import Blob
from masche.model.refs import Name
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.wire import framing, types
from masche.wire.framing import field, text
from masche.wire.messages import Body, encode
from parity.policies import CALLERS, ODD_CALLERS, Case
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
        self._live.hold(CALLEE, [blob for seat in self._seats.values() for blob in self._blobs(seat, held)])

    def _blobs(self, seat: Seat, held: Sequence[tuple[Policy, ...]]) -> Iterator[Blob]:
        served = _served(seat, is_shared=False)
        yield inbound.listener(served)
        yield _table(served, held)

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


class GuardedNeighbours(Guarded):
    """The same for callers of the very proxy, who show nothing: a listener for each says whose its connections are.

    Nobody is unknown to it, so there are no cases of callers in plaintext.
    """

    def __init__(self, live: Live) -> None:
        super().__init__(live)
        self._doors = {
            (seat.bind, caller): free_port() for seat in self._seats.values() for caller in (*CALLERS, *ODD_CALLERS)
        }

    def _line(self, case: Case) -> Line:
        key = (case.family, case.source, case.caller)
        if key not in self._lines:
            bind = self._seats[case.family].bind
            self._lines[key] = Line((bind, self._doors[bind, case.caller]), None, case.source)
        return self._lines[key]

    def _blobs(self, seat: Seat, held: Sequence[tuple[Policy, ...]]) -> Iterator[Blob]:
        served = _served(seat, is_shared=True)
        yield neighbours.listener(served)
        yield _table(served, held)
        name = f"to-{seat.bind}"
        within, metadata = neighbours.endpoint(str(seat.workload), seat.bind, served.port.mesh_port)
        endpoint = field(1, field(1, within)) + field(3, metadata)
        yield framing.blob(types.ENDPOINTS, name, text(1, name) + field(2, field(2, endpoint)))
        cluster: Body = {
            "name": name,
            "type": "EDS",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
            "transport_socket": inside(RAW_BUFFER, CALLED),
        }
        yield framing.blob(types.CLUSTER, name, encode(CLUSTER, cluster), eds_name=name)
        for (bind, caller), port in self._doors.items():
            if bind == seat.bind:
                yield _door(name, address(bind, port), caller)


def _door(cluster: str, at: Body, caller: str) -> Blob:
    """A listener whose connections are all of one caller's."""
    seated = Seated(workload=Name("shop", "caller"), is_shared=True)
    filters = [introduced(seated, f"spiffe://{caller}"), tcp_proxy(cluster, ((cluster, 1),), (), 3600)]
    name = f"{cluster}/{caller}"
    body: Body = {"name": name, "address": at, "filter_chains": [{"filters": filters}]}
    return framing.blob(types.LISTENER, name, encode(inbound.LISTENER, body))


@contextmanager
def guarded(live: Live, kind: type[Guarded] = Guarded) -> Iterator[Guarded]:
    with ExitStack() as stack:
        found = kind(live)
        stack.callback(found.close)
        yield found


def _seat(bind: str, app_port: int) -> Seat:
    port = SeatPort(name="", app_port=app_port, mesh_port=free_port())
    return Seat(workload=Name("shop", "orders-1"), bind=bind, ports=(port,), app_address=bind)


def _served(seat: Seat, *, is_shared: bool) -> Served:
    (port,) = seat.ports
    spoken = InboundPort(target=port.app_port, protocol=Protocol.HTTP)
    return Served(
        inbound=Inbound(mtls=MtlsMode.PERMISSIVE, ports=(spoken,)),
        seat=seat,
        port=port,
        seated=Seated(workload=seat.workload, is_shared=is_shared),
        identity=CALLEE,
    )


def _table(served: Served, held: Sequence[tuple[Policy, ...]]) -> Blob:
    is_shared = served.seated.is_shared
    routes = [_route(index, each, served.port.app_port, is_shared=is_shared) for index, each in enumerate(held)]
    name = served.name
    body: Body = {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]}
    return framing.blob(types.ROUTES, name, encode(_TABLE, body))


def _route(index: int, held: tuple[Policy, ...], port: int, *, is_shared: bool) -> Body:
    return {
        "match": {"prefix": "/", "headers": [{"name": CASE, "string_match": {"exact": str(index)}}]},
        "direct_response": {"status": 200},
        "metadata": _NONE,
        "typed_per_filter_config": rbac.http_rules(held, port, is_shared=is_shared),
    }
