"""The rules of TrafficSettings: the range of every field, and which fields go together.

They hold for a TrafficPolicy and for the defaults of a MeshConfig alike. Invariant: a value that the mesh could not
carry out in any placement is refused, with the range that would be right.
"""

from collections.abc import Mapping

from masche.model.spot import Finding, Findings, Spot
from masche.model.validate_durations import length

_HASHED = {"RingHash", "Maglev"}
_SLOW_STARTED = {"LeastRequest", "RoundRobin"}
_DAY, _MOST = 86_400.0, 1_000_000.0

Range = tuple[float, float]
"""The least and the most that may be written."""

NUMBERS: Mapping[str, Range] = {
    "loadBalancing.subsetting.size": (1, 1000),
    "outlierEjection.consecutiveErrors": (0, 1000),
    "outlierEjection.errorPercent": (0, 100),
    "outlierEjection.latencyFactor": (0, 100),
    "outlierEjection.maxEjectedPercent": (0, 100),
    "circuitBreaker.maxConnections": (1, _MOST),
    "circuitBreaker.maxPending": (1, _MOST),
    "circuitBreaker.maxRequests": (1, _MOST),
    "circuitBreaker.maxRetries": (0, 1000),
    "retryBudget.percent": (0, 100),
    "retryBudget.minConcurrent": (0, 1000),
    "hedging.maxPercent": (0, 100),
    "adaptiveConcurrency.maxConcurrency": (1, 100_000),
}
"""What each number may be."""

TIMES: Mapping[str, Range] = {
    "loadBalancing.slowStart": (0, 3600),
    "outlierEjection.interval": (0.01, 600),
    "outlierEjection.baseEjection": (0.01, 3600),
    "timeouts.request": (0, _DAY),
    "timeouts.perTry": (0, _DAY),
    "timeouts.idle": (0, _DAY),
    "timeouts.streamIdle": (0, _DAY),
    "timeouts.connect": (0.001, 60),
    "hedging.after": (0.001, 60),
    "adaptiveConcurrency.baseLatency": (0.001, 60),
    "connection.keepalive": (0, 3600),
    "connection.maxAge": (0, 7 * _DAY),
}
"""What each duration may be, in seconds."""

OR_NONE = {"connection.keepalive": 1.0, "connection.maxAge": 1.0, "outlierEjection.latencyFactor": 1.5}
"""Fields that are off at 0, and otherwise at least this much."""


def settings(spec: Spot) -> Findings:
    """Everything about one TrafficSettings."""
    for place, allowed in NUMBERS.items():
        yield from _number(_at(spec, place), place, allowed)
    for place, allowed in TIMES.items():
        yield from _time(_at(spec, place), place, allowed)
    yield from _load_balancing(spec["loadBalancing"])
    yield from _times(spec)
    yield from _hedging(spec["hedging"])


def _at(spec: Spot, place: str) -> Spot:
    for name in place.split("."):
        spec = spec[name]
    return spec


def _number(spot: Spot, place: str, allowed: Range) -> Findings:
    if isinstance(spot.value, bool) or not isinstance(spot.value, int | float):
        return
    if not _is_within(float(spot.value), place, allowed):
        yield _outside(spot, place, f"{spot.value:g}")


def _time(spot: Spot, place: str, allowed: Range) -> Findings:
    found = length(spot)
    if found is not None and not _is_within(found, place, allowed):
        yield _outside(spot, place, spot.text())


def _is_within(value: float, place: str, allowed: Range) -> bool:
    least, most = allowed
    return least <= value <= most and (value == 0 or value >= OR_NONE.get(place, least))


def _outside(spot: Spot, place: str, value: str) -> Finding:
    why = f"{place} {value} is out of range"
    if place.startswith("circuitBreaker.") and spot.value == 0:
        why += ": 0 would refuse every request"
    return spot.invalid(why, f"write {range_of(place)}", code="invalid-value")


def range_of(place: str) -> str:
    """Say in the words of a cure what may stand at a place: ``1ms to 1m``."""
    spelled = _duration if place in TIMES else _plain
    least, most = TIMES[place] if place in TIMES else NUMBERS[place]
    if place in OR_NONE:
        return f"{spelled(OR_NONE[place])} to {spelled(most)}, or {spelled(0.0)} for none"
    return f"{spelled(least)} to {spelled(most)}"


def _plain(value: float) -> str:
    return f"{value:,.10g}".replace(",", "")


def _duration(value: float) -> str:
    for unit, size in (("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if value and value % size == 0:
            return f"{value / size:g}{unit}"
    return f"{value * 1000:g}ms" if value else "0s"


def _times(spec: Spot) -> Findings:
    times = spec["timeouts"]
    request, per_try = length(times["request"]), length(times["perTry"])
    if request and per_try and per_try > request:
        yield times["perTry"].invalid("perTry cannot be longer than request", "shorten perTry")
    after = length(spec["hedging"]["after"])
    for name, limit in (("request", request), ("perTry", per_try)):
        if after and limit and after >= limit:
            why = f"a request ends after timeouts.{name}, so that it is never hedged"
            yield spec["hedging"]["after"].invalid(why, f"write less than timeouts.{name}")


def _hedging(hedging: Spot) -> Findings:
    if hedging.is_map and hedging["enabled"].value is not True and (hedging.has("after") or hedging.has("maxPercent")):
        why = "nothing is hedged unless hedging.enabled is true, here or in what is less specific"
        yield hedging.ignored(why, "add enabled: true")


def _load_balancing(balancing: Spot) -> Findings:
    algorithm, key = balancing["algorithm"].text("LeastRequest"), balancing["hashOn"]
    if algorithm in _HASHED and not key.is_there:
        yield balancing.invalid(f"{algorithm} needs hashOn", "add hashOn", code="invalid-missing")
    if key.is_there and algorithm not in _HASHED:
        yield key.invalid(f"{algorithm} hashes nothing", "remove hashOn, or use RingHash or Maglev")
    if key["type"].text() in {"Header", "Cookie"} and not key["name"].text():
        yield key.invalid(f"hashOn of type {key['type'].text()} needs a name", "add name", code="invalid-missing")
    if key["type"].text() == "SourceIP" and key["name"].text():
        yield key["name"].invalid("hashOn of type SourceIP has no name", "remove name")
    if balancing.has("slowStart") and algorithm not in _SLOW_STARTED:
        why = f"slowStart with {algorithm}"
        yield balancing["slowStart"].not_carried_out(why, "remove it, or use LeastRequest")
