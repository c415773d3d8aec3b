"""What was counted lately."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.traffic.window import Sketch, Sum, bucket, lowest

STEPS = st.lists(st.tuples(st.floats(0, 4), st.integers(0, 5)), max_size=60)


@given(STEPS)
def test_a_sum_has_all_of_its_window_and_nothing_older_than_a_slot_more(steps: list[tuple[float, int]]):
    window, now, added = Sum(10.0), 50.0, list[tuple[float, int]]()
    for step, amount in steps:
        now += step
        window.add(amount, now=now)
        added.append((now, amount))
        total = window.total(now=now)
        assert sum(n for at, n in added if at > now - 10.0) <= total + 1e-9
        assert total <= sum(n for at, n in added if at > now - 11.0) + 1e-9


def test_a_sum_forgets():
    window = Sum(1.0)
    window.add(5, now=0.0)
    assert repr(window) == "<Sum 5>"
    assert window.total(now=100.0) == 0.0
    window.add(2, now=100.0)
    window.clear()
    assert window.total(now=100.0) == 0.0


@given(st.floats(1e-6, 1e5))
def test_a_bucket_holds_its_value_within_a_thirty_second(seconds: float):
    low, high = lowest(bucket(seconds)), lowest(bucket(seconds) + 1)
    assert low <= seconds < high
    assert (high - low) / low <= 1 / 32 + 1e-9


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_right_within_a_bucket(values: list[float], q: float):
    sketch = Sketch(10.0)
    for value in values:
        sketch.record(value, now=0.0)
    exact = sorted(values)[max(0, -(-int(q * len(values) * 1e9) // 10**9) - 1)]
    assert abs(bucket(sketch.quantile(q)) - bucket(exact)) <= 1 or len(values) * q % 1 < 1e-6


def test_a_sketch_forgets_half_of_its_window_at_a_time():
    sketch = Sketch(10.0)
    assert repr(sketch) == "<Sketch empty>"
    sketch.record(0.1, now=0.0)
    sketch.record(0.2, now=6.0)
    assert sketch.count == 2
    assert repr(sketch) == "<Sketch 2 values, p50 100 ms, p99 202 ms>" or sketch.quantile(0.99) == pytest.approx(
        0.2, 0.03
    )
    sketch.slide(now=11.5)
    assert sketch.count == 1
    sketch.slide(now=100.0)
    assert (sketch.count, sketch.quantile(0.5)) == (0, 0.0)
