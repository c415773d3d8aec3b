"""Subsets are even, steady and the same for everyone who computes them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masche.traffic.subsetting import Assignment, Slots, position


def instances(count: int) -> Slots:
    return Slots().updated(f"i{number}" for number in range(count))


def loads(assignment: Assignment, callers: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for caller in range(callers):
        subset = assignment.of(caller)
        found.update(dict(zip(subset.ids, subset.shares, strict=True)))
    return found


def made(before: Assignment, after: Assignment, callers: int) -> int:
    return sum(len(set(after.of(each).ids) - set(before.of(each).ids)) for each in range(callers))


def test_the_sequence_of_places_halves_the_ring_again_and_again() -> None:
    assert [position(slot) / 2**32 for slot in range(5)] == [0, 0.5, 0.25, 0.75, 0.125]


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 12), count=st.integers(1, 60), callers=st.integers(1, 60))
def test_a_subset_has_the_size_that_was_asked_each_instance_once_and_shares_that_sum_to_one(
    size: int, count: int, callers: int
) -> None:
    assignment = Assignment(instances(count), range(callers), size=size)
    for caller in range(callers):
        subset = assignment.of(caller)
        assert len(set(subset.ids)) == len(subset.ids) == min(size, count)
        assert sum(subset.shares) == pytest.approx(1)
        assert min(subset.shares) > 0


@settings(deadline=None, max_examples=15)
@given(count=st.integers(60, 200), callers=st.integers(100, 200), gone=st.data())
def test_load_is_even_within_two_percent_also_with_holes(count: int, callers: int, gone: st.DataObject) -> None:
    left = gone.draw(st.lists(st.integers(0, count - 1), max_size=count // 5, unique=True))
    slots = instances(count).updated(f"i{number}" for number in range(count) if number not in left)
    found = loads(Assignment(slots, range(callers), size=20), callers)
    mean = callers / len(slots.taken)
    assert max(found.values()) <= 1.02 * mean
    assert min(found[each] for each in slots.taken) >= 0.98 * mean


@settings(deadline=None, max_examples=25)
@given(count=st.integers(30, 120), who=st.integers(0, 29))
def test_when_an_instance_leaves_only_its_callers_make_one_connection_each(count: int, who: int) -> None:
    slots = instances(count)
    before = Assignment(slots, range(50), size=8)
    after = Assignment(slots.updated(each for each in slots.taken if each != f"i{who}"), range(50), size=8)
    assert made(before, after, 50) == sum(f"i{who}" in before.of(caller).ids for caller in range(50))


def test_a_replacement_takes_the_place_of_who_left() -> None:
    slots = instances(40)
    replaced = slots.updated([each for each in slots.taken if each != "i7"] + ["new"])
    assert replaced.taken["new"] == slots.taken["i7"]
    before, after = Assignment(slots, range(40), size=5), Assignment(replaced, range(40), size=5)
    assert made(before, after, 40) == sum("i7" in before.of(caller).ids for caller in range(40))


def test_a_new_caller_moves_no_connection_of_the_others() -> None:
    assert made(Assignment(instances(80), range(50), size=6), Assignment(instances(80), range(90), size=6), 50) == 0


def test_neighbours_on_the_ring_are_not_in_the_same_boat() -> None:
    """No two callers have half of their subset in common, so no few instances are all that a caller has."""
    assignment = Assignment(instances(500), range(200), size=20)
    subsets = [set(assignment.of(caller).ids) for caller in range(200)]
    assert max(len(one & other) for i, one in enumerate(subsets) for other in subsets[:i]) < 10


def test_weights_are_met_by_shares() -> None:
    slots = instances(50)
    found = loads(Assignment(slots, range(200), size=20, weights={"i3": 2.0}), 200)
    assert found["i3"] / found["i4"] == pytest.approx(2.0, rel=0.02)


def test_a_subset_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Assignment(instances(3), range(3), size=0)
