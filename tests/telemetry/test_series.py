"""Edges over time: rates, success and latency of a window, in bounded memory."""

import pytest

from masche.telemetry.histogram import Histogram
from masche.telemetry.series import COARSE, FINE, OTHER, Edge, Sample, Series

CART = Edge("shop/web", "shop/cart", 80)


def sample(requests: int = 10, failures: int = 0, us: int = 1000, **rest: int) -> Sample:
    latency = Histogram()
    latency.record(us, requests)
    return Sample(requests=requests, failures=failures, latency=latency, **rest)


def test_a_window_gives_rates_success_and_quantiles():
    series = Series()
    for second in range(100, 160):
        slow = second >= 150
        series.add(
            {CART: sample(10, failures=5 if slow else 0, us=200_000 if slow else 1000, denied=1)}, at=second + 0.3
        )
    summary = series.summary(CART, window=10, now=150.9)
    assert (summary.rate, summary.success, summary.requests, summary.denied_rate) == (10, 1.0, 100, 1)
    assert summary.p99_ms == pytest.approx(1, rel=0.02)
    after = series.summary(CART, window=20, now=160)
    assert (after.rate, after.success) == (10, 0.75)
    assert after.p50_ms == pytest.approx(1, rel=0.02)
    assert after.p95_ms == after.p99_ms == pytest.approx(200, rel=0.02)


def test_reports_of_several_callers_in_one_second_add_up():
    series = Series()
    for _ in range(3):
        series.add({CART: sample(4, bytes_sent=100, connections=1)}, at=10.5)
    summary = series.summary(CART, window=1, now=11)
    assert summary.rate == 12
    total = series.total(CART, window=1, now=11)
    assert (total.bytes_sent, total.connections) == (300, 3)


def test_an_edge_without_traffic_is_not_listed():
    series = Series()
    series.add({CART: sample()}, at=10)
    assert [each.edge for each in series.edges(window=10, now=15)] == [CART]
    assert series.edges(window=10, now=30) == []
    nothing = series.summary(Edge("a/b", "c/d"), window=10, now=30)
    assert (nothing.rate, nothing.success, nothing.p99_ms) == (0, 1.0, 0)


def test_the_parts_of_instances_are_listed_apart():
    series = Series()
    one, two = (CART._replace(instance=f"shop/cart-{n}") for n in (1, 2))
    series.add(
        {CART: sample(10), one: sample(7), two: sample(3), Edge("x/y", "shop/cart", 80, "shop/z"): sample()}, at=10
    )
    assert [each.edge for each in series.edges(window=10, now=11)] == [CART]
    parts = series.instances(CART, window=10, now=11)
    assert [(each.edge.instance, each.requests) for each in parts] == [("shop/cart-1", 7), ("shop/cart-2", 3)]


def test_what_is_older_than_the_ring_is_forgotten_and_a_late_report_is_counted_where_it_belongs():
    series = Series()
    length = FINE[0] * FINE[1]
    series.add({CART: sample(1)}, at=0)
    series.add({CART: sample(2)}, at=length)
    assert series.total(CART, window=length, now=length + 1).requests == 2
    series.add({CART: sample(5)}, at=0.5)
    assert series.total(CART, window=length, now=length + 1).requests == 2, "a report that is too late changes nothing"
    series.add({CART: sample(5)}, at=length - 10)
    assert series.total(CART, window=5, now=length + 1).requests == 2
    assert series.total(CART, window=20, now=length + 1).requests == 7


def test_hours_are_remembered_in_ten_seconds():
    series = Series()
    for at in range(0, 7200, 60):
        series.add({CART: sample(6)}, at=at)
    assert series.total(CART, window=7200, now=7200).requests == 720


def test_edges_beyond_the_limit_share_one_and_idle_ones_make_room():
    series = Series(limit=3)
    for n in range(10):
        series.add({Edge("a/a", f"b/{n}"): sample(1), Edge("a/a", f"b/{n}", 0, f"b/{n}-1"): sample(1)}, at=10)
    assert {each.edge.destination: each.requests for each in series.edges(window=10, now=11)} == {
        "b/0": 1,
        "b/1": 1,
        OTHER: 8,
    }
    later = COARSE[0] * COARSE[1] + 100
    series.add({CART: sample()}, at=later)
    assert [each.edge for each in series.edges(window=10, now=later + 1)] == [CART]
