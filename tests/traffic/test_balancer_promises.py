"""The acceptance lines of balancing, for the default and for every picker that can keep them."""

import pytest

from masche.testing.check_balancer import (
    check_balancer,
    check_equal_shares,
    check_failing_fast,
    check_no_herd,
    check_panic,
    check_recovery,
)
from masche.traffic.balancer import Balancer
from masche.traffic.load import Outstanding
from masche.traffic.membership import Membership
from masche.traffic.pickers.chosen_by_chance import ChosenByChance
from masche.traffic.pickers.maglev import Maglev
from masche.traffic.pickers.picker import Picker
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

    check_equal_shares(make, seed=1)
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
