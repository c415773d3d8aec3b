"""What an instance says of its load with an answer: an ORCA report (``xds.data.orca.v3.OrcaLoadReport``) in a header.

Callers ask by ``endpoint-load-metrics-format``, as load balancers ask servers of models (Triton, vLLM), and get
``endpoint-load-metrics``: its native form, "comma separated key-value pairs with the map fields elided into the top
level scope", or JSON; each after a word that says which. ORCA has no field of its own for requests under way, so they
are a named metric (gRFC A51: "request cost", "utilization" and "named" metrics are the application's).
Pure. Invariant: what cannot be read says nothing; it never fails a call.
"""

from collections.abc import Mapping
from functools import lru_cache
from json import loads
from math import isfinite
from typing import Any, Final, cast

from masche.model.frozen import frozen

REPORT: Final = "endpoint-load-metrics"
"""The response header that carries a report."""

ASK: Final = ("endpoint-load-metrics-format", "text")
"""The request header that asks for one, in its native form."""

UNDER_WAY: Final = "named_metrics.in_flight"
"""How many other requests an instance has under way while it answers, those included that wait in it."""

_TEXT, _JSON = "TEXT ", "JSON "
_LONGEST = 4096
_LEAST, _MOST = 1e-9, 1e12


@frozen(kw_only=False)
class LoadReport:
    """``under_way``: other requests that the instance has, negative: it does not say. ``weight``: how much it bears of
    what all get (gRFC A58: ``qps / (utilization + eps / qps * error_utilization_penalty)``), 0: it does not say.
    """

    under_way: float = -1.0
    weight: float = 0.0


def asks(headers: tuple[tuple[str, str], ...]) -> bool:
    """Does a request ask for a report in the form in which we give it?"""
    return ASK in headers


def spoken(under_way: int) -> tuple[str, str]:
    """Return the header by which an instance says that it has so many other requests under way."""
    return REPORT, f"{_TEXT}{UNDER_WAY}={under_way}"


def with_ours(value: str, under_way: int) -> str:
    """Return an application's own report with ours in it, where that is possible: what it says itself it is to say."""
    return f"{value},{UNDER_WAY}={under_way}" if value.startswith(_TEXT) and UNDER_WAY not in value else value


def told(said: Mapping[str, str]) -> LoadReport | None:
    """Return what an answer with these headers tells, by their names in lower case."""
    value = said.get(REPORT)
    return None if value is None else read(value)


@lru_cache(maxsize=4096)
def read(value: str) -> LoadReport | None:
    """Read a report; None when it says nothing that helps to choose, or cannot be read."""
    if len(value) > _LONGEST:
        return None
    found = _of_json(value.removeprefix(_JSON)) if value.startswith(_JSON) else _of_text(value.removeprefix(_TEXT))
    report = LoadReport(found.get(UNDER_WAY, -1.0), _weight(found))
    return report if report.under_way >= 0 or report.weight > 0 else None


def _weight(found: Mapping[str, float]) -> float:
    """As gRPC's weighted_round_robin has it, with its default penalty of 1; the application's own utilization wins."""
    utilization = found.get("application_utilization", 0.0) or found.get("cpu_utilization", 0.0)
    rate, errors = found.get("rps_fractional", 0.0) or found.get("rps", 0.0), found.get("eps", 0.0)
    if utilization <= 0 or rate <= 0:
        return 0.0
    weight = rate / (utilization + max(0.0, errors) / rate)
    return min(max(weight, _LEAST), _MOST)


def _of_text(text: str) -> Mapping[str, float]:
    """``cpu_utilization=0.3,named_metrics.in_flight=2``; some write a colon."""
    pairs = (each.replace(":", "=", 1).partition("=") for each in text.split(","))
    return _numbers({name.strip(): number.strip() for name, _, number in pairs})


def _of_json(text: str) -> Mapping[str, float]:
    try:
        said = loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    fields = {_IN_JSON.get(name, name): value for name, value in cast("dict[str, Any]", said).items()}
    named = fields.pop("named_metrics", None)
    if isinstance(named, dict):
        fields |= {f"named_metrics.{name}": value for name, value in cast("dict[str, Any]", named).items()}
    return _numbers(fields)


_IN_JSON = {
    "applicationUtilization": "application_utilization",
    "cpuUtilization": "cpu_utilization",
    "rpsFractional": "rps_fractional",
    "namedMetrics": "named_metrics",
}
"""protobuf's JSON knows each field by two names."""


def _numbers(fields: Mapping[str, Any]) -> Mapping[str, float]:
    """What is a number, and not below 0."""
    found: dict[str, float] = {}
    for name, value in fields.items():
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if isfinite(number) and number >= 0:
            found[name] = number
    return found
