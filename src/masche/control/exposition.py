"""The control plane's own metrics on 15014: golden metrics of every edge, and how the mesh itself is doing.

Gauges are read off when the page is asked for; counters are added to where things happen. The page is read-only, has no
secrets, and is served on the API's address, loopback by default.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from masche.api.server import listening
from masche.control.measures import Measures
from masche.control.reading import Reading
from masche.control.vigil import Vigil
from masche.control.world import World
from masche.registry.merge import TABLES
from masche.telemetry import names
from masche.telemetry.events import Event
from masche.telemetry.prometheus import CONTENT_TYPE, Metrics


class Counters:
    """What is counted where it happens."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def heard(self, event: Event) -> None:
        """Count an event."""
        self.metrics.count(names.EVENTS, kind=event.kind)

    def rejected(self, type_url: str) -> None:
        """Count a resource that a proxy refused."""
        self.metrics.count(names.REJECTIONS, type=type_url.rpartition(".")[2])

    def signed(self) -> None:
        """Count a certificate."""
        self.metrics.count(names.CERTIFICATES)


class Exposition:
    """Renders the page: ``counters``, and what is read off the other parts when it is asked for."""

    def __init__(self, world: World, *, counters: Counters, measures: Measures, reading: Reading, vigil: Vigil) -> None:
        self._world = world
        self._measures = measures
        self._reading = reading
        self._vigil = vigil
        self._metrics = counters.metrics
        world.settled_hooks.append(self._settled)

    def page(self) -> str:
        """The page as it is now."""
        self._metrics.set(names.REVISION, self._world.revision)
        mesh = self._world.newest
        self._metrics.replace(
            names.RESOURCES, {kind.value: float(len(getattr(mesh, table))) for kind, table in TABLES.items()}
        )
        states = Counter(workload.state.value for workload in mesh.workloads.values())
        self._metrics.replace(names.WORKLOADS, {state: float(number) for state, number in states.items()})
        self._metrics.replace(names.PROXIES, self._proxies())
        self._metrics.set(names.LEASES_HELD, self._vigil.facts().held_back)
        return self._metrics.render() + self._edges().render()

    @contextlib.asynccontextmanager
    async def serving(self, *, host: str, port: int) -> AsyncGenerator[int]:
        """Serve ``/metrics`` while the block runs. Raises AddressError."""
        application = Starlette(routes=[Route("/metrics", self._answer)])
        async with listening(application, host=host, port=port, option="--metrics-port") as bound:
            yield bound

    async def _answer(self, _request: Request) -> Response:
        return PlainTextResponse(self.page(), headers={"content-type": CONTENT_TYPE})

    def _settled(self) -> None:
        self._metrics.observe(names.COMPILE_DURATION, self._world.cost)

    def _proxies(self) -> dict[str, float]:
        found: Counter[str] = Counter()
        for each in self._reading.proxies():
            if not each.is_connected:
                found["absent"] += 1
            elif each.rejections:
                found["rejected"] += 1
            else:
                found["in_sync" if each.is_in_sync else "pending"] += 1
        return {state: float(number) for state, number in found.items()}

    def _edges(self) -> Metrics:
        made = Metrics()
        for edge, sample in self._measures.totals().edges.items():
            labels = {names.SOURCE: edge.source, names.DESTINATION: edge.destination, names.PORT: str(edge.port)}
            succeeded = sample.requests - sample.failures
            for outcome, number in (("success", succeeded), ("failure", sample.failures), ("denied", sample.denied)):
                made.count(names.REQUESTS, max(0, number), **labels, outcome=outcome)
            made.absorb(names.REQUEST_DURATION, sample.latency, **labels)
            made.count(names.CONNECTIONS, sample.connections, **labels)
            made.count(names.SENT_BYTES, sample.bytes_sent, **labels)
            made.count(names.RECEIVED_BYTES, sample.bytes_received, **labels)
        return made
