"""When the slow are relieved: for as long as others do not pay for it, and by as much as they can take."""

from hypothesis import given
from hypothesis import strategies as st

from masche.compiler.steer.relief import HOLD, LAPSE, LONGEST_HOLD, LONGEST_STRETCH, STRETCH, Relief


def relieving(before_us: float = 10_000.0) -> Relief:
    """A relief that began at second 0."""
    relief = Relief()
    relief.note(["slow"], now=0.0)
    relief.look(before_us, is_relieved=False, now=0.0)
    relief.look(before_us, is_relieved=True, now=1.0)
    return relief


def test_who_is_slow_lasts_from_when_it_was_first_seen_until_it_is_not():
    relief = Relief()
    for now in range(13):
        relief.note(["a", "b"] if now != 6 else ["a"], now=float(now))
    assert relief.lasting(12.0, now=12.0) == {"a"}
    assert relief.lasting(5.0, now=12.0) == {"a", "b"}
    relief.note([], now=13.0)
    assert relief.is_still


def test_others_are_given_more_by_and_by_while_they_take_no_longer():
    relief, found = relieving(), list[float]()
    for now in range(2, 40):
        relief.look(10_000.0, is_relieved=True, now=float(now))
        found.append(relief.stretch)
    assert STRETCH < found[0] < found[5] < found[-1] == LONGEST_STRETCH
    relief.look(10_000.0, is_relieved=False, now=40.0)
    assert relief.stretch == STRETCH


def test_others_that_take_somewhat_longer_are_given_no_more():
    relief = relieving()
    found = relief.stretch
    relief.look(13_000.0, is_relieved=True, now=2.0)
    assert relief.stretch == found
    assert not relief.is_held(now=2.0)


def test_it_ends_when_it_made_others_slow_and_for_longer_each_time():
    relief, now, holds = Relief(), 0.0, list[float]()
    for _ in range(7):
        relief.look(10_000.0, is_relieved=False, now=now)
        relief.look(40_000.0, is_relieved=True, now=now)
        assert relief.is_held(now=now)
        assert relief.is_still, "who was slow has to be slow for as long again"
        began = now
        while relief.is_held(now=now):
            now += 1.0
        holds.append(now - began)
    assert holds == [HOLD, 2 * HOLD, 4 * HOLD, 8 * HOLD, *[LONGEST_HOLD] * 3]


def test_that_it_did_is_forgotten_after_a_while():
    relief = relieving()
    relief.look(40_000.0, is_relieved=True, now=2.0)
    late = 2.0 + HOLD + LAPSE + 1.0
    relief.look(10_000.0, is_relieved=False, now=late)
    relief.look(40_000.0, is_relieved=True, now=late)
    assert relief.is_held(now=late + HOLD - 1.0)
    assert not relief.is_held(now=late + HOLD)


def test_a_load_that_rises_by_and_by_is_not_for_the_relief_to_answer_for():
    relief, took = relieving(), 10_000.0
    for now in range(2, 120):
        took *= 1.01
        relief.look(took, is_relieved=True, now=float(now))
        assert not relief.is_held(now=float(now))


@given(st.lists(st.tuples(st.floats(0.0, 1e9), st.booleans(), st.floats(0.0, 100.0))))
def test_it_stays_within_its_bounds_whatever_is_seen(looks: list[tuple[float, bool, float]]):
    relief, now = Relief(), 0.0
    for others_us, is_relieved, seconds in looks:
        now += seconds
        relief.note(["slow"] if is_relieved else [], now=now)
        relief.look(others_us, is_relieved=is_relieved, now=now)
        assert STRETCH <= relief.stretch <= LONGEST_STRETCH
        assert not relief.is_held(now=now + LONGEST_HOLD)
