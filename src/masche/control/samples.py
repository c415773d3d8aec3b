"""A Report as samples of edges: who called which port of whom, how often, how well and how fast. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from masche.control.naming import Naming
from masche.identity.spiffe import SpiffeError, SpiffeId, WorkloadIdentity
from masche.link.messages import EdgeReport, EndpointReport
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.telemetry.histogram import Histogram
from masche.telemetry.series import Edge, Sample

SERVER_ERROR = 500

Samples = dict[Edge, Sample]


@dataclass(slots=True)
class Totals:
    """Counters per edge since the start, for Prometheus; bounded like the series."""

    edges: Samples = field(default_factory=dict[Edge, Sample])
    limit: int = 2000

    def add(self, samples: Mapping[Edge, Sample]) -> None:
        """Add what one Report counted; edges only, not single instances."""
        for edge, sample in samples.items():
            if not edge.instance and (edge in self.edges or len(self.edges) < self.limit):
                self.edges.setdefault(edge, Sample()).absorb(sample)


def add_edge(report: EdgeReport, samples: Samples, *, names: Naming, mesh: Mesh) -> None:
    """Count one edge: a call where the caller saw it, a refusal where the callee did."""
    mine = names.node(report.workload)
    if report.direction == "outbound" and report.service is not None:
        add(samples, Edge(mine, str(report.service.owner), report.service.port), _of_edge(report))
    elif report.direction == "inbound" and report.rule:
        denied = Sample(denied=sum(report.codes.values()))
        add(samples, _denied_edge(report, mine, samples, mesh), denied)


def add(samples: Samples, edge: Edge, sample: Sample) -> None:
    """Count a sample on an edge."""
    samples.setdefault(edge, Sample()).absorb(sample)


def of_instance(report: EndpointReport) -> Sample:
    """What one proxy saw of one instance."""
    latency = Histogram(report.latency.buckets, sum_us=report.latency.sum_us)
    return Sample(requests=report.requests, failures=report.errors, latency=latency)


Calls = Mapping[PortRef, Mapping[str, int]]
"""How often each node of the graph called a port."""


def calls(edges: Iterable[EdgeReport], names: Naming) -> Calls:
    """Who called what, of one Report of one proxy."""
    found: dict[PortRef, dict[str, int]] = {}
    for edge in edges:
        often = sum(edge.codes.values()) or edge.connections
        if edge.direction == "outbound" and edge.service is not None and often:
            callers = found.setdefault(edge.service, {})
            source = names.node(edge.workload)
            callers[source] = callers.get(source, 0) + often
    return found


def divided(sample: Sample, shares: Mapping[str, int]) -> Iterator[tuple[str, Sample]]:
    """A sample of all callers together, as each one's: counts by their shares, which add up, and the times of all."""
    total, reached = sum(shares.values()), 0
    for source, share in shares.items():
        begin, reached = reached, reached + share
        yield (
            source,
            Sample(
                requests=sample.requests * reached // total - sample.requests * begin // total,
                failures=sample.failures * reached // total - sample.failures * begin // total,
                latency=Histogram(sample.latency.buckets, sum_us=sample.latency.sum_us),
            ),
        )


def _denied_edge(report: EdgeReport, mine: str, samples: Samples, mesh: Mesh) -> Edge:
    """The edge whose call was denied: the caller by its identity, the port as it was called if that is known."""
    source = _caller(report.peer)
    known = (edge for edge in samples if (edge.source, edge.destination) == (source, mine) and not edge.instance)
    namespace, _, name = mine.rpartition("/")
    service = mesh.services.get(Name(namespace, name))
    first = service.spec.ports[0].port if service and service.spec.ports else 0
    return next(known, Edge(source, mine, first))


def _of_edge(report: EdgeReport) -> Sample:
    return Sample(
        requests=sum(report.codes.values()),
        failures=sum(count for code, count in report.codes.items() if code >= SERVER_ERROR or code == 0),
        connections=report.connections,
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        latency=Histogram(report.latency.buckets, sum_us=report.latency.sum_us),
    )


def _caller(peer: str) -> str:
    try:
        role = SpiffeId.parse(peer).role
    except SpiffeError:
        return "(plaintext)"
    return f"{role.namespace}/{role.service_account}" if isinstance(role, WorkloadIdentity) else peer
