"""The names of what is measured, in one place: every metric that masche exposes, with its help, labels and buckets.

Those that Envoy itself counts are written by the encoder, which stands below this package, and are only repeated here.
"""

from typing import Literal

from masche.model.frozen import frozen
from masche.wire import stats as mesh

MESH_REQUESTS = mesh.PREFIX + mesh.REQUESTS
MESH_INSTANCE_REQUESTS = mesh.PREFIX + mesh.INSTANCE_REQUESTS
MESH_DENIED = mesh.PREFIX + mesh.DENIED
MESH_REQUEST_US = mesh.PREFIX + mesh.REQUEST_US
MESH_INSTANCE_US = mesh.PREFIX + mesh.INSTANCE_US
MESH_INSTANCE_SERVICE_US = mesh.PREFIX + mesh.INSTANCE_SERVICE_US
MESH_CONNECTIONS = mesh.PREFIX + mesh.CONNECTIONS
MESH_RECEIVED_BYTES = mesh.PREFIX + mesh.RECEIVED_BYTES
MESH_SENT_BYTES = mesh.PREFIX + mesh.SENT_BYTES
"""Families as ``/stats/prometheus`` of Envoy shows them; tags and meanings are described in ``masche.wire.stats``."""

SOURCE = "source"
DESTINATION = "destination"
PORT = "port"
OUTCOME = "outcome"
TYPE = "type"
KIND = "kind"
STATE = "state"
METRIC = "metric"
"""Labels. ``source`` and ``destination`` are ``namespace/service``; ``outcome`` is ``success``, ``failure`` or
``denied``; ``type`` is the last word of an xDS type URL."""

LATENCY_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


@frozen
class Metric:
    """One family: its kind, its help, its labels in order, and for a histogram the upper bounds in seconds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = LATENCY_SECONDS


REQUESTS = Metric(
    name="masche_requests_total",
    kind="counter",
    help="Requests of one service to a port of another, by outcome, as the callers' proxies saw them.",
    labels=(SOURCE, DESTINATION, PORT, OUTCOME),
)
REQUEST_DURATION = Metric(
    name="masche_request_duration_seconds",
    kind="histogram",
    help="Time from a request to the end of its answer, as the callers' proxies saw it.",
    labels=(SOURCE, DESTINATION, PORT),
)
CONNECTIONS = Metric(
    name="masche_connections_total",
    kind="counter",
    help="TCP connections of one service to a port of another that have ended.",
    labels=(SOURCE, DESTINATION, PORT),
)
SENT_BYTES = Metric(
    name="masche_sent_bytes_total",
    kind="counter",
    help="Bytes that callers sent over TCP connections.",
    labels=(SOURCE, DESTINATION, PORT),
)
RECEIVED_BYTES = Metric(
    name="masche_received_bytes_total",
    kind="counter",
    help="Bytes that callers received over TCP connections.",
    labels=(SOURCE, DESTINATION, PORT),
)
REVISION = Metric(name="masche_revision", kind="gauge", help="The revision of the mesh that is compiled.")
RESOURCES = Metric(name="masche_resources", kind="gauge", help="Resources in the store, by kind.", labels=(KIND,))
WORKLOADS = Metric(name="masche_workloads", kind="gauge", help="Workloads by state.", labels=(STATE,))
PROXIES = Metric(
    name="masche_proxies",
    kind="gauge",
    help="Registered proxies by state: in_sync, pending, rejected or absent.",
    labels=(STATE,),
)
LEASES_HELD = Metric(
    name="masche_leases_held", kind="gauge", help="Expired leases that are not acted upon, because too many expired."
)
REJECTIONS = Metric(
    name="masche_rejections_total",
    kind="counter",
    help="Discovery responses that a proxy rejected, by type.",
    labels=(TYPE,),
)
COMPILE_DURATION = Metric(
    name="masche_compile_duration_seconds", kind="histogram", help="Time to compile a revision for all proxies."
)
CERTIFICATES = Metric(
    name="masche_certificates_issued_total", kind="counter", help="Certificates that this authority has signed."
)
EVENTS = Metric(name="masche_events_total", kind="counter", help="Events by kind.", labels=(KIND,))
FOLDED = Metric(
    name="masche_series_folded_total",
    kind="counter",
    help="Writes to series beyond the limit of a metric, which were counted with all labels 'other'.",
    labels=(METRIC,),
)
"""``telemetry.prometheus.Metrics`` counts this one itself."""
