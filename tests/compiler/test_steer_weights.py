"""Weights of instances: who is unattractive, who is not, and what chance may not do."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.compiler.steer.seen import Seen
from masche.compiler.steer.standing import Admission
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.compiler.steer.weights import FAIR, LEAST, Reading, weights
from masche.model.calling import Algorithm
from masche.model.refs import PortRef
from masche.model.view import Traffic

PORT = PortRef("shop", "orders", 80)
KEY = (PORT, "")
TERRAIN = Terrain(ports={PORT: Ground(sites=tuple(Site(name, "") for name in "abcde"))})


def settled(readings: dict[str, Reading], *, steps: int = 20, **given: Any) -> dict[str, int]:
    now: dict[str, int] = {}
    for _ in range(steps):
        now = dict(weights(readings, now, **given).weights)
    return now


def test_an_instance_that_fails_fast_is_never_attractive():
    made = settled({"a": Reading(5000.0, 100), "b": Reading(5200.0, 100), "bad": Reading(100.0, 300, errors=0.9)})
    assert made == {"a": FAIR, "b": FAIR, "bad": LEAST}


def test_one_that_never_answers_is_unattractive_without_any_latency():
    made = settled({"a": Reading(5000.0, 100), "b": Reading(5200.0, 100), "dead": Reading(0.0, 30, errors=1.0)})
    assert made == {"a": FAIR, "b": FAIR, "dead": LEAST}


def test_where_all_fail_alike_nobody_is_blamed():
    assert set(settled({name: Reading(5000.0, 100, errors=0.3) for name in "abc"}).values()) == {FAIR}


def test_a_weight_falls_by_bounded_steps_and_rises_more_slowly_near_the_end():
    slow = {"a": Reading(2000.0, 1000), "b": Reading(6000.0, 1000)}
    falling = [settled(slow, steps=steps, lasting={"b"})["b"] for steps in (1, 2, 3, 4, 12)]
    assert falling == [80, 64, 51, 40, 12]
    far_slower = {"a": Reading(2000.0, 1000), "b": Reading(16_000.0, 1000)}
    assert [settled(far_slower, steps=steps)["b"] for steps in (1, 2, 3)] == [10, 2, 2]
    well, rising = {"a": Reading(2000.0, 1000), "b": Reading(2000.0, 1000)}, [LEAST]
    for _ in range(12):
        rising.append(weights(well, {"b": rising[-1]}).weights["b"])
    assert rising == [1, 2, 4, 8, 16, 32, 40, 50, 63, 79, 99, 100, 100]


@pytest.mark.parametrize("count", [2, 5, 12, 100, 1000])
def test_one_quick_instance_among_many_gets_at_most_ten_times_an_equal_share(count: int):
    made = settled({"quick": Reading(500.0, 500), **{f"slow-{n}": Reading(10_000.0, 500) for n in range(count - 1)}})
    share = made["quick"] / sum(made.values())
    assert made["quick"] == FAIR
    assert share * count <= 10.0
    assert share > min(0.5, 9.0 / count), "and not much less than that"


def test_who_is_not_plainly_slower_keeps_what_it_has_until_that_has_lasted():
    slow = {"a": Reading(2000.0, 1000), "b": Reading(6000.0, 1000)}
    assert settled(slow)["b"] == FAIR
    assert weights(slow, {}).slow == {"b"}
    assert settled(slow, lasting={"b"})["b"] == 12


@pytest.mark.parametrize("most", [1.0, 1.33, 2.0, 5.0])
def test_for_the_sake_of_slow_ones_nobody_gets_more_than_so_many_times_an_equal_share(most: float):
    half = {
        **{f"quick-{n}": Reading(500.0, 500) for n in range(5)},
        **{f"slow-{n}": Reading(5e4, 500) for n in range(5)},
    }
    made = settled(half, most=most)
    assert made["quick-0"] == FAIR
    assert FAIR * len(made) <= sum(made.values()) * most
    assert made["slow-0"] == LEAST or FAIR * len(made) >= sum(made.values()) * most * 0.98, "and as much as that"


def test_for_the_sake_of_who_fails_it_may_be_more():
    half = {"a": Reading(500.0, 500), "b": Reading(500.0, 500), "c": Reading(500.0, 500, errors=0.9)}
    assert settled(half, most=1.0) == {"a": FAIR, "b": FAIR, "c": LEAST}


def test_while_others_suffered_from_it_nobody_is_relieved_for_being_slow_and_who_is_gets_its_load_back():
    slow = {"a": Reading(2000.0, 1000), "b": Reading(90_000.0, 1000), "bad": Reading(2000.0, 1000, errors=0.9)}
    assert settled(slow, is_held=True) == {"a": FAIR, "b": FAIR, "bad": LEAST}
    given_back, now = [], LEAST
    while now < FAIR:
        now = weights(slow, {"b": now}, is_held=True).weights["b"]
        given_back.append(now)
    assert given_back == [2, 4, 8, 16, 32, 64, 100]


@pytest.mark.parametrize(
    ("callers", "took_us", "is_relieved"), [(1, 40_000.0, False), (100, 40_000.0, True), (1, 4_000.0, True)]
)
def test_who_is_twice_as_slow_is_left_to_choosing_by_calls_under_way_where_there_are_enough(
    callers: int, took_us: float, is_relieved: bool
):
    """Choosing by them is at once, and a weight late: it would fill up those that are quick now."""
    steersman, took = Steersman(), dict.fromkeys("abcd", took_us) | {"e": 2.25 * took_us}
    for now in range(16):
        for caller in range(callers):
            seens = [
                Seen(workload=name, caller=str(caller), answers=max(1, 60 // callers), latency_us=us)
                for name, us in took.items()
            ]
            steersman.saw(KEY, seens, now=float(now))
        steersman.steer(TERRAIN, now=float(now))
    [slow] = [each for each in steersman.instances(PORT) if each.workload == "e"]
    assert (slow.weight < FAIR) == is_relieved


def test_who_is_many_times_slower_is_relieved_however_busy_its_callers_are():
    assert weights({"a": Reading(40_000.0, 500), "b": Reading(400_000.0, 500)}, {}, is_busy=True).weights["b"] < FAIR


def test_timeouts_count_as_the_time_that_the_caller_waited():
    steersman = Steersman()
    for now in range(6):
        seens = [Seen(workload=name, answers=20, latency_us=2000.0) for name in "abcd"]
        seens.append(Seen(workload="e", answers=19, errors=1, timeouts=1, latency_us=2000.0))
        steersman.saw(KEY, seens, now=float(now))
        steersman.steer(TERRAIN, now=float(now))
    [standing] = [each for each in steersman.instances(PORT) if each.workload == "e"]
    assert standing.latency_us > 0.04 * 15e6
    assert standing.weight < 10 or standing.until > 0


def test_an_instance_where_calls_pile_up_and_none_ends_is_slow_before_the_first_timeout():
    steersman = Steersman()
    for now in range(10):
        seens = [Seen(workload=name, answers=20, latency_us=2000.0) for name in "abcd"]
        stuck = now >= 4
        seens.append(Seen(workload="e", answers=0 if stuck else 20, active=20 * now if stuck else 0, latency_us=2000.0))
        steersman.saw(KEY, seens, now=float(now))
        steersman.steer(TERRAIN, now=float(now))
    assert next(each.weight for each in steersman.instances(PORT) if each.workload == "e") < 20


@pytest.mark.parametrize("begins_at", [0, 30])
def test_calls_that_wait_since_a_moment_ago_are_no_pile_however_long_nobody_called_before(begins_at: int):
    steersman = Steersman()
    for now in range(40):
        is_idle, is_begin = now < begins_at and now > 3, now == begins_at
        if is_idle:
            continue
        for name in "abcde":
            is_waiting = is_begin and name == "e"
            seen = Seen(workload=name, answers=0 if is_waiting else 20, active=20, latency_us=200_000.0)
            steersman.saw(KEY, [seen], now=float(now))
        steersman.steer(TERRAIN, now=float(now))
        assert all(each.weight == FAIR for each in steersman.instances(PORT)), now


@pytest.mark.parametrize("rate", [1, 10, 1000])
def test_equal_instances_keep_equal_shares_at_any_rate(rate: int):
    """At each rate five instances answer in exponentially scattered times; their mean shares stay within 10 %."""
    chance, steersman = Random(rate), Steersman()
    sums = dict.fromkeys("abcde", 0.0)
    seconds = 600 if rate < 1000 else 60
    for now in range(seconds):
        seens: list[Seen] = []
        for name in "abcde":
            answers = sum(chance.random() < 0.2 for _ in range(rate)) if rate < 1000 else 200
            if answers:
                mean = sum(chance.expovariate(1 / 5000.0) for _ in range(answers)) / answers
                seens.append(Seen(workload=name, answers=answers, latency_us=mean))
        steersman.saw(KEY, seens, now=float(now))
        steersman.steer(TERRAIN, now=float(now))
        found = {each.workload: each.weight for each in steersman.instances(PORT)}
        for name in sums:
            sums[name] += found[name] / sum(found.values()) / seconds
    assert all(0.9 * 0.2 <= share <= 1.1 * 0.2 for share in sums.values())


READINGS = st.builds(Reading, st.floats(0.0, 1e8), st.integers(0, 10_000), st.floats(0.0, 1.0), st.booleans())


@given(
    st.dictionaries(st.sampled_from("abcdef"), READINGS, min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(LEAST, FAIR)),
    st.booleans(),
    st.sets(st.sampled_from("abcdef")),
    st.floats(1.0, 10.0),
)
def test_weights_are_bounded_whatever_is_read(
    readings: dict[str, Reading], before: dict[str, int], is_held: bool, lasting: set[str], most: float
):
    made = weights(readings, before, is_held=is_held, lasting=lasting, most=most).weights
    assert made.keys() == readings.keys()
    assert all(LEAST <= weight <= FAIR for weight in made.values())


@pytest.mark.parametrize("algorithm", [Algorithm.RING_HASH, Algorithm.MAGLEV])
def test_where_a_hash_chooses_no_weight_moves_but_an_instance_that_fails_is_still_taken_off(algorithm: Algorithm):
    steersman = Steersman()
    sites = TERRAIN.ports[PORT].sites
    terrain = Terrain(ports={PORT: Ground(sites=sites, traffic=Traffic(algorithm=algorithm))})
    for now in range(12):
        seens = [Seen(workload=name, caller="one", answers=20, latency_us=2000.0) for name in "abc"]
        seens.append(Seen(workload="d", caller="one", answers=20, latency_us=40_000.0))
        seens.append(Seen(workload="e", caller="one", errors=9, is_ejected=True))
        steersman.saw(KEY, seens, now=float(now))
        decision = steersman.steer(terrain, now=float(now))
        if decision.steering:
            assert all(not steer.weights for steer in decision.steering.steers.values())
    standings = {each.workload: each for each in steersman.instances(PORT)}
    assert {each.weight for each in standings.values()} == {FAIR}
    assert standings["e"].state is not Admission.ADMITTED


def test_every_weight_that_is_not_fair_has_a_reason_until_it_is_fair_again():
    steersman, seen = Steersman(), set[str]()
    for now in range(90):
        seens = [Seen(workload=name, answers=20, latency_us=2000.0) for name in "abcd"]
        if now < 10:
            seens.append(Seen(workload="e", answers=20, latency_us=40_000.0))
        elif now > 25:
            seens.append(Seen(workload="e", answers=20, latency_us=2000.0))
        steersman.saw(KEY, seens, now=float(now))
        steersman.steer(TERRAIN, now=float(now))
        for each in steersman.instances(PORT):
            assert bool(each.reason) is (each.weight != FAIR)
            seen.add(each.reason.partition(",")[0])
    assert seen == {
        "",
        "it takes 40 ms",
        "it was slow or failed when it was last called",
        "it was slow or failed; it takes 2 ms again",
    }
