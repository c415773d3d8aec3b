"""Peak EWMA: peaks count at once and fade, failures never attract, and who is avoided is probed and comes back."""

from dataclasses import dataclass
from itertools import pairwise

import pytest

from masche.traffic.outcome import Outcome
from masche.traffic.peak_ewma import PeakEwma, PeakGauge

TYPICAL = 0.010


@dataclass
class Ticket:
    started_at: float
    is_settled: bool = False


class Group:
    """Instances of a group that have all answered in the typical time, at the tenth second."""

    def __init__(self, size: int = 5) -> None:
        self.metric = PeakEwma()
        self.gauges = [self.metric.join() for _ in range(size)]
        self.now = 0.0
        for _ in range(100):
            self.round(self.gauges)

    def call(self, gauge: PeakGauge, latency: float = TYPICAL, outcome: Outcome = Outcome.SUCCESS) -> None:
        ticket = Ticket(self.now)
        gauge.start(ticket, now=self.now)
        ticket.is_settled = True
        gauge.settle(outcome, latency, now=self.now + latency)

    def round(self, gauges: list[PeakGauge]) -> None:
        self.now += 0.1
        for gauge in gauges:
            self.call(gauge)

    def costs(self) -> list[float]:
        return [gauge.cost(now=self.now) for gauge in self.gauges]


def test_equals_cost_the_same_and_noise_is_no_difference() -> None:
    group = Group()
    group.call(group.gauges[0], TYPICAL * 1.3)
    assert group.costs() == [1.0] * 5


def test_cost_grows_with_calls_under_way_relative_to_capacity() -> None:
    group = Group()
    group.gauges[0].start(Ticket(group.now), now=group.now)
    assert group.gauges[0].cost(now=group.now) == 2.0
    assert group.gauges[0].cost(now=group.now, capacity=2.0) == 1.5


def test_a_peak_counts_at_once_and_fades_towards_the_group_not_below() -> None:
    group = Group()
    slow, group.now = group.gauges[0], group.now + 1
    group.call(slow, TYPICAL * 20)
    group.now += TYPICAL * 20
    assert slow.cost(now=group.now) == pytest.approx(20 * 1, rel=0.05)
    costs = [slow.cost(now=group.now + later) for later in (10, 20, 300)]
    assert costs == pytest.approx([1 + 19 * 0.368, 1 + 19 * 0.135, 1.0], rel=0.05)


def test_who_answers_faster_than_the_fast_quarter_is_no_better_than_it() -> None:
    group = Group()
    for _ in range(200):
        group.call(group.gauges[0], TYPICAL / 100)
        group.round(group.gauges[1:])
    assert group.costs() == [1.0] * 5


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.REFUSED, Outcome.LIMITED, Outcome.TIMEOUT])
def test_failing_fast_costs_more_with_each_failure(outcome: Outcome) -> None:
    group = Group()
    failing, costs = group.gauges[0], [1.0]
    for _ in range(5):
        group.call(failing, TYPICAL / 10, outcome)
        costs.append(failing.cost(now=group.now))
    assert costs == sorted(costs)
    assert costs[1] >= 3.0
    assert costs[-1] >= 8.0


def test_denying_fast_neither_makes_others_slow_nor_draws_calls() -> None:
    group = Group(2)
    denying, serving = group.gauges
    for _ in range(100):
        group.now += 0.1
        group.call(denying, TYPICAL / 100, Outcome.DENIED)
        group.call(serving)
    assert group.costs() == [1.0, 1.0]
    assert not serving.is_avoided
    for _ in range(4):
        serving.start(Ticket(group.now), now=group.now)
    assert denying.cost(now=group.now) == 1 + 4 / 2, "nothing waits for it, which is no merit"


def test_who_denies_as_much_as_its_peers_is_one_of_them() -> None:
    group = Group()
    for number in range(300):
        group.now += 0.1
        for gauge in group.gauges:
            group.call(gauge, outcome=Outcome.SUCCESS if number % 3 else Outcome.DENIED)
    group.gauges[0].start(Ticket(group.now), now=group.now)
    assert [round(each, 9) for each in group.costs()] == [2.0, 1.0, 1.0, 1.0, 1.0]


def test_who_fails_is_not_thought_emptier_than_the_mean() -> None:
    group = Group()
    for gauge in group.gauges[1:]:
        for _ in range(10):
            gauge.start(Ticket(group.now), now=group.now)
    group.call(group.gauges[0], TYPICAL / 10, Outcome.REFUSED)
    assert group.gauges[0].cost(now=group.now) > 11


def test_a_group_that_fails_alike_is_used_alike() -> None:
    group = Group()
    for _ in range(30):
        for gauge in group.gauges:
            group.call(gauge, TYPICAL / 10, Outcome.FAILURE)
    costs = group.costs()
    assert max(costs) == pytest.approx(min(costs))


def test_a_call_that_is_overdue_is_evidence_before_it_ends() -> None:
    group = Group()
    hung = group.gauges[0]
    hung.start(Ticket(group.now), now=group.now)
    assert hung.cost(now=group.now + TYPICAL) == 2.0
    assert hung.cost(now=group.now + TYPICAL * 1.2) > 8.0


def test_a_cancelled_call_says_only_that_it_took_so_long() -> None:
    group = Group()
    group.call(group.gauges[0], TYPICAL, Outcome.CANCELLED)
    assert not group.gauges[0].is_avoided
    group.call(group.gauges[0], TYPICAL * 10, Outcome.CANCELLED)
    assert group.gauges[0].is_avoided


def test_an_avoided_instance_is_probed_one_at_a_time_and_rarer_while_probes_fail() -> None:
    group = Group()
    failing = group.gauges[0]
    group.call(failing, TYPICAL, Outcome.FAILURE)
    began, probes = group.now, list[float]()
    while group.now < began + 60:
        group.round(group.gauges[1:])
        if failing.cost(now=group.now) == 0.0:
            probes.append(group.now - began)
            group.call(failing, TYPICAL, Outcome.FAILURE)
    gaps = [later - earlier for earlier, later in pairwise(probes)]
    assert gaps[0] >= 1.0
    assert [round(gap) for gap in gaps] == sorted(round(gap) for gap in gaps)
    assert gaps[-1] == pytest.approx(5.0, abs=0.3), "at most five seconds between them, so that recovery is seen"


def test_while_a_probe_is_under_way_there_is_no_other() -> None:
    group = Group()
    group.call(group.gauges[0], TYPICAL, Outcome.FAILURE)
    for _ in range(50):
        group.round(group.gauges[1:])
    assert group.gauges[0].cost(now=group.now) == 0.0
    group.gauges[0].start(Ticket(group.now), now=group.now)
    assert group.gauges[0].cost(now=group.now) > 1.0


def test_a_recovered_instance_is_plain_again_after_a_few_good_answers() -> None:
    group = Group()
    sick = group.gauges[0]
    for _ in range(10):
        group.call(sick, TYPICAL * 100, Outcome.TIMEOUT)
    answers = 0
    while sick.is_avoided:
        group.round(group.gauges[1:])
        if sick.cost(now=group.now) == 0.0:
            group.call(sick)
            answers += 1
    assert answers <= 6


def test_a_new_instance_is_as_busy_as_the_mean_until_it_has_answered() -> None:
    group = Group()
    for gauge in group.gauges:
        for _ in range(6):
            gauge.start(Ticket(group.now), now=group.now)
    new = group.metric.join()
    assert new.cost(now=group.now) == pytest.approx(1 + 30 / 6)
    assert new.cost(now=group.now) < group.gauges[0].cost(now=group.now), "it is not starved either"


def test_who_left_takes_its_calls_along() -> None:
    group = Group()
    gone, ticket = group.gauges[0], Ticket(group.now)
    gone.start(ticket, now=group.now)
    group.metric.leave(gone)
    assert group.metric.outstanding == 0
    ticket.is_settled = True
    gone.settle(Outcome.SUCCESS, TYPICAL, now=group.now)
    assert (group.metric.outstanding, gone.outstanding) == (0, 0)


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="tolerance above 1"):
        PeakEwma(tolerance=1.0)
