"""Encode what a listener reports: the mesh's statistics, and a line of JSON for what failed or was refused.

Names and tags are those of ``wire.stats``, and the promise there holds here: no tag takes a value that a client sent.
"""

from functools import lru_cache

from masche.compiler.envoy.parts import extension, literal
from masche.compiler.envoy.rbac import ALLOW_PREFIX, DENY_PREFIX
from masche.wire import stats
from masche.wire.messages import Body, Json

_STATS = "envoy.extensions.access_loggers.stats.v3.Config"
_CEL = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
_STDOUT = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"

_POLICY, _RESULT = "shadow_effective_policy_id", "shadow_engine_result"

_WHOLE_US = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
_SERVICE_US = "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%"
_UPSTREAM_US = "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%"

CERTIFIED = "%DOWNSTREAM_PEER_URI_SAN%"
"""Who calls, where callers show a certificate."""

_LINE: Body = {
    "time": "%START_TIME%",
    "route": "%ROUTE_NAME%",
    "code": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "method": "%REQ(:METHOD)%",
    "authority": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",
    "peer": CERTIFIED,
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "closed": "%CONNECTION_TERMINATION_DETAILS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "milliseconds": "%DURATION%",
}


def refused_by_rule(rbac: str) -> Body:
    """Return a filter that holds for what a DENY rule refused; ``rbac`` names the metadata of the RBAC filters."""
    return _metadata(rbac, DENY_PREFIX)


def refused_by_none(rbac: str) -> Body:
    """Return a filter that holds for what no ALLOW rule matched."""
    return _metadata(rbac, ALLOW_PREFIX)


def refused(rbac: str) -> Body:
    """Return a filter that holds for every refusal."""
    return {"or_filter": {"filters": [refused_by_rule(rbac), refused_by_none(rbac)]}}


def rule_of(rbac: str) -> str:
    """Return the format of the DENY rule that refused; "" when none did."""
    return f"%DYNAMIC_METADATA({rbac}:{DENY_PREFIX}{_POLICY})%"


@lru_cache(maxsize=4_096)
def outbound_http(identity: str, workload: str = "") -> tuple[Body, ...]:
    """Return the access logs of a listener that takes requests from the workload at ``identity``, or at the edge.

    ``workload`` is its name, where statistics are to say whose they are.
    """
    edge = _edge(stats.REPORTER_SOURCE, literal(identity), "%UPSTREAM_CLUSTER_RAW%", workload)
    return (*_requests(edge), _failures(None, CERTIFIED, workload))


@lru_cache(maxsize=4_096)
def instances(workload: str = "") -> tuple[Body, ...]:
    """Return what a router reports of each try at an instance, repeats included."""
    tags = {stats.DESTINATION: "%UPSTREAM_CLUSTER_RAW%", stats.INSTANCE: "%UPSTREAM_HOST%", **_of(workload)}
    counter = _counter(stats.INSTANCE_REQUESTS, {**tags, stats.CODE: "%RESPONSE_CODE%", stats.FLAGS: _FLAGS})
    latency = _histogram(stats.INSTANCE_US, tags, "Microseconds", _UPSTREAM_US)
    service_time = _histogram(stats.INSTANCE_SERVICE_US, tags, "Microseconds", f"%RESP({stats.SERVICE_HEADER})%")
    return (
        _statistics([counter], []),
        {**_statistics([], [latency]), "filter": _ANSWERED},
        {**_statistics([], [service_time]), "filter": _NEIGHBOUR_OR_PROVEN if workload else _SERVICE_TIME_KNOWN},
    )


@lru_cache(maxsize=4_096)
def inbound_http(destination: str, rbac: str, source: str = CERTIFIED, workload: str = "") -> tuple[Body, ...]:
    """Return the access logs of a listener that takes requests for ``destination``; ``rbac`` decides.

    ``source`` is the format that says who called.
    """
    edge = _edge(stats.REPORTER_DESTINATION, source, literal(destination), workload)
    return (*_requests(edge), _denials(edge, rbac), _failures(rbac, source, workload))


@lru_cache(maxsize=4_096)
def outbound_tcp(identity: str, workload: str = "", destination: str = "%UPSTREAM_CLUSTER_RAW%") -> tuple[Body, ...]:
    """Return the access logs of a listener that takes connections from the workload at ``identity``."""
    return (_connections(_edge(stats.REPORTER_SOURCE, literal(identity), destination, workload)),)


@lru_cache(maxsize=4_096)
def inbound_tcp(destination: str, rbac: str, source: str = CERTIFIED, workload: str = "") -> tuple[Body, ...]:
    """Return the access logs of a listener that takes connections for ``destination``."""
    edge = _edge(stats.REPORTER_DESTINATION, source, literal(destination), workload)
    return (_connections(edge), _denials(edge, rbac), {**_lines(source, workload), "filter": refused(rbac)})


_FLAGS = "%RESPONSE_FLAGS%"
_OUTCOME = {stats.CODE: "%RESPONSE_CODE%", stats.GRPC: "%GRPC_STATUS_NUMBER%", stats.FLAGS: _FLAGS}


def service_time(*requests: Body) -> Body:
    """Return the HTTP filter of an inbound listener that tells the caller's proxy how long the application took.

    ``requests`` are more mutations, of what is asked.
    """
    said: Body = {
        "append": {
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            "header": {"key": stats.SERVICE_HEADER, "value": _SERVICE_US},
        }
    }
    mutations: Body = {"request_mutations": list(requests), "response_mutations": [said]}
    return extension("envoy.filters.http.header_mutation", _MUTATION, {"mutations": mutations})


def _status(operator: str, status: int) -> Body:
    comparison = {"op": operator, "value": {"default_value": status, "runtime_key": f"mesh.log.{status}"}}
    return {"status_code_filter": {"comparison": comparison}}


_ANSWERED: Body = {"and_filter": {"filters": [_status("GE", 100), _status("LE", 499)]}}
"""Holds of a try that was answered and did not fail: failing fast is not being fast."""


def _where(expression: str) -> Body:
    return {
        "extension_filter": extension("envoy.access_loggers.extension_filters.cel", _CEL, {"expression": expression})
    }


_ENDED = _where("response.flags == 0 || response.code >= 500")
"""Holds when the answer has an end: what was cut off after its beginning has a flag, and the code it began with."""

_LONGEST_US = 24 * 3600 * 1_000_000
_SAID_US = f"int(response.headers['{stats.SERVICE_HEADER}'])"
_PROVEN = "upstream.tls_version == 'TLSv1.3'"
_SAID = f"{_SAID_US} >= 0 && {_SAID_US} <= {_LONGEST_US}"
_SERVICE_TIME_KNOWN = _where(f"response.code < 500 && {_PROVEN} && {_SAID}")
"""Holds of such a try when a peer that proved who it is said what it took. Of a connection in the clear there is no TLS
version, and of what is no number no value: then the expression has none either, and that is not true."""

_INSIDE = "upstream.address.startsWith('envoy://local/')"
_NEIGHBOUR_OR_PROVEN = _where(f"response.code < 500 && ({_INSIDE} || {_PROVEN}) && {_SAID}")
"""The same on a proxy that serves several workloads, which hear what the others took from the proxy itself."""


def _requests(edge: dict[str, str]) -> tuple[Body, ...]:
    counter = _counter(stats.REQUESTS, {**edge, **_OUTCOME})
    histogram = _histogram(stats.REQUEST_US, edge, "Microseconds", _WHOLE_US)
    return (_statistics([counter], []), {**_statistics([], [histogram]), "filter": _ENDED})


def _edge(reporter: str, source: str, destination: str, workload: str = "") -> dict[str, str]:
    return {stats.REPORTER: reporter, stats.SOURCE: source, stats.DESTINATION: destination, **_of(workload)}


def _of(workload: str) -> dict[str, str]:
    return {stats.WORKLOAD: literal(workload)} if workload else {}


def _statistics(counters: list[Body], histograms: list[Body]) -> Body:
    scope: Body = {
        "prefix": stats.SCOPE,
        "sharing_name": stats.SCOPE,
        "enable_eviction": True,
        "max_counters": stats.MAX_COUNTERS,
        "max_histograms": stats.MAX_HISTOGRAMS,
    }
    body: Body = {"stats_scope": scope, "counters": counters, "histograms": histograms}
    return extension("envoy.access_loggers.stats", _STATS, body)


def _counter(name: str, tags: dict[str, str], value: str = "") -> Body:
    amount: Body = {"value_format": value} if value else {"value_fixed": 1}
    return {"stat": _stat(name, tags), **amount}


def _histogram(name: str, tags: dict[str, str], unit: str, value: str) -> Body:
    return {"stat": _stat(name, tags), "unit": unit, "value_format": value}


def _stat(name: str, tags: dict[str, str]) -> Body:
    return {"name": name, "tags": [{"name": key, "value_format": value} for key, value in tags.items()]}


def _connections(edge: dict[str, str]) -> Body:
    counters = [
        _counter(stats.CONNECTIONS, {**edge, stats.FLAGS: _FLAGS}),
        _counter(stats.RECEIVED_BYTES, edge, "%BYTES_RECEIVED%"),
        _counter(stats.SENT_BYTES, edge, "%BYTES_SENT%"),
    ]
    return _statistics(counters, [_histogram(stats.CONNECTION_MS, edge, "Milliseconds", "%DURATION%")])


def _denials(edge: dict[str, str], rbac: str) -> Body:
    tags = {name: value for name, value in edge.items() if name != stats.REPORTER} | {stats.RULE: rule_of(rbac)}
    return {**_statistics([_counter(stats.DENIED, tags)], []), "filter": refused(rbac)}


@lru_cache(maxsize=4_096)
def limited(destination: str, rule: str, source: str = CERTIFIED, workload: str = "") -> Body:
    """Return the access log that counts, by the format of their ``rule``, requests beyond a limit.

    They have no line each: where too many come, a line for each would be too many, too.
    """
    edge = {stats.SOURCE: source, stats.DESTINATION: literal(destination), stats.RULE: rule, **_of(workload)}
    flagged: Body = {"response_flag_filter": {"flags": ["RL"]}}
    return {**_statistics([_counter(stats.DENIED, edge)], []), "filter": flagged}


def _lines(peer: str = CERTIFIED, workload: str = "") -> Body:
    line = {**_LINE, "peer": peer, **_of(workload)}
    return extension("envoy.access_loggers.stdout", _STDOUT, {"log_format": {"json_format": line}})


_LINES = _lines()


def _failures(rbac: str | None, peer: str, workload: str) -> Body:
    """A line for each answer of 500 and above, and for each refusal; all other calls are only counted."""
    server_error = _status("GE", 500)
    refusals = [refused_by_rule(rbac), refused_by_none(rbac)] if rbac else []
    kept: Body = {"or_filter": {"filters": [server_error, *refusals]}} if rbac else server_error
    return {**_lines(peer, workload), "filter": kept}


def _metadata(rbac: str, prefix: str) -> Body:
    value = {"string_match": {"exact": "denied"}}
    matcher: dict[str, Json] = {"filter": rbac, "path": [{"key": f"{prefix}{_RESULT}"}], "value": value}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


BROKEN_DETOURS: tuple[Body, ...] = ({**_LINES, "filter": {"response_flag_filter": {}}},)
"""A line for each detour that could not be taken, beside what the call inside it reports."""


@lru_cache(maxsize=4_096)
def tunnels(destination: str) -> tuple[Body, ...]:
    """Return the access logs of a gateway between zones: it counts per caller, and has a line for every tunnel."""
    edge = _edge(stats.REPORTER_DESTINATION, "%DOWNSTREAM_PEER_URI_SAN%", literal(destination))
    return (*_requests(edge), _LINES)
