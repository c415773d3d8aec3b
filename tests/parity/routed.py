"""A real Envoy that routes by many tables at once, and the library with what it makes of the very same bytes.

A request names its table in a header that each route of the table wants. Outcomes are what a caller and a callee see.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from live.client import Answer
from live.mesh import APPLICATIONS, Live, free_port
from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.envoy import shared
from masche.compiler.envoy.listeners import listeners
from masche.library.core import router
from masche.library.core.exchange import Answer as Told
from masche.library.core.ports import Known
from masche.model.refs import Name
from masche.model.told import Destination
from masche.model.vantage import Dialect, Placement, Seat, Vantage
from masche.model.view import (
    Cluster,
    Endpoints,
    EndpointView,
    Locality,
    Outbound,
    Protocol,
    Route,
    ValueKind,
    ValueMatch,
    View,
    VirtualHost,
)
from masche.traffic.edge import joined
from masche.traffic.request import Headers, Request, lower_names
from masche.traffic.virtual_hosts import HostIndex
from masche.wire import framing, types
from masche.wire.decode import routes as decoding
from parity.raw import Line
from parity.tables import ORDERS, STOCK, Case

CASE = "x-case"
ASKED = ("x-echo-set-header", "x-echo:yes,x-got:app")
ECHOED: Headers = (("x-echo", "yes"), ("x-got", "app"))
CALLER = "spiffe://mesh.local/ns/shop/sa/web"

UNCOMPARED = {
    CASE: "it chooses the table",
    ASKED[0]: "it is for the callee",
    "content-length": "how a body is framed is between two hops",
    "host": "it is the authority",
    "traceparent": "the library begins a trace where a caller has none; a proxy leaves that to applications",
    "x-request-id": "it is by chance",
}
"""Headers at the callee that are not compared."""

OF_PROXIES = ("x-envoy-", "x-masche-")
"""What only proxies may say: the library drops what an application says so, of a sidecar's the callee's proxy does."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What becomes of a request. ``callee`` is who was called, with what ("" and nothing: nobody)."""

    status: int
    rule: str = ""
    location: str = ""
    got: str = ""
    callee: str = ""
    method: str = ""
    target: str = ""
    authority: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class Routed:
    """The Envoy and what the library knows."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._seat = Seat(workload=Name("shop", "web-1"), bind="127.0.0.1", proxy_port=free_port())
        self._line = Line(("127.0.0.1", self._seat.proxy_port))
        self._index = HostIndex()
        self._tables: dict[int, dict[str, list[Route]]] = {}
        self._callees = {"orders-1": ORDERS, "stock-1": STOCK}
        for number, callee in enumerate(self._callees):
            live.open(f"{APPLICATIONS}{90 + number}", 7000, callee)

    def load(self, cases: Sequence[Case]) -> None:
        """Route by the tables of these cases, and no others."""
        routes = tuple(_named(route, index) for index, case in enumerate(cases) for route in case.routes)
        view = _view(routes)
        known = shared.blobs(view)
        instances = [encoded_endpoints.blob(self._instances(cluster.service)) for cluster in view.clusters]
        self._live.hold(CALLER, (*known, *instances, *listeners(view, self._seat)))
        (proxy,) = (blob for blob in known if blob.type_url == types.ROUTES and blob.name == "proxy")
        self._index = HostIndex.of(decoding.table("proxy", framing.message_of(proxy)))
        self._tables.clear()

    def _instances(self, service: object) -> Endpoints:
        (index,) = (number for number, each in enumerate(self._callees.values()) if each == service)
        endpoint = EndpointView(address=f"{APPLICATIONS}{90 + index}", port=7000, workload="app", is_mtls=False)
        return Endpoints(service=service, localities=(Locality(zone="", priority=0, endpoints=(endpoint,)),))

    # -- both answers ---------------------------------------------------------------------------------------------

    def in_envoy(self, case: Case, index: int) -> Outcome:
        """Send it."""
        self._live.forget()
        asked = case.request
        target = f"http://{asked.authority}{asked.target}" if case.is_absolute else asked.target
        more = ((CASE, str(index)), ASKED)
        answer = self._line.ask(asked.method, target, asked.authority, (*asked.headers, *more))
        outcome = Outcome(status=answer.status, **_told(answer))
        if not self._live.backends.log:
            return outcome
        got = self._live.backends.log[0]
        return replace(
            outcome,
            callee=str(self._callees[got.workload]),
            method=got.method,
            target=got.path,
            authority=got.host,
            headers=_compared(tuple((name, _utf8(value)) for name, value in got.headers)),
        )

    def in_library(self, case: Case, index: int) -> set[Outcome]:
        """Everything that may come of it, by chance."""
        headers = tuple((name, value.strip(" \t")) for name, value in lower_names(case.request.headers))
        asked = replace(case.request, headers=(*headers, (CASE, str(index)), ASKED))
        clean = router.tidied(asked, trace=_TRACE)
        if isinstance(clean, Told):
            return {Outcome(status=clean.status)}
        found = self._index.find(asked.authority)  # which takes a final dot off itself, once
        assert found, "everything else has a virtual host, too"
        if found.host.routes and router.is_never_ours(clean.authority):
            return {Outcome(status=403)}
        routes = self._table(found.host, str(index))
        destinations = {each.path: _destination(each) for each in (ORDERS, STOCK)}
        known = Known(host=replace(found.host, routes=routes), destinations=destinations, endpoints={})
        return {_outcome(known, clean, draw) for draw in _draws(routes)}

    def _table(self, host: VirtualHost, case: str) -> tuple[Route, ...]:
        """The routes of one case: all others want another header."""
        if id(host) not in self._tables:
            self._tables[id(host)] = by_case = {}
            for route in host.routes:
                wanted = next((each.value for each in route.match.headers if each.name == CASE), "")
                by_case.setdefault(wanted, []).append(route)
        found = self._tables[id(host)]
        return (*found.get("", ()), *found.get(case, ()))

    def close(self) -> None:
        self._line.close()


class Drawn:
    """The one number that is drawn for a request."""

    def __init__(self, number: int) -> None:
        self._number = number

    def random(self) -> float:
        return self._number / 2**53

    def getrandbits(self, _: int) -> int:
        return 1

    def randrange(self, _: int) -> int:
        return 0


_TRACE = (("traceparent", "00-1-1-00"), ("x-request-id", "1"))


def _outcome(known: Known, request: Request, draw: int) -> Outcome:
    decided = router.route(known, request, rng=Drawn(draw))
    if isinstance(decided, Told):
        return Outcome(status=decided.status, **_told(Answer(status=decided.status, headers=decided.headers)))
    assert isinstance(decided, router.Sent), decided
    answered = router.answer_headers(decided.send, ECHOED, dict(ECHOED), is_spent=False)
    sent = decided.request
    return Outcome(
        status=200,
        **_told(Answer(status=200, headers=answered)),
        callee=str(decided.send.destination.cluster.service),
        method=sent.method,
        target=sent.target,
        authority=sent.authority,
        headers=_compared(sent.headers),
    )


def _draws(routes: Iterable[Route]) -> list[int]:
    """Numbers by which every backend has its turn."""
    chances = [len(getattr(route.action, "backends", ())) > 1 or route.match.share for route in routes]
    return [base + step for base in range(0, 1_000_000, 83_333) for step in range(7)] if any(chances) else [0]


def _told(answer: Answer) -> dict[str, str]:
    names = {"rule": "x-rule", "location": "location", "got": "x-got"}
    echoed = ",echo" if answer.header("x-echo") else ""
    found = {key: (answer.header(name) or "").replace(", ", ",") for key, name in names.items()}
    return {**found, "got": found["got"] + echoed}


def _compared(headers: Headers) -> tuple[tuple[str, str], ...]:
    together: dict[str, str] = {}
    for name, value in joined(headers):
        if name not in UNCOMPARED and not name.startswith(OF_PROXIES):
            together[name] = f"{together[name]},{value}" if name in together else value
    return tuple(sorted(together.items()))


def _utf8(value: str) -> str:
    """The application of the tests reads bytes as Latin-1."""
    return value.encode("latin-1").decode("utf-8", "surrogateescape")


def _named(route: Route, index: int) -> Route:
    wanted = ValueMatch(name=CASE, kind=ValueKind.EXACT, value=str(index))
    return replace(route, match=replace(route.match, headers=(*route.match.headers, wanted)))


def _destination(service: object) -> Destination:
    cluster = Cluster(service=service, protocol=Protocol.HTTP, identities=(CALLER,))
    return Destination(name=service.path, cluster=cluster)


def _view(routes: tuple[Route, ...]) -> View:
    way = Outbound(
        service=ORDERS, protocol=Protocol.HTTP, hosts=("orders", "orders.shop"), answers_bare=True, routes=routes
    )
    vantage = Vantage(placement=Placement.SIDECAR, dialect=Dialect.ENVOY, namespace="shop", service_account="web")
    clusters = tuple(
        Cluster(service=each, protocol=Protocol.HTTP, identities=(CALLER,), has_plaintext=True)
        for each in (ORDERS, STOCK)
    )
    return View(
        vantage=vantage,
        trust_domain="mesh.local",
        identity=CALLER,
        outbound=(way,),
        clusters=clusters,
        is_registry_only=True,
    )


@contextmanager
def routed(live: Live) -> Iterator[Routed]:
    found = Routed(live)
    try:
        yield found
    finally:
        found.close()
