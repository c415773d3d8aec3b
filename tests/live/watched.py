"""What an agent would report of one Envoy's instances, read as an agent reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from live.proxies import Proxy, eventually
from masche.agent import meter, pages, sight
from masche.agent.meter import Meter, Reading, Standing, Way
from masche.link import messages
from masche.model.refs import PortRef
from masche.telemetry.histogram import Histogram


@dataclass
class Seen:
    """What came of the calls to one service since."""

    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    latency: Histogram = field(default_factory=Histogram)
    service_time: Histogram = field(default_factory=Histogram)
    ways: set[tuple[str, str]] = field(default_factory=set)
    """Endpoints, and the gateways by which they were reached."""

    def add(self, report: messages.EndpointReport) -> None:
        self.requests += report.requests
        self.errors += report.errors
        self.timeouts += report.timeouts
        self.latency.absorb(_histogram(report.latency))
        self.service_time.absorb(_histogram(report.service_time))
        if report.requests:
            self.ways.add((report.endpoint, report.via))


class Watched:
    """What one Envoy says of its instances from now on."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._meter = Meter()
        self._read()

    def _read(self) -> Reading:
        page, histograms = (self._proxy.ask(target).encode() for target in (pages.NUMBERS, pages.HISTOGRAMS))
        return self._meter.read(pages.parse(page, histograms), process=1, is_inherited=True)

    def until_seen(self, service: PortRef, tries: int = 1, *, timed: int = 0) -> Seen:
        """Wait until so many tries at a service are counted, and the answers among them timed, or ``timed`` of them."""
        total = Seen()

        def seen() -> Seen | None:
            for each in meter.endpoints(self._read(), {}):
                if each.service == service:
                    total.add(each)
            is_timed = total.latency.count >= (timed or total.requests - total.errors)
            return total if is_timed and total.requests >= tries else None

        return eventually(seen)

    def until_active(self, service: PortRef) -> int:
        """Wait until requests to a service wait for their answers, and say how many."""

        def waiting() -> int | None:
            return sum(each.active for way, each in self.standing().items() if way[0] == service) or None

        return eventually(waiting)

    def standing(self) -> Mapping[Way, Standing]:
        """How the endpoints of clusters in use stand now."""
        target = sight.question(self._read().clusters)
        return sight.standing(self._proxy.ask(target).encode()) if target else {}


def _histogram(of: messages.Histogram) -> Histogram:
    return Histogram(of.buckets, sum_us=of.sum_us)
