from hypothesis import given
from hypothesis import strategies as st

from masche.control.pace import Pace


def test_who_says_too_much_is_stopped_and_goes_on_later():
    pace = Pace(per_second=2.0, burst=3.0)
    assert [pace.keeps("a", now=0.0) for _ in range(4)] == [True, True, True, False]
    assert pace.keeps("b", now=0.0)
    assert pace.keeps("a", now=0.5)
    assert not pace.keeps("a", now=0.5)


@given(st.lists(st.floats(0, 1), max_size=200))
def test_nobody_ever_says_more_than_the_burst_and_the_rate_together(pauses: list[float]):
    pace, now, kept = Pace(per_second=5.0, burst=7.0), 0.0, 0
    for pause in pauses:
        now += pause
        kept += pace.keeps("a", now=now)
    assert kept <= 7 + 5 * now + 1e-6


def test_names_are_bounded():
    pace = Pace(per_second=1.0, burst=1.0, names=3)
    for number in range(100):
        assert pace.keeps(str(number), now=0.0)
    assert repr(pace) == "<Pace 1/s, 3 names>"
