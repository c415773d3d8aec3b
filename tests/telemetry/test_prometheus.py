"""The page is what Prometheus reads, its size is bounded, and pages can be read and joined."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.telemetry import names
from masche.telemetry.histogram import Histogram
from masche.telemetry.names import Metric
from masche.telemetry.prometheus import Metrics, Sample, join, parse

CALLS = Metric(name="calls_total", kind="counter", help="Calls.\nAll of them, by \\ path.", labels=("path",))
LEVEL = Metric(name="level", kind="gauge", help="Level.")
TIME = Metric(name="time_seconds", kind="histogram", help="Time.", labels=("path",), bounds=(0.001, 0.1))


def test_the_page_is_in_the_text_format():
    metrics = Metrics()
    metrics.count(CALLS, path='a"b\\c\nd')
    metrics.count(CALLS, 2, path="x")
    metrics.set(LEVEL, 0.5)
    metrics.observe(TIME, 0.0005, path="x")
    metrics.observe(TIME, 0.01, path="x")
    metrics.observe(TIME, 5.0, path="x")
    assert metrics.render().splitlines() == [
        "# HELP calls_total Calls.\\nAll of them, by \\\\ path.",
        "# TYPE calls_total counter",
        'calls_total{path="a\\"b\\\\c\\nd"} 1',
        'calls_total{path="x"} 2',
        "# HELP level Level.",
        "# TYPE level gauge",
        "level 0.5",
        "# HELP time_seconds Time.",
        "# TYPE time_seconds histogram",
        'time_seconds_bucket{path="x",le="0.001"} 1',
        'time_seconds_bucket{path="x",le="0.1"} 2',
        'time_seconds_bucket{path="x",le="+Inf"} 3',
        'time_seconds_sum{path="x"} 5.0105',
        'time_seconds_count{path="x"} 3',
    ]


def test_a_hundred_thousand_label_values_make_no_more_series_than_the_limit():
    metrics = Metrics(limit=50)
    for n in range(100_000):
        metrics.count(CALLS, path=f"/{n}")
        if n < 200:
            metrics.absorb(TIME, Histogram({1: 1}, sum_us=1), path=f"/{n}")
    calls = {sample.labels["path"]: sample.value for sample in parse(metrics.render(), prefix="calls_total")}
    assert len(calls) == 51
    assert calls["other"] == 100_000 - 50
    folded = {sample.labels["metric"]: sample.value for sample in parse(metrics.render(), prefix=names.FOLDED.name)}
    assert folded["calls_total"] == 100_000 - 50
    assert folded["time_seconds"] == 150


def test_labels_are_those_of_the_metric():
    with pytest.raises(ValueError, match="calls_total has the labels"):
        Metrics().count(CALLS, way="x")


def test_a_gauge_can_be_replaced_whole():
    metrics = Metrics()
    metrics.replace(names.WORKLOADS, {"READY": 3, "UNHEALTHY": 1})
    metrics.replace(names.WORKLOADS, {"READY": 4})
    assert list(parse(metrics.render())) == [Sample("masche_workloads", {"state": "READY"}, 4)]


def test_a_page_of_envoy_is_read():
    page = """# TYPE envoy_mesh_requests_total counter
envoy_mesh_requests_total{source="shop/web",destination="shop/cart",code="200"} 17
envoy_mesh_request_us_bucket{le="+Inf"} 17

envoy_other{a="b"} 1 1700000000
envoy_strange{a="}{, \\"x\\" \\\\n"} NaN
not a sample at all
"""
    samples = list(parse(page, prefix="envoy_"))
    assert samples[0] == Sample(
        "envoy_mesh_requests_total", {"source": "shop/web", "destination": "shop/cart", "code": "200"}, 17
    )
    assert samples[1] == Sample("envoy_mesh_request_us_bucket", {"le": "+Inf"}, 17)
    assert samples[2] == Sample("envoy_other", {"a": "b"}, 1)
    assert samples[3].labels == {"a": '}{, "x" \\n'}
    assert math.isnan(samples[3].value)
    assert len(samples) == 4
    assert len(list(parse(page, prefix="envoy_mesh_"))) == 2


@given(st.text(), st.floats(allow_nan=False))
def test_what_is_written_is_read_back(label: str, value: float):
    metrics = Metrics()
    metrics.set(Metric(name="g", kind="gauge", help="", labels=("l",)), value, l=label)
    assert list(parse(metrics.render())) == [Sample("g", {"l": label}, value)]


def test_pages_are_joined_by_family():
    proxy = '# HELP up Up.\n# TYPE up gauge\nup 1\n# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 1\nh_count 1\n'
    application = '# TYPE up untyped\nup{of="app"} 1\nplain 5\n'
    assert join((proxy, application)) == (
        '# HELP up Up.\n# TYPE up gauge\nup 1\nup{of="app"} 1\n'
        '# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 1\nh_count 1\nplain 5\n'
    )


def test_every_metric_has_a_proper_name_and_help():
    metrics = [value for value in vars(names).values() if isinstance(value, Metric)]
    assert len({metric.name for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert metric.name.startswith("masche_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")
