"""What is added up for a Report, whoever counts: a proxy's agent, or a process with the library. Pure."""

from collections import defaultdict
from dataclasses import dataclass, field

from masche.link.messages import EdgeReport, Histogram
from masche.model.refs import Name, PortRef


@dataclass(slots=True)
class Edge:
    """What happened on one edge of the mesh: answers by status, by Envoy's response flag, bytes and connections."""

    codes: defaultdict[int, int] = field(default_factory=lambda: defaultdict[int, int](int))
    flags: defaultdict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    sent: int = 0
    received: int = 0
    connections: int = 0

    def told(self, *, workload: Name, service: PortRef | None, peer: str, rule: str, latency: Histogram) -> EdgeReport:
        """As ``workload`` saw it: the caller where there is a ``service``, else the callee."""
        return EdgeReport(
            direction="outbound" if service else "inbound",
            workload=workload,
            service=service,
            peer=peer,
            rule=rule,
            codes=dict(self.codes),
            flags=dict(self.flags),
            latency=latency,
            bytes_sent=self.sent,
            bytes_received=self.received,
            connections=self.connections,
        )
