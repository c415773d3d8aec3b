"""The statistics that every generated listener keeps, by Envoy's stats access logger: names, tags and what they mean.

The encoder writes these names and the agent reads them from ``/stats/prometheus`` of its Envoy, where a counter
``requests_total`` is ``envoy_mesh_requests_total`` and a histogram ``request_us`` is ``envoy_mesh_request_us_bucket``
(``_sum``, ``_count``), with the tags as labels. Invariant: a label takes values from the mesh's own resources, from
verified certificates or from small fixed sets, never from what a client sent.

Counters of HTTP, one increment per finished request (of instances: per try, repeats included):
    requests_total          reporter, source, destination, code, grpc, flags
    instance_requests_total destination, instance, code, flags (reporter source only: one line per upstream address)
    denied_total            source, destination, rule         (reporter destination only; beside requests_total)
Histograms of HTTP, in microseconds:
    request_us              reporter, source, destination     (first byte in to last byte out, as this proxy saw it; not
                                                              of an answer that was cut off, nor of a small refusal)
    instance_us             destination, instance             (request out to first byte of the answer back; of answers
                                                              below 500 only, but for 429 and what a rule of the mesh
                                                              denied: failing fast is not being fast)
    instance_service_us     destination, instance             (of that, what the instance's own proxy said it took; not
                                                              of an instance of the same proxy, whose time is all of it)
Counters and a histogram of TCP, at the end of each connection:
    connections_total       reporter, source, destination, flags
    received_bytes_total    reporter, source, destination     (from the caller)
    sent_bytes_total        reporter, source, destination     (to the caller)
    connection_ms           reporter, source, destination

Tags:
    reporter     "source" (outbound and gateway listeners) or "destination" (inbound listeners)
    source       the caller's SPIFFE ID; "" for a plaintext caller
    destination  reporter source: the cluster, ``PortRef.path`` (``outbound/<ns>/<service>/<port>``), "passthrough", or
                 "" when nothing was chosen; reporter destination: ``inbound/<ns>/<workload>/<application port>``
    code         the HTTP status, "0" (of a try: "") when the caller went away before there was one
    grpc         the gRPC status number, "" for a call that is not gRPC
    flags        Envoy's response flags ("-" for none): UF connect failure, UO overflow, URX retries spent, ... Of a try
                 without a code: UT one that its own limit ended, "-" one that the whole request's limit, or the caller,
                 ended; the others never reached an application or lost it
    instance     address and port of the upstream that was tried, "" for none
    workload     whose listener it was, ``<ns>/<workload>``; only on a proxy that serves several
    rule         the rule that refused the call, ``shop/allow-web rules[0]``; "" when no ALLOW policy matched
"""

SCOPE = "mesh"
PREFIX = f"envoy_{SCOPE}_"

REQUESTS = "requests_total"
INSTANCE_REQUESTS = "instance_requests_total"
DENIED = "denied_total"
REQUEST_US = "request_us"
INSTANCE_US = "instance_us"
INSTANCE_SERVICE_US = "instance_service_us"
CONNECTIONS = "connections_total"
RECEIVED_BYTES = "received_bytes_total"
SENT_BYTES = "sent_bytes_total"
CONNECTION_MS = "connection_ms"

REPORTER = "reporter"
SOURCE = "source"
DESTINATION = "destination"
CODE = "code"
GRPC = "grpc"
FLAGS = "flags"
INSTANCE = "instance"
RULE = "rule"
WORKLOAD = "workload"

SERVICE_HEADER = "x-masche-service-us"
"""The response header in which an inbound proxy tells an authenticated caller's proxy what the application took: the
microseconds from the request's first byte to the first byte of the answer. No application ever sees or sets it."""

REPORTER_SOURCE = "source"
REPORTER_DESTINATION = "destination"

MAX_COUNTERS = 20_000
MAX_HISTOGRAMS = 5_000
"""The most series one proxy keeps; beyond them Envoy drops new ones instead of growing."""


def log_linear(low: float, high: float, steps: int) -> tuple[float, ...]:
    """Return bucket bounds from ``low`` that double, each doubling divided in ``steps`` equal parts, up to ``high``."""
    bounds: list[float] = []
    octave = low
    while octave < high:
        bounds += [octave + octave * step / steps for step in range(steps)]
        octave *= 2
    return (*(bound for bound in bounds if bound < high), high)


LATENCY_US = log_linear(500, 60_000_000, 4)
"""Bounds of the histograms in microseconds: 0.5 ms to 60 s, each bucket at most a quarter wider than the one before."""

CONNECTION_BOUNDS_MS = log_linear(1, 3_600_000, 2)
"""Bounds of ``connection_ms``: 1 ms to an hour."""
