"""Pickers: right shares, nobody twice, keys that stick, and few keys that move."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masche.testing.outstanding import OutstandingGauge
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.chosen_by_chance import ChosenByChance
from masche.traffic.pickers.hashing import key_of
from masche.traffic.pickers.maglev import Maglev, table
from masche.traffic.pickers.picker import Picker, Ready
from masche.traffic.pickers.ring_hash import RingHash
from masche.traffic.pickers.round_robin import RoundRobin, WeightedRoundRobin
from masche.traffic.pickers.two_choices import TwoChoices

ALL: list[Callable[[], Picker]] = [
    TwoChoices,
    ChosenByChance,
    RoundRobin,
    WeightedRoundRobin,
    RingHash,
    lambda: RingHash(bound=1.25),
    lambda: Maglev(size=251),
]
WEIGHTED: list[Callable[[], Picker]] = [
    TwoChoices,
    ChosenByChance,
    WeightedRoundRobin,
    RingHash,
    lambda: Maglev(size=2003),
]
HASHING: list[Callable[[], Picker]] = [RingHash, lambda: Maglev(size=2003)]
WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=8)


def ready(*weights: float, names: str = "abcdefghijklmnop") -> Ready:
    endpoints = [Endpoint(id=name, weight=weight) for name, weight in zip(names, weights, strict=False)]
    return Ready(endpoints, [weight / sum(weights) for weight in weights], [OutstandingGauge() for _ in endpoints])


def counts(picker: Picker, among: Ready, calls: int, seed: int = 1) -> Counter[str]:
    rng = Random(seed)
    picked = (picker.pick(among, now=0.0, rng=rng, key=rng.getrandbits(64)) for _ in range(calls))
    return Counter(each.id for each in picked if each)


@pytest.mark.parametrize("make", ALL)
def test_who_was_tried_is_not_picked_again_until_nobody_is_left(make: Callable[[], Picker]) -> None:
    picker, among, tried, rng = make(), ready(1, 2, 1, 3), set[str](), Random(3)
    for _ in range(4):
        endpoint = picker.pick(among, now=0.0, rng=rng, key=77, exclude=tried)
        assert endpoint is not None
        assert endpoint.id not in tried
        tried.add(endpoint.id)
    assert picker.pick(among, now=0.0, rng=rng, key=77, exclude=tried) is None


@pytest.mark.parametrize("make", ALL)
def test_of_nobody_nobody_is_picked(make: Callable[[], Picker]) -> None:
    assert make().pick(ready(), now=0.0, rng=Random(1)) is None


@pytest.mark.parametrize("make", WEIGHTED)
@settings(deadline=None, max_examples=12)
@given(weights=WEIGHTS)
def test_idle_endpoints_get_calls_by_weight(make: Callable[[], Picker], weights: list[float]) -> None:
    found = counts(make(), ready(*weights), 4000)
    for name, weight in zip("abcdefgh", weights, strict=False):
        assert found[name] / 4000 == pytest.approx(weight / sum(weights), abs=0.05)


@settings(deadline=None)
@given(weights=WEIGHTS, calls=st.integers(1, 200))
def test_weighted_round_robin_is_never_more_than_a_call_or_two_off(weights: list[float], calls: int) -> None:
    found = counts(WeightedRoundRobin(), ready(*weights), calls)
    for name, weight in zip("abcdefgh", weights, strict=False):
        assert abs(found[name] - calls * weight / sum(weights)) <= 2


def test_weighted_round_robin_does_not_flood_who_is_new_nor_forget_whose_turn_it_is() -> None:
    picker, rng = WeightedRoundRobin(), Random(5)
    before, after = ready(1, 1, 1), ready(1, 1, 1, 1)
    for _ in range(100):
        picker.pick(before, now=0.0, rng=rng)
    first = [each.id for _ in range(8) if (each := picker.pick(after, now=0.0, rng=rng))]
    assert Counter(first) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_round_robin_goes_round_from_a_place_by_chance() -> None:
    begins: set[str] = set()
    for seed in range(40):
        picker, rng = RoundRobin(), Random(seed)
        round_ = [each.id for _ in range(4) if (each := picker.pick(ready(1, 1, 1, 1), now=0.0, rng=rng))]
        assert sorted(round_) == ["a", "b", "c", "d"]
        begins.add(round_[0])
    assert begins == {"a", "b", "c", "d"}


def test_of_two_choices_the_idler_one_is_taken_relative_to_its_capacity() -> None:
    among = ready(1, 1)
    among.gauges[0].start(_Ticket(), now=0.0)
    assert counts(TwoChoices(), among, 100) == {"b": 100}
    uneven = ready(3, 1)
    for gauge, calls in zip(uneven.gauges, (3, 2), strict=True):
        for _ in range(calls):
            gauge.start(_Ticket(), now=0.0)
    assert counts(TwoChoices(), uneven, 1000)["a"] > 900, "three calls at three times the capacity are fewer than two"


@pytest.mark.parametrize("make", HASHING)
@settings(deadline=None, max_examples=20)
@given(key=st.text())
def test_a_key_sticks_in_every_process_and_without_memory(make: Callable[[], Picker], key: str) -> None:
    found = [make().pick(ready(1, 1, 1, 1), now=0.0, rng=Random(n), key=key_of(key)) for n in range(2)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("make", "at_most"), [(RingHash, 0.0), (lambda: Maglev(size=2003), 0.06)])
def test_when_one_leaves_hardly_any_key_of_the_others_moves(make: Callable[[], Picker], at_most: float) -> None:
    picker, rng, keys = make(), Random(1), [key_of(str(n)) for n in range(3000)]
    ten, nine = ready(*[1.0] * 10), ready(*[1.0] * 9, names="abcdefghi")
    before = [picker.pick(ten, now=0.0, rng=rng, key=key) for key in keys]
    after = [picker.pick(nine, now=0.0, rng=rng, key=key) for key in keys]
    moved = sum(old != new for old, new in zip(before, after, strict=True) if old and old.id != "j")
    assert moved / len(keys) <= at_most


def test_a_bounded_ring_passes_over_who_is_full() -> None:
    picker, among, rng = RingHash(bound=1.25), ready(1, 1, 1, 1), Random(1)
    met: Counter[str] = Counter()
    for _ in range(40):
        endpoint = picker.pick(among, now=0.0, rng=rng, key=key_of("hot"))
        assert endpoint is not None
        met[endpoint.id] += 1
        among.gauges["abcd".index(endpoint.id)].start(_Ticket(), now=0.0)
    assert max(met.values()) <= 13, "one hot key, and nobody has more than 1.25 times a quarter of 40 calls"
    assert len(met) == 4


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 20))
def test_a_maglev_table_is_even_to_one_entry(count: int) -> None:
    found = Counter(table(tuple((f"i{n}", 1.0) for n in range(count)), 251))
    assert max(found.values()) - min(found.values()) <= 1
    assert sum(found.values()) == 251


def test_the_default_table_is_the_paper_s_and_a_size_must_be_prime() -> None:
    assert Maglev().size == 65537
    with pytest.raises(ValueError, match="prime"):
        Maglev(size=1000)
    with pytest.raises(ValueError, match="bound above 1"):
        RingHash(bound=0.5)


class _Ticket:
    started_at = 0.0
    is_settled = False
