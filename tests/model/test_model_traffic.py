"""What a TrafficPolicy may say: every field has a range and a cure, and contradictions are refused."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from masche.model.diagnostic import Severity
from masche.model.resources.scalars import seconds
from masche.model.resources.traffic_policy import TrafficPolicy
from masche.model.validate_traffic import NUMBERS, OR_NONE, TIMES
from masche.model.yaml import Loaded, load


def read(spec: dict[str, Any]) -> Loaded:
    document = {"apiVersion": "masche.dev/v1", "kind": "TrafficPolicy", "metadata": {"name": "a"}, "spec": spec}
    return load(yaml.safe_dump(document), file="f.yaml")


def nested(place: str, value: Any) -> dict[str, Any]:
    """The spec that says one thing, with what it needs beside it."""
    *outer, last = place.split(".")
    spec: Any = {last: value}
    for name in reversed(outer):
        spec = {name: spec}
    if place.startswith("hedging."):
        spec["hedging"]["enabled"] = True
    return spec


def milliseconds(value: float) -> str:
    whole = round(value * 1000)
    return f"{whole // 3_600_000}h{whole % 3_600_000 // 60_000}m{whole % 60_000 // 1000}s{whole % 1000}ms"


EVERYTHING = """
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  steering: Off
  loadBalancing: {algorithm: LeastRequest, subsetting: {size: 20}, slowStart: 30s}
  locality: {preference: None, spill: false, detours: false}
  outlierEjection:
    {consecutiveErrors: 3, errorPercent: 50, latencyFactor: 2.5, interval: 2s, baseEjection: 9s, maxEjectedPercent: 30}
  circuitBreaker: {maxConnections: 1, maxPending: 2, maxRequests: 3, maxRetries: 0}
  retryBudget: {percent: 12.5, minConcurrent: 2}
  timeouts: {request: 3s, perTry: 1s, idle: 1m, streamIdle: 0s, connect: 200ms}
  hedging: {enabled: true, after: 100ms, maxPercent: 1}
  adaptiveConcurrency: {enabled: true, maxConcurrency: 50, baseLatency: 5ms}
  connection: {keepalive: 30s, maxAge: 1h}
"""


def test_everything_that_a_policy_may_say_is_read():
    loaded = load(EVERYTHING, file="f.yaml")
    assert not loaded.diagnostics
    (policy,) = loaded.resources
    assert isinstance(policy, TrafficPolicy)
    written = policy.model_dump(by_alias=True, exclude_none=True, mode="json")["spec"]
    assert written == yaml.safe_load(EVERYTHING.replace("Off", "'Off'"))["spec"] | {
        "targetRefs": [{"group": "", "kind": "Service", "name": "orders"}]
    }


@pytest.mark.parametrize("place", NUMBERS)
def test_a_number_beyond_its_range_is_refused_with_the_range_as_the_cure(place: str):
    least, most = NUMBERS[place]
    for good in (int(least), int(most)):
        assert not read(nested(place, good)).errors
    for bad in [int(most) + 1] + ([int(least) - 1] if least else []):
        (error,) = read(nested(place, bad)).errors
        assert (error.code, place in error.why, " to " in error.fix) == ("invalid-value", True, True)


@pytest.mark.parametrize("place", TIMES)
def test_a_duration_beyond_its_range_is_refused_with_the_range_as_the_cure(place: str):
    least, most = TIMES[place]
    assert not read(nested(place, milliseconds(least))).errors
    assert not read(nested(place, milliseconds(most))).errors
    for bad in [most + 1] + ([0.0] if least else []):
        (error,) = read(nested(place, milliseconds(bad))).errors
        assert (error.code, place in error.why, " to " in error.fix) == ("invalid-value", True, True)


@pytest.mark.parametrize("place", OR_NONE)
def test_what_may_be_off_is_off_or_enough(place: str):
    half = OR_NONE[place] / 2
    (error,) = read(nested(place, milliseconds(half) if place in TIMES else half)).errors
    assert " for none" in error.fix
    assert not read(nested(place, "0s" if place in TIMES else 0)).errors


def test_a_hedge_comes_before_the_request_ends():
    spec = {"timeouts": {"request": "1s"}, "hedging": {"enabled": True, "after": "1s"}}
    assert "it is never hedged" in read(spec).errors[0].why
    spec["timeouts"] = {"perTry": "500ms"}
    assert "timeouts.perTry" in read(spec).errors[0].why


def test_a_hedge_that_nobody_enabled_is_said_to_be_none():
    (found,) = read({"hedging": {"after": "10ms"}}).diagnostics
    assert (found.code, found.severity) == ("ignored", Severity.WARNING)


@pytest.mark.parametrize(
    "spec",
    [
        {"steering": "Sometimes"},
        {"locality": {"preference": "Nearest"}},
        {"locality": {"spill": "yes"}},
        {"hedging": {"enabled": 1}},
        {"adaptiveConcurrency": {"baseLatency": 5}},
        {"loadBalancing": {"subsetting": {"count": 3}}},
    ],
)
def test_a_value_that_is_none_of_its_kind_is_refused(spec: dict[str, Any]):
    assert read(spec).errors


@given(st.floats(0, 604800))
def test_durations_of_tests_are_read_as_meant(value: float):
    assert abs(seconds(milliseconds(value)) - value) < 0.001
