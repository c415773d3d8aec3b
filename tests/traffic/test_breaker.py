"""Who is cut off, why, and how it comes back."""

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from masche.model.calling import OutlierEjection
from masche.traffic.breaker import Breaker
from masche.traffic.ejection import Cause, EjectionRules, Event, SharedVerdict, State, Trial
from masche.traffic.outcome import Outcome
from masche.traffic.standing import Attempt

NAMES = ["a", "b", "c", "d", "e"]


def a_breaker(names: list[str] = NAMES, **rules: float) -> Breaker:
    breaker = Breaker(EjectionRules(**rules), name="shop/orders")  # type: ignore[arg-type]  # counts are whole floats
    assert breaker.members(names, now=0.0) == ()
    return breaker


def call(breaker: Breaker, name: str, *, at: float, took: float = 0.01, outcome: Outcome = Outcome.SUCCESS):
    attempt = breaker.start(name, now=at)
    return breaker.settle(attempt, outcome, now=at + took)


def warm(breaker: Breaker, names: list[str], *, at: float = 0.0, took: float = 0.044, calls: int = 40) -> float:
    """Give each some good calls; return when they have ended."""
    for number in range(calls):
        for name in names:
            call(breaker, name, at=at + number * 0.01, took=took)
    end = at + calls * 0.01 + took
    assert breaker.check(now=end) == ()
    return end


def fail(breaker: Breaker, name: str, *, at: float, times: int = 5) -> tuple[Event, ...]:
    events: tuple[Event, ...] = ()
    for number in range(times):
        events += call(breaker, name, at=at + number * 0.001, took=0.001, outcome=Outcome.FAILURE)
    return events


def tried(breaker: Breaker, outcome: Outcome, *, at: float, took: float = 0.01, can_copy: bool = False):
    trial = breaker.trial(can_copy=can_copy, now=at)
    assert trial is not None
    attempt = breaker.start(trial.endpoint, now=at, trial=trial)
    return breaker.settle(attempt, outcome, now=at + took)


def test_failures_in_a_row_eject_and_say_so():
    breaker = a_breaker()
    (event,) = fail(breaker, "a", at=1.0)
    assert (event.endpoint, event.state, event.cause) == ("a", State.EJECTED, Cause.FAILURES)
    assert event.sentence == "5 failures in a row"
    assert breaker.shunned(now=2.0) == {"a"}
    assert repr(breaker).startswith("<Breaker shop/orders: 4 admitted, <a EJECTED until 2.0 (5 failures in a row)")


def test_a_success_between_failures_breaks_the_row():
    breaker = a_breaker()
    for start in (1.0, 2.0, 3.0):
        assert fail(breaker, "a", at=start, times=4) == ()
        assert call(breaker, "a", at=start + 0.5) == ()
    assert breaker.shunned(now=4.0) == frozenset()


def test_three_failures_are_enough_when_all_others_answer():
    breaker = a_breaker()
    now = warm(breaker, NAMES)
    (event,) = fail(breaker, "a", at=now, times=3)
    assert event.sentence == "3 failures in a row, the others had 0 in 160 calls"


def refuse(breaker: Breaker, name: str, *, at: float, times: int, every: float) -> tuple[Event, ...]:
    events: tuple[Event, ...] = ()
    for number in range(times):
        events += call(breaker, name, at=at + number * every, took=0.0, outcome=Outcome.REFUSED)
    return events


def test_refusals_between_two_good_answers_are_no_reason_however_many():
    """Each answers 100 calls/s: an instance without room refuses 20 more within 20 ms."""
    breaker = a_breaker()
    now = warm(breaker, NAMES, calls=500)
    for _ in range(10):
        assert refuse(breaker, "a", at=now, times=20, every=0.001) == ()
        now += 0.02
        assert call(breaker, "a", at=now - 0.01) == ()


@pytest.mark.parametrize("every", [0.002, 0.01, 0.05])
def test_who_refuses_for_as_long_as_the_others_give_as_many_answers_is_cut_off(every: float):
    breaker = a_breaker()
    now = warm(breaker, NAMES, calls=500)
    events = refuse(breaker, "a", at=now, times=20, every=every)
    assert [event.state for event in events] == [State.EJECTED]
    assert events[0].at - now == pytest.approx(max(0.02, 2 * every), abs=every + 0.005)


def test_a_high_error_rate_ejects_without_any_row():
    breaker = a_breaker(failures=0, failures_alone=0)
    events: list[Event] = []
    for number in range(40):
        outcome = Outcome.FAILURE if number % 2 else Outcome.SUCCESS
        events += call(breaker, "a", at=number * 0.01, outcome=outcome)
    assert [event.sentence for event in events] == ["50% of 20 calls failed in 5 s"]


def test_a_slow_instance_is_ejected_by_comparison_with_the_others():
    breaker = a_breaker(stalled_calls=1000)
    warm(breaker, NAMES[1:])
    for number in range(40):
        call(breaker, "a", at=number * 0.01, took=0.412)
    (event,) = breaker.check(now=0.9)
    assert (event.endpoint, event.cause) == ("a", Cause.SLOW)
    assert event.sentence.startswith("median 4")
    assert "x the median of the others (4" in event.sentence


@pytest.mark.parametrize("first", ["a", ""])
def test_who_gets_slow_with_all_others_is_not_ejected_because_its_median_tips_over_first(first: str):
    """Queues fill everywhere: two fifths of the others' calls take ten times as long, and three fifths of its own."""
    breaker = a_breaker(stalled_calls=1000)
    end = 0.0
    for number in range(100):
        for name in NAMES:
            is_late = number >= (40 if name == first else 60)
            call(breaker, name, at=number * 0.01, took=0.4 if is_late else 0.04)
            end = max(end, number * 0.01 + 0.4)
    assert breaker.check(now=end) == ()


@pytest.mark.parametrize(("calls", "is_ejected"), [(99, False), (100, True)])
def test_an_instance_that_is_slow_now_and_then_is_ejected_when_that_cannot_be_chance(calls: int, is_ejected: bool):
    breaker = a_breaker(stalled_calls=1000)
    warm(breaker, NAMES[1:])
    for number in range(calls):
        call(breaker, "a", at=number * 0.005, took=0.6 if number % 10 == 0 else 0.04)
    events = breaker.check(now=1.5)
    assert [event.sentence.split()[0] for event in events] == ["p95"] * is_ejected


def test_when_all_are_slow_nobody_is():
    breaker = a_breaker()
    for number in range(100):
        for name in NAMES:
            call(breaker, name, at=number * 0.01, took=0.2)
    assert breaker.check(now=1.5) == ()


def test_one_overdue_call_holds_an_instance_until_a_later_call_is_answered():
    """Nobody is sent where a call is out for longer than the others' p99; a long call of a live instance is no sign."""
    breaker = a_breaker()
    now = warm(breaker, NAMES)
    limit = breaker.limits("a").overdue
    assert 0.044 < limit < 0.051
    long = breaker.start("a", now=now)
    later = breaker.start("a", now=now + 0.001)
    assert breaker.shunned(now=now + limit - 0.0001) == frozenset()
    assert breaker.shunned(now=now + limit + 0.0001) == {"a"}
    assert "(a held)" in repr(breaker)
    breaker.settle(later, Outcome.SUCCESS, now=now + 0.045)
    assert breaker.shunned(now=now + limit + 0.0002) == frozenset()
    breaker.settle(long, Outcome.SUCCESS, now=now + 30.0)


def test_a_hold_ends_so_that_one_endless_call_starves_nobody():
    breaker = a_breaker()
    now = warm(breaker, NAMES)
    breaker.start("a", now=now)
    assert breaker.shunned(now=now + 0.5) == {"a"}
    assert breaker.shunned(now=now + 1.1) == frozenset()


def test_many_overdue_instances_are_no_outliers():
    breaker = a_breaker()
    now = warm(breaker, NAMES)
    for name in NAMES[:3]:
        breaker.start(name, now=now)
    assert breaker.shunned(now=now + 0.2) == frozenset()


def test_a_stalled_instance_is_ejected_before_its_calls_end():
    breaker = a_breaker()
    now = warm(breaker, NAMES)
    for number in range(3):
        breaker.start("a", now=now + number * 0.001)
    (event,) = breaker.check(now=now + 0.25)
    assert (event.endpoint, event.cause) == ("a", Cause.STALLED)
    assert event.sentence.startswith("3 calls given up, or out for more than 9")


def test_calls_given_up_when_they_were_stalled_count_and_other_cancelled_ones_do_not():
    breaker = a_breaker()
    now = warm(breaker, NAMES)
    for _ in range(3):
        call(breaker, "b", at=now, took=0.03, outcome=Outcome.CANCELLED)
        call(breaker, "a", at=now, took=0.2, outcome=Outcome.CANCELLED)
    assert [event.endpoint for event in breaker.check(now=now + 0.3)] == ["a"]


def test_an_ejected_instance_is_tried_once_its_time_is_served_and_comes_back_after_two_good_trials():
    breaker = a_breaker()
    fail(breaker, "a", at=1.0)
    assert breaker.next_deadline() is not None
    assert breaker.trial(can_copy=False, now=1.9) is None
    (probing,) = breaker.check(now=2.1)
    assert (probing.state, probing.cause) == (State.PROBING, Cause.SERVED)
    assert tried(breaker, Outcome.SUCCESS, at=2.1) == ()
    assert breaker.trial(can_copy=False, now=2.2) is None, "the trickle is bounded"
    (admitted,) = tried(breaker, Outcome.SUCCESS, at=2.4)
    assert (admitted.state, admitted.sentence) == (State.ADMITTED, "2 trials in a row went well")
    assert breaker.shunned(now=2.5) == frozenset()


def test_ejections_grow_with_repeats_up_to_a_maximum():
    breaker = a_breaker(max_ejection=3.0)
    fail(breaker, "a", at=0.0)
    lasted: list[float] = []
    for _ in range(4):
        now = breaker.until("a")
        breaker.check(now=now)
        (event,) = tried(breaker, Outcome.REFUSED, at=now)
        lasted.append(round(event.until - event.at, 6))
    assert lasted == [2.0, 3.0, 3.0, 3.0]
    assert event.sentence == "a trial went wrong: refused"


def test_only_one_trial_is_under_way_at_a_time():
    breaker = a_breaker()
    fail(breaker, "a", at=0.0)
    breaker.check(now=1.5)
    trial = breaker.trial(can_copy=False, now=1.5)
    assert trial == Trial(endpoint="a", is_copy=False)
    breaker.start("a", now=1.5, trial=trial)
    assert breaker.trial(can_copy=False, now=1.6) is None


def test_copies_find_a_recovery_within_a_second_whatever_the_ejection_time():
    """Benchmark 10: readmitted <= 1 s, and nobody's own call is risked."""
    breaker = a_breaker(base_ejection=30.0)
    fail(breaker, "a", at=0.0)
    events: list[Event] = []
    for step in range(100):
        now = 0.01 * step + 10.0
        call(breaker, "b", at=now)
        if (trial := breaker.trial(can_copy=True, now=now)) is not None:
            assert trial.is_copy
            events += breaker.settle(breaker.start("a", now=now, trial=trial), Outcome.SUCCESS, now=now + 0.005)
    assert [event.state for event in events] == [State.PROBING, State.ADMITTED]
    assert events[-1].at < 11.0


def test_copies_are_no_more_than_a_fair_share_of_the_calls():
    breaker = a_breaker()
    fail(breaker, "a", at=0.0)
    copies = 0
    for number in range(50):
        now = 1.0 + number
        call(breaker, "b", at=now)
        if (trial := breaker.trial(can_copy=True, now=now)) is not None:
            copies += 1
            breaker.settle(breaker.start("a", now=now, trial=trial), Outcome.FAILURE, now=now + 0.005)
    assert 4 <= copies <= 5, "nor more than a tenth of all calls"


def test_while_most_calls_fail_anyway_no_copies_are_sent():
    breaker = a_breaker()
    for name in NAMES:
        fail(breaker, name, at=1.0, times=30)
    assert len(breaker.shunned(now=1.1)) == 2
    assert breaker.trial(can_copy=True, now=1.6) is None
    for number in range(60):
        call(breaker, "e", at=1.6 + number * 0.01)
    trial = breaker.trial(can_copy=True, now=2.2)
    assert trial is not None
    assert trial.is_copy


def test_a_trial_that_is_slow_is_no_good_trial():
    breaker = a_breaker()
    now = warm(breaker, NAMES)
    fail(breaker, "a", at=now, times=3)
    trial = breaker.trial(can_copy=True, now=now + 1.0)
    assert trial is None, "no calls, no copies"
    breaker.check(now=now + 1.1)
    trial = breaker.trial(can_copy=False, now=now + 1.2)
    assert trial is not None
    attempt = breaker.start("a", now=now + 1.2, trial=trial)
    (event,) = breaker.check(now=now + 1.7)
    assert event.sentence == "a trial went wrong: timeout after 500 ms, 94.4 ms are allowed"
    assert breaker.settle(attempt, Outcome.SUCCESS, now=now + 3.2) == ()


def test_what_began_before_readmission_says_nothing_of_what_is_now():
    breaker = a_breaker()
    old = [breaker.start("a", now=0.0) for _ in range(20)]
    fail(breaker, "a", at=0.1)
    breaker.check(now=1.5)
    tried(breaker, Outcome.SUCCESS, at=1.5)
    tried(breaker, Outcome.SUCCESS, at=1.8)
    for attempt in old:
        assert breaker.settle(attempt, Outcome.TIMEOUT, now=2.0) == ()
    assert breaker.state("a") is State.ADMITTED


def test_never_more_than_the_allowed_share_is_out():
    breaker = a_breaker(max_ejected_percent=40)
    events = [event.endpoint for name in NAMES for event in fail(breaker, name, at=1.0)]
    assert events == ["a", "b"]


def test_the_last_one_is_never_ejected():
    alone = a_breaker(["a"], max_ejected_percent=100)
    assert fail(alone, "a", at=1.0, times=20) == ()
    pair = a_breaker(["a", "b"], max_ejected_percent=100)
    assert len(fail(pair, "a", at=1.0) + fail(pair, "b", at=1.0)) == 1


def test_when_a_service_shrinks_who_was_out_may_have_to_come_back():
    breaker = a_breaker()
    fail(breaker, "a", at=1.0)
    fail(breaker, "b", at=1.1)
    (event,) = breaker.members(["a", "b", "c"], now=1.2)
    assert (event.endpoint, event.state, event.sentence) == ("a", State.ADMITTED, "only 3 instances are left")
    assert len(breaker.members(["b"], now=1.3)) == 1


def a_verdict(endpoint: str, caller: str = "shop/web-1", lifetime: float = 5.0) -> SharedVerdict:
    return SharedVerdict(endpoint=endpoint, caller=caller, sentence="5 failures in a row", lifetime=lifetime)


def test_what_one_caller_found_out_spares_the_others():
    first, second = a_breaker(), a_breaker()
    fail(first, "a", at=1.0)
    (verdict,) = first.verdicts(caller="shop/web-1", now=1.1)
    (event,) = second.hear(verdict, now=1.1)
    assert (event.state, event.sentence) == (State.PROBING, "shop/web-1 says: 5 failures in a row")
    assert second.shunned(now=1.1) == {"a"}
    assert second.verdicts(caller="shop/web-2", now=1.1) == (), "hearsay is not passed on"


def a_suspicion(caller: str, faults: int = 1) -> SharedVerdict:
    return SharedVerdict(endpoint="a", caller=caller, sentence="failed", lifetime=1.0, faults=faults)


def a_busy_breaker() -> Breaker:
    """One whose other instances have answered well lately."""
    breaker = a_breaker()
    for number in range(60):
        breaker.settle(breaker.start("bc"[number % 2], now=0.9), Outcome.SUCCESS, now=0.91)
    return breaker


def test_failures_that_several_callers_saw_once_add_up():
    first, second = a_busy_breaker(), a_busy_breaker()
    first.settle(first.start("a", now=1.0), Outcome.FAILURE, now=1.0)
    (verdict,) = first.verdicts(caller="shop/web-1", now=1.0)
    assert (verdict.faults, verdict.sentence) == (1, "1 failures in a row")
    assert second.hear(verdict, now=1.01) == ()
    assert second.hear(verdict, now=1.02) == (), "the same caller's word counts once"
    assert second.hear(a_suspicion("shop/web-2"), now=1.03) == ()
    (event,) = second.hear(a_suspicion("shop/web-3"), now=1.04)
    assert (event.endpoint, event.state, event.cause) == ("a", State.PROBING, Cause.HEARD)


def test_a_good_answer_makes_void_what_others_suspect_and_so_does_time():
    breaker = a_busy_breaker()
    breaker.hear(a_suspicion("shop/web-1", 9), now=1.0)
    breaker.settle(breaker.start("a", now=1.0), Outcome.SUCCESS, now=1.01)
    assert breaker.hear(a_suspicion("shop/web-2"), now=1.02) == ()
    assert breaker.hear(a_suspicion("shop/web-3"), now=2.5) == ()


def test_nobody_is_suspected_while_others_fail_too():
    breaker = a_busy_breaker()
    for number in range(5):
        breaker.settle(breaker.start("bc"[number % 2], now=1.0), Outcome.FAILURE, now=1.0)
    breaker.settle(breaker.start("a", now=1.0), Outcome.FAILURE, now=1.0)
    assert [each for each in breaker.verdicts(caller="x", now=1.0) if each.endpoint == "a"] == []
    for caller in "pqrs":
        assert breaker.hear(a_suspicion(caller), now=1.1) == ()


def test_nobody_is_cut_off_for_failing_as_often_as_the_others():
    breaker = a_busy_breaker()
    for number in range(120):
        name, is_bad = "abc"[number % 3], number % 12 < 9
        breaker.settle(breaker.start(name, now=1.0), Outcome.REFUSED if is_bad else Outcome.SUCCESS, now=1.0)
    assert {breaker.state(name) for name in "bc"} == {State.ADMITTED}


def test_while_most_calls_fail_whoever_is_out_is_tried_by_calls_as_copies_are_not_sent():
    breaker = a_breaker()
    fail(breaker, "a", at=1.0)
    for _ in range(30):
        breaker.settle(breaker.start("b", now=2.2), Outcome.REFUSED, now=2.2)
    breaker.check(now=2.3)
    assert breaker.state("a") is State.PROBING
    trial = breaker.trial(can_copy=True, now=2.3)
    assert trial is not None
    assert (trial.endpoint, trial.is_copy) == ("a", False)


def test_hearsay_that_no_trial_bears_out_is_over_soon_and_not_believed_again():
    breaker = a_breaker()
    breaker.hear(a_verdict("a"), now=1.0)
    tried(breaker, Outcome.SUCCESS, at=1.0)
    (event,) = tried(breaker, Outcome.SUCCESS, at=1.3)
    assert event.state is State.ADMITTED
    assert breaker.hear(a_verdict("a"), now=2.0) == ()


def test_hearsay_expires_without_any_trial():
    breaker = a_breaker()
    breaker.hear(a_verdict("a", lifetime=3600.0), now=1.0)
    assert breaker.next_deadline() == 11.0
    assert breaker.check(now=10.9) == ()
    (event,) = breaker.check(now=11.0)
    assert (event.state, event.cause) == (State.ADMITTED, Cause.EXPIRED)


def test_hearsay_alone_never_empties_a_service():
    breaker = a_breaker(["a", "b", "c", "d", "e", "f", "g", "h"], max_ejected_percent=100)
    for name in "abcdefgh":
        for caller in range(50):
            breaker.hear(a_verdict(name, f"caller-{caller}"), now=1.0)
    assert breaker.shunned(now=1.0) == {"a", "b"}


def test_words_that_had_no_effect_and_have_expired_stop_nobody_from_being_heard():
    breaker = a_breaker(["a", "b", "c", "d"])
    breaker.hear(a_verdict("b"), now=1.0)
    for caller in range(32):
        assert breaker.hear(a_verdict("a", f"caller-{caller}"), now=1.0) == (), "there is room for one, and b has it"
    breaker.check(now=60.0)
    (event,) = breaker.hear(a_verdict("a", "caller-33"), now=60.0)
    assert event.state is State.PROBING


def test_an_instance_that_is_idle_needs_no_looking_after():
    breaker = a_breaker()
    assert breaker.next_deadline() is None
    call(breaker, "a", at=1.0)
    breaker.check(now=2.0)
    assert breaker.next_deadline() is None


def test_the_rules_of_a_traffic_policy_are_taken_over():
    rules = EjectionRules.of(OutlierEjection(consecutive_errors=2, base_ejection=7.0, max_ejected_percent=20))
    assert (rules.failures, rules.failures_alone, rules.base_ejection, rules.allowed(10)) == (2, 2, 7.0, 2)
    off = EjectionRules.of(OutlierEjection(consecutive_errors=0, latency_factor=0.0))
    assert (off.failures, off.failures_alone, off.error_percent) == (0, 0, 0)
    blind = Breaker(off)
    blind.members(NAMES, now=0.0)
    now = warm(blind, NAMES)
    for _ in range(5):
        blind.start("a", now=now)
    assert blind.check(now=now + 10.0) == ()
    assert fail(blind, "b", at=now, times=50) == ()


def test_an_attempt_settles_once():
    breaker = a_breaker()
    attempt = breaker.start("a", now=0.0)
    for _ in range(10):
        assert breaker.settle(attempt, Outcome.FAILURE, now=0.1) == ()


class AnyTraffic(RuleBasedStateMachine):
    """Whatever calls come to, and whatever others say, the bounds hold; and what is well again comes back."""

    @initialize(size=st.integers(1, 8), percent=st.sampled_from([10.0, 34.0, 50.0, 100.0]))
    def begin(self, size: int, percent: float) -> None:
        self.now = 100.0
        self.rules = EjectionRules(max_ejected_percent=percent, min_volume=5)
        self.breaker = Breaker(self.rules)
        self.names = [f"i{number}" for number in range(size)]
        self.known = dict.fromkeys(self.names, State.ADMITTED)
        self.under_way: list[Attempt] = []
        self.breaker.members(self.names, now=self.now)

    def follow(self, events: tuple[Event, ...]) -> None:
        allowed = {
            State.ADMITTED: {State.EJECTED, State.PROBING},
            State.EJECTED: {State.PROBING, State.ADMITTED},
            State.PROBING: {State.ADMITTED, State.EJECTED},
        }
        for event in events:
            assert event.state in allowed[self.known[event.endpoint]], event
            assert event.sentence
            if self.known[event.endpoint] is State.EJECTED and event.state is State.ADMITTED:
                assert event.cause is Cause.ROOM or event.cause is Cause.TRIAL
            self.known[event.endpoint] = event.state

    @rule(step=st.floats(0.0, 3.0))
    def time_passes(self, step: float) -> None:
        self.now += step
        self.follow(self.breaker.check(now=self.now))

    @rule(which=st.integers(0, 7), calls=st.integers(1, 12), outcome=st.sampled_from(Outcome), took=st.floats(0, 2))
    def calls_are_made(self, which: int, calls: int, outcome: Outcome, took: float) -> None:
        usable = [name for name in self.names if name not in self.breaker.shunned(now=self.now)]
        name = usable[which % len(usable)]
        attempts = [self.breaker.start(name, now=self.now) for _ in range(calls)]
        self.now += took
        for attempt in attempts:
            self.follow(self.breaker.settle(attempt, outcome, now=self.now))

    @rule(which=st.integers(0, 7))
    def a_call_stays_out(self, which: int) -> None:
        usable = [name for name in self.names if name not in self.breaker.shunned(now=self.now)]
        self.under_way.append(self.breaker.start(usable[which % len(usable)], now=self.now))

    @precondition(lambda self: self.under_way)
    @rule(outcome=st.sampled_from(Outcome))
    def it_ends(self, outcome: Outcome) -> None:
        self.follow(self.breaker.settle(self.under_way.pop(0), outcome, now=self.now))

    @rule(can_copy=st.booleans(), outcome=st.sampled_from(Outcome), took=st.floats(0, 1))
    def a_trial_is_made(self, can_copy: bool, outcome: Outcome, took: float) -> None:
        trial = self.breaker.trial(can_copy=can_copy, now=self.now)
        if trial is None:
            return
        attempt = self.breaker.start(trial.endpoint, now=self.now, trial=trial)
        self.now += took
        self.follow(self.breaker.settle(attempt, outcome, now=self.now))

    @rule(which=st.integers(0, 7), caller=st.integers(0, 3), lifetime=st.floats(0, 100))
    def another_caller_speaks(self, which: int, caller: int, lifetime: float) -> None:
        verdict = a_verdict(self.names[which % len(self.names)], f"c{caller}", lifetime)
        self.follow(self.breaker.hear(verdict, now=self.now))

    @rule(size=st.integers(1, 8))
    def instances_come_and_go(self, size: int) -> None:
        self.names = [f"i{number}" for number in range(size)]
        events = self.breaker.members(self.names, now=self.now)
        self.known = {name: self.known.get(name, State.ADMITTED) for name in self.names}
        self.follow(events)

    @rule()
    def all_is_well_again(self) -> None:
        """From any state, a minute of good answers readmits everyone."""
        for _ in range(240):
            self.now += 0.25
            self.follow(self.breaker.check(now=self.now))
            trial = self.breaker.trial(can_copy=False, now=self.now)
            if trial is not None:
                attempt = self.breaker.start(trial.endpoint, now=self.now, trial=trial)
                self.follow(self.breaker.settle(attempt, Outcome.SUCCESS, now=self.now + 0.0001))
        assert all(state is State.ADMITTED for state in self.known.values())

    @invariant()
    def the_share_is_kept_and_nobody_is_forgotten(self) -> None:
        shunned = self.breaker.shunned(now=self.now)
        assert len(shunned) <= max(0, min(len(self.names) - 1, len(self.names) * self.rules.max_ejected_percent / 100))
        assert {name for name, state in self.known.items() if state is not State.ADMITTED} <= shunned
        assert all(self.breaker.state(name) is state for name, state in self.known.items())
        assert all(self.breaker.until(name) <= self.now + self.rules.max_ejection for name in self.names)
        due = self.breaker.next_deadline()
        assert due is not None or State.EJECTED not in self.known.values(), "only a trial waits for a call to come"
        assert due is None or due < inf


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
