"""A balancer's books: every claim is settled once, and what is under way is always the sum of what was claimed."""

from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from masche.traffic.balancer import Balancer, Claim, SettledTwiceError
from masche.traffic.membership import Endpoint, Health, Membership, Rules, SlowStart
from masche.traffic.outcome import Outcome
from masche.traffic.peak_ewma import PeakEwma

IDS = st.sets(st.sampled_from("abcde"))


class Books(RuleBasedStateMachine):
    """Claims, answers, cancellations and changes of membership in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.rng, self.metric = 0.0, Random(1), PeakEwma()
        self.balancer = Balancer(Membership.of([Endpoint(id="a"), Endpoint(id="b")]), metric=self.metric)
        self.open: list[Claim] = []
        self.epochs: Counter[str] = Counter()
        self.owners: list[tuple[str, int]] = []

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(tried=st.sets(st.sampled_from("abcde")))
    def claim(self, tried: set[str]) -> None:
        claim = self.balancer.claim(now=self.now, rng=self.rng, exclude=tried)
        eligible = {each.id for each in self.balancer.candidates(now=self.now).endpoints}
        assert (claim is None) == (eligible <= tried)
        if claim is not None:
            assert claim.endpoint.id in eligible - tried
            self.open.append(claim)
            self.owners.append((claim.endpoint.id, self.epochs[claim.endpoint.id]))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), outcome=st.sampled_from(Outcome))
    def settle(self, which: int, outcome: Outcome) -> None:
        claim = self.open.pop(which % len(self.open))
        self.owners.pop(which % (len(self.open) + 1))
        claim.settle(outcome, now=self.now)
        claim.cancel(now=self.now)
        with pytest.raises(SettledTwiceError):
            claim.settle(Outcome.SUCCESS, now=self.now)

    @rule(ids=IDS, ill=st.sets(st.sampled_from("abcde")))
    def change(self, ids: set[str], ill: set[str]) -> None:
        endpoints = [Endpoint(id=each, health=Health.EJECTED if each in ill else Health.ADMITTED) for each in ids]
        before = {each.id for each in self.balancer.membership.endpoints}
        self.epochs.update(before - ids)
        self.balancer.membership = self.balancer.membership.updated(endpoints, now=self.now)

    @invariant()
    def what_is_under_way_adds_up(self) -> None:
        members = [each.id for each in self.balancer.membership.endpoints]
        expected = Counter(name for name, epoch in self.owners if epoch == self.epochs[name])
        found = {name: self.balancer.gauge(name).outstanding for name in members}
        assert found == {name: expected[name] for name in members}
        assert self.metric.outstanding == sum(found.values())

    @invariant()
    def panic_is_said_exactly_when_too_few_are_available(self) -> None:
        endpoints = self.balancer.membership.endpoints
        admitted = sum(each.health is Health.ADMITTED for each in endpoints)
        found = self.balancer.candidates(now=self.now)
        assert found.is_panicking == (len(endpoints) > 0 and (admitted == 0 or admitted < 0.5 * len(endpoints)))


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def members(*ids: str) -> Membership:
    return Membership.of(Endpoint(id=each) for each in ids)


def test_a_claim_is_settled_exactly_once() -> None:
    claim = Balancer(members("a")).claim(now=0.0, rng=Random(1))
    assert claim is not None
    claim.settle(Outcome.SUCCESS, now=0.1)
    with pytest.raises(SettledTwiceError, match="a settled"):
        claim.settle(Outcome.FAILURE, now=0.2)


def test_a_cancelled_claim_gives_its_place_back() -> None:
    balancer = Balancer(members("a"))
    claim = balancer.claim(now=0.0, rng=Random(1))
    assert claim is not None
    claim.cancel(now=0.1)
    assert balancer.gauge("a").outstanding == 0
    assert claim.is_settled


def test_with_nobody_there_is_no_claim() -> None:
    assert Balancer(Membership()).claim(now=0.0, rng=Random(1)) is None


def test_a_retry_goes_elsewhere() -> None:
    balancer = Balancer(members("a", "b"))
    claim = balancer.claim(now=0.0, rng=Random(1), exclude={"a"})
    assert claim is not None
    assert claim.endpoint.id == "b"
    assert balancer.claim(now=0.0, rng=Random(1), exclude={"a", "b"}) is None


def test_slow_start_is_looked_at_again_as_time_goes_by() -> None:
    rules = Rules(slow_start=SlowStart(window=10.0))
    old = Endpoint(id="old", admitted_at=-100.0)
    balancer = Balancer(Membership.of([old, Endpoint(id="new", admitted_at=0.0)]), rules=rules)
    rng, met = Random(1), list[int]()
    for now in (0.0, 5.0, 10.0):
        claims = [balancer.claim(now=now + n * 1e-6, rng=rng) for n in range(2000)]
        met.append(sum(claim.endpoint.id == "new" for claim in claims if claim))
        for claim in claims:
            if claim:
                claim.settle(Outcome.SUCCESS, now=now + 0.01)
    assert met[0] < 300, "a tenth of the weight of the other is a share of one eleventh"
    assert 500 < met[1] < 800
    assert 900 < met[2] < 1100


def test_the_repr_is_what_an_operator_reads() -> None:
    balancer = Balancer(members("a", "b"))
    balancer.claim(now=0.0, rng=Random(1))
    assert repr(balancer) == "<Balancer <TwoChoices>: 2 admitted of 2, 1 calls under way>"
    balancer.membership = Membership.of(Endpoint(id=each, health=Health.EJECTED) for each in "ab")
    claim = balancer.claim(now=0.0, rng=Random(1))
    assert claim is not None
    assert repr(claim) in {f"<Claim {each} under way since 0.000, panic>" for each in "ab"}
    assert "PANIC: too few are available, so all are called" in repr(balancer)


def test_what_settles_after_everyone_has_left_is_still_counted_to_its_end() -> None:
    balancer = Balancer(members("a", "b"))
    claims = [balancer.claim(now=0.0, rng=Random(seed)) for seed in range(20)]
    balancer.membership = Membership()
    for claim in claims:
        assert claim is not None
        claim.settle(Outcome.FAILURE, now=0.1)
    assert repr(balancer) == "<Balancer <TwoChoices>: 0 admitted of 0, 0 calls under way>"
