"""What steering does where instances are slow because they have much to do: not worse than least request alone."""

from statistics import mean, median

import pytest
from meshes import a_mesh

from masche.testing.simulated_queues import Neighbours, Pace, Paces, Queues
from masche.testing.simulated_zones import Server, mesh_of

FREE, SLOWED = Pace(work=0.1, jitter=0.025), Pace(work=0.2, jitter=0.05)
NAMES = [f"shop/orders-a{number}" for number in range(10)]
STEPS = (0.7, 0.85, 1.0, 1.15, 1.3, 1.4)
"""Parts of the ten calls a second that each server was promised to do, ten seconds each."""


def ramp(now: float) -> float:
    return 10.0 * len(NAMES) * STEPS[min(int(now / 10.0), len(STEPS) - 1)]


def queues(pace: Paces, *, rate: float = 0.0, seed: int, is_steered: bool = True) -> Queues:
    mesh = a_mesh(mesh_of([Server(name=name, zone="a") for name in NAMES], {"a": 10}))
    constant = (lambda _now: rate) if rate else ramp
    return Queues(
        mesh=mesh, servers=NAMES, callers=10, rate=constant, pace=pace, seed=seed, is_steered=is_steered
    )  # fmt: skip


def seconds_per_call(made: Queues, *, since: float) -> float:
    return mean(took for began, took in made.calls if began >= since)


@pytest.mark.parametrize("change", [5.0, 20.0, 40.0])
def test_where_neighbours_take_the_processor_away_weights_make_the_tail_no_longer(change: float):
    """Ten callers, ten calls a second for each server: what an instance is spared may be too much for the others."""
    ratios: list[float] = []
    for seed in range(5):
        pace = Neighbours(NAMES, FREE, SLOWED, change=change, seed=seed)
        steered, alone = (queues(pace, seed=seed, is_steered=each).run(60.0) for each in (True, False))
        ratios.append(steered.quantile(0.99) / alone.quantile(0.99))
    assert median(ratios) < 1.25


@pytest.mark.parametrize(("slow", "part"), [(1, 0.92), (3, 0.75)])
def test_who_stays_slow_is_relieved_and_calls_take_less_time_by_that(slow: int, part: float):
    def pace(server: str, _now: float) -> Pace:
        return Pace(work=0.3, jitter=0.03) if server in NAMES[:slow] else FREE

    ratios: list[float] = []
    for seed in range(5):
        steered, alone = (queues(pace, rate=100.0, seed=seed, is_steered=each).run(60.0) for each in (True, False))
        ratios.append(seconds_per_call(steered, since=30.0) / seconds_per_call(alone, since=30.0))
    assert median(ratios) < part


def test_who_is_plainly_slow_is_hardly_called_after_a_few_seconds():
    def pace(server: str, now: float) -> Pace:
        return Pace(work=2.0) if server == NAMES[0] and now >= 10.0 else FREE

    made = queues(pace, rate=80.0, seed=1).run(40.0)
    late = [took for began, took in made.calls if began >= 20.0]
    assert sum(took >= 2.0 for took in late) <= 0.005 * len(late)
