"""Encode trouble that is made on purpose as Envoy's fault filter, on the routes that it is for.

The filter stands asleep in the chain of a listener by which somebody in trouble calls, and a route wakes it. Invariant:
where no route has trouble there is no filter.
"""

from masche.compiler.envoy.matches import header
from masche.compiler.envoy.parts import extension
from masche.model.view import Fault
from masche.wire.messages import Body, Json, any_of

_NAME = "envoy.filters.http.fault"
_FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault"

_ASLEEP: tuple[Body, ...] = ({**extension(_NAME, _FAULT), "disabled": True},)


def filters(*, is_troubled: bool) -> tuple[Body, ...]:
    """Return the filter of a chain on whose routes there is trouble, or nothing."""
    return _ASLEEP if is_troubled else ()


def asked(fault: Fault) -> dict[str, Json]:
    """Return what stands in the ``typed_per_filter_config`` of a route."""
    body: dict[str, Json] = {"disable_downstream_cluster_stats": True}
    if fault.delay_percent:
        body["delay"] = {"fixed_delay": fault.delay, "percentage": _share(fault.delay_percent)}
    if fault.abort_percent:
        body["abort"] = {"http_status": fault.status, "percentage": _share(fault.abort_percent)}
    if fault.headers:
        body["headers"] = [header(each) for each in fault.headers]
    return {_NAME: any_of(_FAULT, body)}


def _share(percent: float) -> Body:
    return {"numerator": round(percent * 10_000), "denominator": "MILLION"}
