"""Quantiles are right within the documented error, whatever is merged in whatever order."""

from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.telemetry.histogram import RELATIVE_ERROR, Histogram, bounds, bucket, cumulative, from_bounds

values = st.lists(st.integers(0, 10_000_000_000), min_size=1, max_size=200)


def made(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.record(number)
    return histogram


@given(st.integers(0, 1 << 40))
def test_a_value_lies_in_its_bucket_and_the_middle_is_near(value: int):
    low, high = bounds(bucket(value))
    assert low <= value < high
    assert high == low + 1 or abs((low + high) / 2 - value) <= value * RELATIVE_ERROR


def test_buckets_follow_each_other_without_a_gap():
    assert all(bounds(index)[1] == bounds(index + 1)[0] for index in range(1000))


@given(values, st.floats(0, 1))
def test_a_quantile_is_that_of_the_sorted_values_within_the_error(numbers: list[int], q: float):
    exact = sorted(numbers)[max(0, ceil(q * len(numbers)) - 1)]
    assert abs(made(numbers).quantile(q) - exact) <= exact * RELATIVE_ERROR + 1


@given(values, values)
def test_merging_is_the_same_as_counting_together(some: list[int], others: list[int]):
    merged = made(some)
    merged.absorb(made(others))
    assert merged == made(others + some)


@given(values)
def test_what_is_encoded_is_read_back(numbers: list[int]):
    histogram = made(numbers)
    assert Histogram.decode(histogram.encode()) == histogram


def test_the_encoding_is_compact_and_a_cut_off_one_is_refused():
    data = made([1000 + n * 10 for n in range(100)]).encode()
    assert len(data) <= 72
    with pytest.raises(ValueError, match="histogram"):
        Histogram.decode(data[:-1])
    with pytest.raises(ValueError, match="cut off"):
        Histogram.decode(b"\xff")


def test_nothing_is_zero():
    assert (Histogram().quantile(0.99), Histogram().mean, Histogram().count) == (0.0, 0.0, 0)
    assert repr(Histogram()) == "<Histogram empty>"
    assert repr(made([1500, 1500])) == "<Histogram 2 values, p50 1.49 ms, p99 1.49 ms>"


def test_buckets_of_another_layout_are_taken_over():
    histogram = from_bounds([(0, 500, 0), (500, 625, 100), (60_000_000, inf, 1)], sum_us=123)
    assert histogram.count == 101
    assert histogram.sum_us == 123
    assert 550 < histogram.quantile(0.5) < 575
    assert histogram.quantile(1.0) == pytest.approx(60_000_000, rel=RELATIVE_ERROR)
    assert from_bounds([(500, 600, 1)]).sum_us == 550


def test_prometheus_gets_cumulative_counts():
    histogram = made([100, 1000, 1000, 50_000])
    assert cumulative(histogram, (500, 5_000, 10_000, 100_000)) == [1, 3, 3, 4]
