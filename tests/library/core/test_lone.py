"""The usual call is cheaper than others, and nothing else: whatever instances do, it comes to what a Run comes to."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from library.core.scripted import (
    ORDERS,
    Blocking,
    BrokenError,
    ClientTimeoutError,
    Counted,
    Given,
    Nobody,
    Raw,
    Said,
    UnreachedError,
    asked,
    channel,
    mesh,
    orders,
    route,
    under_way,
)
from masche.library.core import sync_driver
from masche.library.core.exchange import Head, Target
from masche.library.core.facade import CallOptions, Facade
from masche.library.core.lone import Lone, begun
from masche.library.core.opening import Opened, opened
from masche.library.core.ports import Known
from masche.library.core.sync_driver import SyncDriver
from masche.model.calling import UNSAID, CircuitBreaker
from masche.model.view import Retry

AT_ONCE = Retry(attempts=2, codes=(500, 503), backoff=0.0, max_backoff=0.0)


@dataclass(frozen=True)
class Act:
    """What one attempt comes to, after ``seconds``: a status with headers, or an exception. ``received``: the length of
    a body that came with the head, negative: it comes later.
    """

    seconds: float
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    error: type[Exception] | None = None
    received: int = -1


@dataclass(frozen=True)
class Made:
    """One call: how it is made, and what its attempts come to. ``is_read``: its answer is read at once."""

    method: str
    timeout: float
    can_repeat: bool
    is_read: bool
    acts: tuple[Act, ...]


@dataclass
class World:
    """A process with its own clock, in which calls are scripted."""

    known: Known
    is_usual: bool
    at: float = 100.0
    counted: Counted = field(default_factory=Counted)
    open: list[Given] = field(default_factory=list[Given])

    def __post_init__(self) -> None:
        self.facade = Facade(
            knowledge=Said(orders=self.known),
            identity=Nobody(),
            recorder=self.counted,
            options=CallOptions(caller="shop/web"),
            now=lambda: self.at,
            rng=Random(7),
        )
        self.facade.channels.routes(self.known, now=self.facade.now)
        self.channel = channel(self.facade)
        self.channel.is_usual = self.is_usual and self.channel.is_usual
        self.driver = SyncDriver(lambda: self.facade)

    def call(self, made: Made) -> tuple[object, ...]:
        """Make a call; what it came to, and all of its attempts."""
        acts = list(made.acts)

        def script(_target: Target) -> Head:
            act = acts.pop(0) if len(acts) > 1 else acts[0]
            self.at += act.seconds
            if act.error is not None:
                raise act.error
            return Head(act.status, act.headers, received=act.received)

        exchange = Blocking(script)
        wanted = structs.replace(asked(made.method, "/a?b=c"), timeout=made.timeout, can_repeat=made.can_repeat)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sync_driver, "sleep", self._pass)
                given_ = self.driver.call(wanted, exchange)
        except (UnreachedError, BrokenError, ClientTimeoutError) as error:
            found: object = repr(error)
        else:
            found = (given_.status, given_.headers)
            if made.is_read:
                given_.close()
            else:
                self.open.append(given_)
        return found, exchange.attempts, [raw.is_closed for raw in exchange.raws]

    def _pass(self, seconds: float) -> None:
        self.at += seconds

    def state(self) -> tuple[object, ...]:
        """All that is known after the calls."""
        for each in self.open:
            each.close()
        callee = self.channel.callee
        gauges = [repr(callee.balancer.gauge(each.id)) for each in callee.balancer.membership.endpoints]
        return (
            self.counted.attempts,
            self.counted.calls,
            self.channel.gate.active,
            gauges,
            repr(callee.breaker),
            repr(callee.budget),
            self.at,
        )


ACTS = st.builds(
    Act,
    seconds=st.sampled_from([0.0, 0.004, 0.005, 0.3, 4.0]),
    status=st.sampled_from([200, 200, 200, 204, 404, 409, 429, 500, 503]),
    headers=st.sampled_from(
        [
            (),
            (("x-masche-service-us", "812"), ("server", "a")),
            (("grpc-status", "14"),),
            (("x-masche-unreached", "1"),),
        ]
    ),
    received=st.sampled_from([-1, 0, 3]),
    error=st.sampled_from([None, None, None, None, UnreachedError, BrokenError, ClientTimeoutError]),
)
CALLS = st.builds(
    Made,
    method=st.sampled_from(["GET", "GET", "POST"]),
    timeout=st.sampled_from([0.0, 0.0, 1.0]),
    can_repeat=st.sampled_from([True, True, False]),
    is_read=st.booleans(),
    acts=st.lists(ACTS, min_size=1, max_size=3).map(tuple),
)


def world(instances: int, most: int, timeout: float, retry: Retry | None) -> Known:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_requests=most))
    return orders(route(retry=retry, timeout=timeout), instances=instances, traffic=traffic)


WORLDS = st.builds(
    world,
    instances=st.sampled_from([0, 1, 4]),
    most=st.sampled_from([2, 1000]),
    timeout=st.sampled_from([0.0, 2.0]),
    retry=st.sampled_from([AT_ONCE, replace(AT_ONCE, any_method=True), replace(AT_ONCE, codes=(409, 503)), None]),
)


@given(WORLDS, st.lists(CALLS, max_size=20))
def test_a_lone_call_comes_to_what_a_run_comes_to(known: Known, calls: Sequence[Made]) -> None:
    lone, run = World(known, is_usual=True), World(known, is_usual=False)
    for each in calls:
        assert lone.call(each) == run.call(each)
    assert lone.state() == run.state()


def begin(facade: Facade, ends_at: float = inf) -> "tuple[Opened, Lone[object, object] | None]":
    known = facade.knowledge.known("orders")
    assert known is not None
    found = opened(facade, known, asked())
    assert isinstance(found, Opened)
    return found, begun(facade, found, Blocking(lambda _: Head(200, ())), asked(), ends_at, facade.now())  # type: ignore[arg-type] # of any answer


def test_the_usual_call_is_a_lone_one() -> None:
    facade, counted = mesh(orders(route(retry=replace(AT_ONCE, any_method=True))))
    _, lone = begin(facade)
    assert lone is not None
    assert under_way(facade) == 2, "one at its instance, and in the gate"
    lone.end()
    lone.end()
    assert under_way(facade) == 0
    [called] = counted.calls
    assert (called.cluster, called.status, called.flag) == (ORDERS.path, 0, "DC")


def test_an_answer_that_came_as_a_whole_ends_its_call_at_once() -> None:
    facade, counted = mesh()
    _, lone = begin(facade)
    assert lone is not None
    aim = lone.target()
    assert aim is not None
    assert lone.answered(Raw(Head(200, (), received=3), aim)) is None
    assert under_way(facade) == 0
    assert [(each.status, each.bytes_received) for each in counted.calls] == [(200, 3)]
    lone.over(received=3)
    lone.end()
    assert len(counted.calls) == len(counted.attempts) == 1


def test_a_call_without_time_or_instance_is_left_to_a_run_and_has_entered_nowhere() -> None:
    facade, _ = mesh(orders(instances=0))
    found, lone = begin(facade)
    assert lone is None
    assert found.channel.gate.active == 0
    facade, _ = mesh()
    found, lone = begin(facade, facade.now())
    assert lone is None
    assert under_way(facade) == 0


@pytest.mark.parametrize("stage", ["begun", "handed over"])
def test_a_lone_call_that_is_forgotten_leaves_the_gate(stage: str) -> None:
    facade, counted = mesh()
    _, lone = begin(facade)
    assert lone is not None
    if stage == "handed over":
        lone.failed(BrokenError())
        lone.end()
    del lone
    assert under_way(facade) == 0
    assert len(counted.calls) == 1
