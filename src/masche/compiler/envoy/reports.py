"""Encode what a listener reports: the mesh's statistics, and a line of JSON for what failed or was refused.

Names and tags are those of ``wire.stats``, and the promise there holds here: no tag takes a value that a client sent.
"""

from functools import lru_cache

from masche.compiler.envoy.counted import Condition, counter, histogram, logger
from masche.compiler.envoy.parts import extension, literal
from masche.compiler.envoy.rbac import ALLOW_PREFIX, DENY_PREFIX, HTTP_FILTER
from masche.wire import stats
from masche.wire.limits import DENIED
from masche.wire.messages import Body, Json

_CEL = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
_STDOUT = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"

_POLICY, _RESULT = "shadow_effective_policy_id", "shadow_engine_result"

_WHOLE_US = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
_WHOLE_US_OR_ANY = (
    """%COALESCE({"operators":[{"command":"COMMON_DURATION","param":"DS_RX_BEG:DS_TX_END:us"},"RESPONSE_CODE"]})%"""
)
"""A value is formatted before conditions are asked, and Envoy complains in its log of one that is no number: where this
has none there is another, of a call that is not kept then. The same holds of ``_SAID_US``."""

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
    """Return a filter that holds for what no ALLOW rule matched; of requests the answer itself says so."""
    return _NO_RULE if rbac == HTTP_FILTER else _metadata(rbac, ALLOW_PREFIX)


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
    tries = counter(stats.INSTANCE_REQUESTS, {**tags, stats.CODE: "%RESPONSE_CODE%", stats.FLAGS: _FLAGS})
    latency = histogram(stats.INSTANCE_US, tags, "Microseconds", _UPSTREAM_US, _ADMITTED)
    service_time = histogram(stats.INSTANCE_SERVICE_US, tags, "Microseconds", _SAID_US, _ADMITTED, _PROVEN, _SAID)
    return logger([tries]), logger([], [latency, service_time], _ANSWERED)


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


SERVICE_TIME: Body = {
    "append": {
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        "header": {"key": stats.SERVICE_HEADER, "value": _SERVICE_US},
    }
}
"""The change of an answer that tells the caller's proxy how long the application took."""


def _status(operator: str, status: int) -> Body:
    comparison = {"op": operator, "value": {"default_value": status, "runtime_key": f"mesh.log.{status}"}}
    return {"status_code_filter": {"comparison": comparison}}


_WHY_REFUSED: Body = {
    "extension_filter": extension(
        "envoy.access_loggers.extension_filters.cel",
        _CEL,
        {"expression": "response.code_details == 'rbac_access_denied_matched_policy[none]'"},
    )
}
_FAILED, _NOT_FAILED = _status("GE", 500), _status("LE", 499)

_ANSWERED: Body = {"and_filter": {"filters": [_status("GE", 100), _NOT_FAILED, _status("NE", 429)]}}
"""Holds of a try that was answered and did not fail: failing fast is not being fast, nor is turning away (429)."""

_NO_RULE: Body = {"and_filter": {"filters": [_status("EQ", 403), _WHY_REFUSED]}}
"""The expression is asked of few: of answers that refuse."""

_WHOLE = Condition(_FLAGS, ("exact", "-"))
"""Holds of an answer that has an end, if it did not fail: what was cut off after its beginning has a flag, and the code
that it began with."""

_ADMITTED = Condition(f"%RESP({DENIED})%", ("exact", ""))
"""Holds of an answer of the application's own: its proxy takes this header off it, and names in it the rule by which it
turned a request away itself, which tells nothing of how fast the application is."""

_PROVEN = Condition("%UPSTREAM_TLS_VERSION%", ("exact", "TLSv1.3"))
"""Holds of a peer that proved who it is; of a connection in the clear, or inside the proxy, there is no TLS version."""

_SAID = Condition(f"%RESP({stats.SERVICE_HEADER})%", ("safe_regex", "[0-9]{1,11}"))
"""Holds of a peer that said what it took, up to a day."""

_SAID_US = f"""%COALESCE({{"operators":[{{"command":"RESP","param":"{stats.SERVICE_HEADER}"}},"RESPONSE_CODE"]}})%"""
"""What it said."""


def _requests(edge: dict[str, str]) -> tuple[Body, ...]:
    whole = histogram(stats.REQUEST_US, edge, "Microseconds", _WHOLE_US_OR_ANY, _WHOLE)
    failed = histogram(stats.REQUEST_US, edge, "Microseconds", _WHOLE_US)
    counted = logger([counter(stats.REQUESTS, {**edge, **_OUTCOME})])
    return counted, logger([], [whole], _NOT_FAILED), logger([], [failed], _FAILED)


def _edge(reporter: str, source: str, destination: str, workload: str = "") -> dict[str, str]:
    return {stats.REPORTER: reporter, stats.SOURCE: source, stats.DESTINATION: destination, **_of(workload)}


def _of(workload: str) -> dict[str, str]:
    return {stats.WORKLOAD: literal(workload)} if workload else {}


def _connections(edge: dict[str, str]) -> Body:
    counters = [
        counter(stats.CONNECTIONS, {**edge, stats.FLAGS: _FLAGS}),
        counter(stats.RECEIVED_BYTES, edge, "%BYTES_RECEIVED%"),
        counter(stats.SENT_BYTES, edge, "%BYTES_SENT%"),
    ]
    return logger(counters, [histogram(stats.CONNECTION_MS, edge, "Milliseconds", "%DURATION%")])


def _denials(edge: dict[str, str], rbac: str) -> Body:
    tags = {name: value for name, value in edge.items() if name != stats.REPORTER} | {stats.RULE: rule_of(rbac)}
    return logger([counter(stats.DENIED, tags)], when=refused(rbac))


@lru_cache(maxsize=4_096)
def limited(destination: str, rule: str, source: str = CERTIFIED, workload: str = "") -> Body:
    """Return the access log that counts, by the format of their ``rule``, requests beyond a limit.

    They have no line each: where too many come, a line for each would be too many, too.
    """
    edge = {stats.SOURCE: source, stats.DESTINATION: literal(destination), stats.RULE: rule, **_of(workload)}
    return logger([counter(stats.DENIED, edge)], when={"response_flag_filter": {"flags": ["RL"]}})


def _lines(peer: str = CERTIFIED, workload: str = "") -> Body:
    line = {**_LINE, "peer": peer, **_of(workload)}
    return extension("envoy.access_loggers.stdout", _STDOUT, {"log_format": {"json_format": line}})


_LINES = _lines()


def _failures(rbac: str | None, peer: str, workload: str) -> Body:
    """A line for each answer of 500 and above, and for each refusal; all other calls are only counted."""
    refusals = [refused_by_rule(rbac), refused_by_none(rbac)] if rbac else []
    kept: Body = {"or_filter": {"filters": [_FAILED, *refusals]}} if rbac else _FAILED
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
