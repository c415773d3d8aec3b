"""What the parts of a call reach together: short forms of the benchmarks 7, 8, 10 and 11, with the same bounds.

The scenarios are those of ``bench/simulation.py``, a few seconds of virtual time each.
"""

from functools import partial
from random import Random

import pytest

from masche.model.view import Retry
from masche.testing.antagonists import Antagonists, Chooser, Ramp
from masche.testing.outstanding import Outstanding
from masche.testing.scenarios import BrownOut, SlowReplica, Storm, brown_out, members, slow_replica, storm
from masche.testing.virtual_calls import Answer, Caller, World
from masche.traffic.balancer import Balancer
from masche.traffic.callee import Callee, CallRules
from masche.traffic.deadline import Deadline
from masche.traffic.ejection import State
from masche.traffic.hedging import Hedger, HedgeRules
from masche.traffic.membership import Membership, Rules
from masche.traffic.outcome import Outcome
from masche.traffic.pickers.round_robin import WeightedRoundRobin
from masche.traffic.pickers.told import Told

SHORT = SlowReplica(lead=5.0, slow_for=8.0, tail=5.0)


def a_callee(group: Membership, *, hedge_percent: float = 0.0, retry: Retry | None = None) -> Callee:
    return Callee(
        Balancer(group),
        rules=CallRules(timeout=1.0, retry=retry),
        hedger=Hedger(HedgeRules(max_extra_percent=hedge_percent)),
    )


# 7


def test_a_slow_replica_costs_only_the_calls_that_could_not_know():
    run = slow_replica(a_callee, scenario=SHORT)
    caller = run.caller
    assert (run.avoidable, run.probes) == (0, 0)
    assert {each.endpoint for each in caller.failed} == {"i03"}
    assert len(caller.failed) <= 0.0005 * 60_000, "one slow spell of any length costs no more"
    first, *_, last = caller.events
    assert (first.endpoint, first.state) == ("i03", State.EJECTED)
    assert first.at < 5.6
    assert (last.state, last.at < 15.0) == (State.ADMITTED, True)
    assert {event.endpoint for event in caller.events} == {"i03"}, "nobody else was ejected"


def test_with_two_percent_of_hedges_a_slow_replica_costs_at_most_one_call():
    caller = slow_replica(partial(a_callee, hedge_percent=2.0), scenario=SHORT).caller
    assert len(caller.failed) <= 1
    assert 0 < caller.hedges <= 0.02 * caller.calls


# 8


def p99(make: Ramp, way: str) -> float:
    def choose(group: Membership) -> Chooser:
        if way == "told":
            return Chooser(Balancer(group, picker=Told()), is_told=True)
        if way == "weighted":
            balancer = Balancer(group, metric=Outstanding(), picker=WeightedRoundRobin(), rules=Rules())
            return Chooser(balancer, is_weighted=True)
        return Chooser(Balancer(group, metric=Outstanding()))

    run = Antagonists(choose, ramp=make)
    run.run()
    took = sorted(each for step in run.took for each in step)
    return took[int(0.99 * len(took))]


def test_who_is_told_by_instances_has_a_far_shorter_tail_beside_antagonists():
    ramp = Ramp(clients=40, servers=40, steps=(0.7, 1.0, 1.3), seconds=4.0, warm=2.0, change=3.0)
    ours = p99(ramp, "told")
    assert ours <= 0.65 * p99(ramp, "two choices")
    assert ours <= 0.30 * p99(ramp, "weighted")


# 10


def test_a_brown_out_costs_a_client_at_most_five_errors_and_is_over_within_a_second():
    for flip in brown_out(a_callee, scenario=BrownOut(flips=2, every=15.0, sick_for=8.0)):
        assert 1 <= flip.worst <= 5
        assert 0 < flip.readmitted <= 1.0


def test_callers_that_tell_each_other_lose_at_most_ten_calls_together():
    for flip in brown_out(a_callee, scenario=BrownOut(flips=2, every=15.0, sick_for=8.0, delay=0.02)):
        assert 1 <= flip.mesh <= 10
        assert flip.worst <= 5
        assert 0 < flip.readmitted <= 1.0


# 11


@pytest.mark.parametrize(("outage", "seed"), [(1.0, 1), (5.0, 1), (5.0, 2), (5.0, 4)])
def test_over_three_tiers_an_outage_of_the_leaf_is_not_multiplied(outage: float, seed: int):
    """Each hop repeats up to three times; a naive mesh sends over thirty calls for one."""
    retry = Retry(attempts=3, codes=(503,), backoff=0.025)
    short = Storm(lead=5.0, outage=outage, after=3.0, double=5.0)
    run = storm(partial(a_callee, retry=retry), seed=seed, scenario=short)
    assert 1.0 <= run.amplification <= (1.10 if outage >= 5.0 else 1.2)
    assert run.recovery <= 1.0
    assert run.goodput >= 0.95


def test_without_telling_tiers_repeats_of_an_outage_are_more():
    retry = Retry(attempts=3, codes=(503,), backoff=0.025)
    short = Storm(lead=5.0, outage=3.0, after=1.0, double=1.0)
    silent = Storm(lead=5.0, outage=3.0, after=1.0, double=1.0, tells=False)
    make = partial(a_callee, retry=retry)
    assert storm(make, scenario=short).amplification < storm(make, scenario=silent).amplification


# What must not be ejected


def test_equal_instances_with_a_heavy_tail_are_left_in_peace():
    """A long tail is no outlier: lognormal latencies (p99 ten times the median), a minute of 100 calls a second."""
    world, rng = World(), Random(3)

    def serve(_: str, __: Deadline, answer: Answer) -> None:
        world.at(world.now + 0.02 * rng.lognormvariate(0, 1.0), partial(answer, Outcome.SUCCESS, None))

    caller = Caller(world, a_callee(members([f"i{number:02}" for number in range(11)])), serve)
    world.steadily(100, 0.0, 60.0, caller.call)
    world.run(65.0)
    assert [str(event) for event in caller.events] == []
