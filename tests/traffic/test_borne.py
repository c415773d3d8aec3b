"""Shares by how much instances say that they bear."""

from hypothesis import given
from hypothesis import strategies as st

from masche.testing.outstanding import Outstanding
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.borne import BLACKOUT, EXPIRATION, FARTHEST, UPDATE, Borne
from masche.traffic.pickers.picker import Ready

NAMES = ("a", "b", "c", "d")
METRIC = Outstanding()
READY = Ready([Endpoint(id=each) for each in NAMES], [0.25] * 4, [METRIC.join() for _ in NAMES])


def said(borne: Borne, now: float, **weights: float) -> None:
    for name, weight in weights.items():
        borne.told(name, weight, now=now)


def shares(borne: Borne, now: float) -> list[float]:
    return [round(each, 3) for each in borne.weighted(READY, now=now).shares]


def test_a_weight_counts_once_it_was_said_for_a_while():
    borne = Borne()
    said(borne, 0.0, a=300, b=100, c=100, d=100)
    assert borne.weighted(READY, now=BLACKOUT - 1) is READY
    assert shares(borne, BLACKOUT) == [0.5, 0.167, 0.167, 0.167]


def test_who_says_nothing_gets_the_mean():
    borne = Borne()
    said(borne, 0.0, a=300, b=100)
    assert shares(borne, BLACKOUT) == [0.375, 0.125, 0.25, 0.25]


def test_one_alone_is_no_weight():
    borne = Borne()
    said(borne, 0.0, a=300)
    assert borne.weighted(READY, now=BLACKOUT) is READY


def test_who_falls_silent_is_weighed_no_longer_and_waits_again():
    borne = Borne()
    said(borne, 0.0, a=300, b=100, c=100, d=100)
    said(borne, 100.0, b=100, c=100, d=100)
    assert shares(borne, EXPIRATION + 1) == [0.25] * 4
    said(borne, EXPIRATION + 2, a=300)
    assert shares(borne, EXPIRATION + 1 + UPDATE + 1) == [0.25] * 4


def test_shares_are_worked_out_once_a_second():
    borne = Borne()
    said(borne, 0.0, a=300, b=100, c=100, d=100)
    found = borne.weighted(READY, now=BLACKOUT)
    said(borne, BLACKOUT, a=100)
    assert borne.weighted(READY, now=BLACKOUT + UPDATE - 0.01) is found
    assert shares(borne, BLACKOUT + UPDATE) == [0.25] * 4


@given(st.lists(st.floats(1e-9, 1e12), min_size=4, max_size=4))
def test_whatever_is_said_shares_are_above_zero_and_bounded(weights: list[float]):
    borne = Borne()
    said(borne, 0.0, **dict(zip(NAMES, weights, strict=True)))
    found = borne.weighted(READY, now=BLACKOUT).shares
    assert abs(sum(found) - 1) < 1e-9
    assert max(found) <= FARTHEST * FARTHEST * min(found) * (1 + 1e-9)
