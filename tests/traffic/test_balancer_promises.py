"""The acceptance lines of balancing, for the default and for every picker that can keep them."""

from collections.abc import Container
from typing import cast

import pytest

from masche.testing.check_balancer import (
    check_balancer,
    check_equal_shares,
    check_failing_fast,
    check_no_herd,
    check_panic,
    check_recovery,
)
from masche.testing.outstanding import Outstanding
from masche.traffic.balancer import Balancer
from masche.traffic.chance import Chance
from masche.traffic.membership import Endpoint, Membership
from masche.traffic.peak_ewma import PeakGauge
from masche.traffic.pickers.chosen_by_chance import ChosenByChance
from masche.traffic.pickers.maglev import Maglev
from masche.traffic.pickers.picker import NOBODY, Picker, Ready
from masche.traffic.pickers.ring_hash import RingHash
from masche.traffic.pickers.round_robin import RoundRobin, WeightedRoundRobin

SEEDS = range(2)
BLIND: list[type[Picker]] = [RoundRobin, WeightedRoundRobin, ChosenByChance]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_default_balancer_keeps_every_promise(seed: int) -> None:
    check_balancer(Balancer, seed=seed)


@pytest.mark.parametrize("picker", BLIND)
def test_pickers_that_measure_nothing_keep_equal_shares_and_serve_in_panic(picker: type[Picker]) -> None:
    def make(membership: Membership) -> Balancer:
        return Balancer(membership, picker=picker())

    check_equal_shares(make, seed=1, calls=4000)
    check_failing_fast(make, seed=1)
    check_panic(make, seed=1)


@pytest.mark.parametrize("picker", [RingHash, lambda: Maglev(size=251)])
def test_pickers_that_hash_serve_in_panic(picker: type[Picker]) -> None:
    check_panic(lambda membership: Balancer(membership, picker=picker()), seed=1)


def test_least_request_is_even_and_does_not_herd() -> None:
    def make(membership: Membership) -> Balancer:
        return Balancer(membership, metric=Outstanding())

    check_equal_shares(make, seed=1)
    check_recovery(make, seed=1)
    check_no_herd(make, seed=1)


def test_the_check_finds_a_balancer_that_is_attracted_by_fast_failures() -> None:
    def make(membership: Membership) -> Balancer:
        return Balancer(membership, metric=Outstanding())

    with pytest.raises(AssertionError, match="failing fast attracts nobody"):
        check_failing_fast(make, seed=1)


class FastestOfAll:
    """What not to do: everyone goes where the answer came fastest."""

    def pick(
        self, ready: Ready, *, now: float, rng: Chance, key: int | None = None, exclude: Container[str] = NOBODY
    ) -> Endpoint | None:
        gauges = cast("tuple[PeakGauge, ...]", ready.gauges)
        return min(zip(gauges, ready.endpoints, strict=True), key=lambda each: each[0].latency)[1]


def test_the_check_finds_a_herd() -> None:
    with pytest.raises(AssertionError, match="callers do not herd"):
        check_no_herd(lambda membership: Balancer(membership, picker=FastestOfAll()), seed=1)


def test_the_check_finds_uneven_shares() -> None:
    with pytest.raises(AssertionError, match="equal instances get equal shares at 1 calls/s"):
        check_equal_shares(lambda membership: Balancer(membership, picker=FastestOfAll()), seed=1)
