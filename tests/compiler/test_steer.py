"""Weights from measured latency."""

from collections.abc import Generator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.compiler.steer.moves import Decision
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.compiler.steer.weights import FAIR, LEAST
from masche.model.refs import PortRef

PORT = PortRef("shop", "inventory", 80)
KEY = (PORT, "")
TERRAIN = Terrain(ports={PORT: Ground(sites=tuple(Site(name, "") for name in "abcdef"))})
NOTHING = Terrain(ports={})


def weights_of(steersman: Steersman) -> dict[str, int]:
    return {each.workload: each.weight for each in steersman.instances(PORT)}


def seconds(steersman: Steersman, latencies: dict[str, float], *, start: int = 0, count: int = 10) -> int:
    """Report these latencies once a second and say when the last report was."""
    for at in range(start, start + count):
        samples = [Seen(workload=name, answers=20, latency_us=us) for name, us in latencies.items()]
        steersman.saw(KEY, samples, now=float(at))
        steersman.steer(TERRAIN, now=float(at))
    return start + count


def test_equal_instances_are_left_alone() -> None:
    steersman = Steersman()
    seconds(steersman, {"a": 2000.0, "b": 2300.0, "c": 3900.0})
    assert set(weights_of(steersman).values()) == {FAIR}


def test_a_slow_instance_keeps_a_hundredth_of_a_fair_share() -> None:
    steersman = Steersman()
    seconds(steersman, {"a": 2000.0, "b": 45_000.0})
    assert (weights_of(steersman)["a"], weights_of(steersman)["b"]) == (FAIR, LEAST)


def test_an_instance_at_a_quarter_of_the_speed_gets_a_sixteenth_of_the_weight() -> None:
    steersman = Steersman()
    seconds(steersman, {"a": 2000.0, "b": 8000.0}, count=40)
    assert weights_of(steersman)["b"] == round(FAIR / 16)


def test_an_instance_between_noise_and_slow_stays_as_it_was() -> None:
    steersman = Steersman()
    end = seconds(steersman, {"a": 2000.0, "b": 3500.0})
    assert weights_of(steersman)["b"] == FAIR
    end = seconds(steersman, {"a": 2000.0, "b": 9000.0}, start=end, count=30)
    seconds(steersman, {"a": 2000.0, "b": 3500.0}, start=end, count=30)
    assert FAIR // 4 < weights_of(steersman)["b"] < FAIR


def test_an_instance_that_recovered_gets_its_share_back() -> None:
    steersman = Steersman()
    end = seconds(steersman, {"a": 2000.0, "b": 45_000.0})
    seconds(steersman, {"a": 2000.0, "b": 2000.0}, start=end, count=25)
    assert weights_of(steersman)["b"] == FAIR


def test_an_instance_that_hears_nothing_drifts_back_to_the_best() -> None:
    steersman = Steersman()
    end = seconds(steersman, {"a": 2000.0, "b": 45_000.0})
    seconds(steersman, {"a": 2000.0}, start=end, count=60)
    assert weights_of(steersman)["b"] == FAIR


def test_nothing_is_published_while_nothing_moves() -> None:
    steersman = Steersman()
    end = seconds(steersman, {"a": 2000.0, "b": 45_000.0}, count=30)
    steersman.saw(KEY, [Seen(workload="a", answers=9, latency_us=2010.0)], now=float(end))
    assert steersman.steer(TERRAIN, now=float(end)).steering is None


def finished(steps: Generator[None, None, Decision], found: list[Decision]) -> Iterator[None]:
    """Hand on the pauses, and put what was decided into ``found``."""
    found.append((yield from steps))


def test_a_decision_by_steps_is_the_same_and_pauses_for_each_port() -> None:
    at_once, by_steps = Steersman(), Steersman()
    for now in (1.0, 2.0, 3.0):
        for steersman in (at_once, by_steps):
            samples = [Seen(workload=name, answers=20, latency_us=us) for name, us in (("a", 2e3), ("b", 45e3))]
            steersman.saw(KEY, samples, now=now)
        found: list[Decision] = []
        pauses = [*finished(by_steps.steer_by_steps(TERRAIN, now=now), found)]
        assert found == [at_once.steer(TERRAIN, now=now)]
        assert len(pauses) >= 3, "to sum up, to count and to decide"


def test_what_cannot_be_counted_is_met_once_and_what_comes_later_counts() -> None:
    """A Report that nobody foresaw must neither pile up nor end steering for good."""
    steersman = Steersman()
    steersman.saw(KEY, [Seen(workload="a", answers=1, latency_us="soon")], now=0.0)  # type: ignore[arg-type]  # that is the case
    with pytest.raises(TypeError):
        steersman.steer(TERRAIN, now=0.0)
    assert steersman.ports() == ()
    seconds(steersman, {"a": 2000.0, "b": 45_000.0}, start=1)
    assert weights_of(steersman)["b"] == LEAST


def test_what_is_gone_is_forgotten() -> None:
    steersman = Steersman()
    seconds(steersman, {"a": 2000.0, "b": 45_000.0})
    steersman.steer(NOTHING, now=10.0)
    assert weights_of(steersman) == {}


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(1.0, 6e7), min_size=1), st.integers(1, 20))
def test_whatever_is_measured_weights_stay_bounded_and_the_best_has_a_fair_share(
    latencies: dict[str, float], count: int
) -> None:
    steersman = Steersman()
    seconds(steersman, latencies, count=count)
    weights = weights_of(steersman)
    assert all(LEAST <= weight <= FAIR for weight in weights.values())
    assert weights[min(latencies, key=latencies.__getitem__)] == FAIR
