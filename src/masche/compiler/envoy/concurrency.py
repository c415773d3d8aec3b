"""Encode the limit that an instance finds for itself: how many requests at a time it can carry without queueing.

Envoy's gradient controller, after Netflix's concurrency-limits (2018): the limit follows the quotient of the latency
of an unloaded instance and the latency now, with the square root of the limit as headroom. Invariant: what is refused
here never reached the application, and its caller's proxy is told so.
"""

from masche.compiler.envoy.parts import extension
from masche.model.calling import AdaptiveConcurrency
from masche.wire.messages import Body

_FILTER = "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency"
_CEL = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"

_BUFFER_PERCENT = 25.0
"""Latency may be so much above the unloaded one before the limit falls."""

_LEAST = 3
"""Requests at a time that are always let through, and the number with which the unloaded latency is measured."""

_UPDATE_INTERVAL = 0.1
_MEASURE_INTERVAL = 60.0
_MEASURED_REQUESTS = 50

REFUSED: Body = {
    "extension_filter": extension(
        "envoy.access_loggers.extension_filters.cel",
        _CEL,
        {"expression": "response.code_details == 'reached_concurrency_limit'"},
    )
}
"""Holds of an answer that says that the limit is reached."""


def filters(concurrency: AdaptiveConcurrency) -> tuple[Body, ...]:
    """Return the HTTP filter of an inbound listener, or nothing when nothing is limited."""
    if not concurrency.enabled:
        return ()
    controller: Body = {
        # The median: a few slow requests among many say nothing about load.
        "sample_aggregate_percentile": {"value": 50},
        "concurrency_limit_params": {
            "max_concurrency_limit": concurrency.max_concurrency,
            "min_concurrency_limit": min(_LEAST, concurrency.max_concurrency),
            "concurrency_update_interval": _UPDATE_INTERVAL,
        },
        "min_rtt_calc_params": {
            "buffer": {"value": _BUFFER_PERCENT},
            "min_concurrency": min(_LEAST, concurrency.max_concurrency),
            **_unloaded(concurrency.base_latency),
        },
    }
    body: Body = {
        "gradient_controller_config": controller,
        "enabled": {"default_value": True, "runtime_key": "masche.adaptive_concurrency"},
        "concurrency_limit_exceeded_status": {"code": "ServiceUnavailable"},
    }
    return (extension("envoy.filters.http.adaptive_concurrency", _FILTER, body),)


def _unloaded(latency: float) -> Body:
    """The latency without load: as written, or measured now and then with few requests at a time."""
    if latency:
        return {"fixed_value": latency}
    return {"interval": _MEASURE_INTERVAL, "request_count": _MEASURED_REQUESTS, "jitter": {"value": 10}}
