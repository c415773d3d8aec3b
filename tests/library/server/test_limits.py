"""A door counts what it lets in, refuses what is beyond a limit, and says so as our proxies do."""

import logging
from dataclasses import replace
from random import Random

import pytest

from masche.library.inbound.deciding import Answer, Shown
from masche.library.inbound.door import Door, Passage
from masche.model.limits import KeyKind, Limit, LimitKey
from masche.model.policies import Decision, Policy
from masche.model.view import Inbound, MtlsMode
from masche.testing.clock import Clock
from masche.testing.static_reception import Counted, StaticReception
from masche.traffic.request import Connection, Request

PORT = 8080
WEB = Shown(peer="spiffe://mesh.local/ns/shop/sa/web", certificate="ab", local="spiffe://mesh.local/ns/shop/sa/orders")
ASKED = Request(authority="orders", connection=Connection(peer="mesh.local/ns/shop/sa/web", port=PORT))
TWO = Limit(name="shop/a local[0]", requests=2, per=10.0, burst=2)


class Entrance:
    """A door, and what it is told."""

    def __init__(self, *limits: Limit, **more: MtlsMode) -> None:
        self.clock, self.counted = Clock(), Counted()
        self.reception = StaticReception(told={PORT: Inbound(limits=limits, **more)})
        self.door = Door(
            PORT,
            workload=lambda: "shop/orders-1",
            reception=self.reception,
            counter=self.counted,
            now=self.clock,
            rng=Random(1),
            new_id=lambda: "new",
        )

    def tell(self, *limits: Limit) -> None:
        self.reception.told = {PORT: Inbound(limits=limits)}

    def enter(self, request: Request = ASKED, shown: Shown | None = WEB) -> bool:
        entered = self.door.enter(request, shown)
        if isinstance(entered, Passage):
            entered.begin(200, ())
            entered.end()
        return isinstance(entered, Passage)

    def refused(self, request: Request = ASKED, shown: Shown | None = WEB) -> Answer:
        entered = self.door.enter(request, shown)
        assert isinstance(entered, Answer)
        return entered


def test_beyond_a_limit_a_peer_learns_which_it_was_and_when_to_come_back(caplog: pytest.LogCaptureFixture):
    entrance = Entrance(TWO)
    with caplog.at_level(logging.DEBUG):
        assert [entrance.enter() for _ in range(2)] == [True, True]
        answer = entrance.refused()
    assert (answer.status, answer.body, answer.ends) == (429, b"local_rate_limited", False)
    assert answer.headers == (
        ("content-type", "text/plain"),
        ("x-masche-denied", "shop/a local[0]"),
        ("retry-after", "5"),
    )
    assert entrance.counted.requests[-1].rule == "shop/a local[0]"
    assert entrance.counted.statuses() == [200, 200, 429]
    assert not caplog.records  # a line for each of too many would be too many


def test_who_proved_nothing_does_not_learn_which_limit_it_was():
    entrance = Entrance(replace(TWO, burst=1), mtls=MtlsMode.PERMISSIVE)
    assert entrance.enter(shown=None)
    assert entrance.refused(shown=None).headers == (("content-type", "text/plain"), ("retry-after", "5"))


def test_a_grpc_call_is_told_resource_exhausted():
    entrance = Entrance(replace(TWO, burst=1))
    call = replace(ASKED, method="POST", headers=(("content-type", "application/grpc"),))
    assert entrance.enter(call)
    answer = entrance.refused(call)
    assert (answer.status, answer.body) == (200, b"")
    said = dict(answer.headers)
    assert (said["grpc-status"], said["grpc-message"], said["retry-after"]) == ("8", "local_rate_limited", "5")


def test_a_token_comes_back_in_its_time():
    entrance = Entrance(TWO)
    assert [entrance.enter() for _ in range(3)] == [True, True, False]
    entrance.clock.advance(4.9)
    assert not entrance.enter()
    entrance.clock.advance(0.2)
    assert [entrance.enter() for _ in range(2)] == [True, False]


def test_what_a_policy_refuses_takes_no_token():
    entrance = Entrance(TWO)
    entrance.reception.told = {
        PORT: Inbound(limits=(TWO,), policies=(Policy(name="shop/nobody", decision=Decision.ALLOW),))
    }
    assert [entrance.refused().status for _ in range(4)] == [403] * 4
    entrance.tell(TWO)
    assert [entrance.enter() for _ in range(3)] == [True, True, False]


def test_each_client_has_its_own_tokens():
    entrance = Entrance(replace(TWO, key=LimitKey(kind=KeyKind.CLIENT)))
    cron = replace(ASKED, connection=Connection(peer="mesh.local/ns/shop/sa/cron", port=PORT))
    assert [entrance.enter(each) for each in (ASKED, ASKED, cron, ASKED, cron, cron)] == [
        True, True, True, False, True, False,
    ]  # fmt: skip


def test_buckets_are_kept_while_limits_stay_as_they_are_and_full_when_they_change():
    entrance = Entrance(TWO)
    assert [entrance.enter() for _ in range(3)] == [True, True, False]
    entrance.tell(replace(TWO))
    assert not entrance.enter()
    entrance.tell(replace(TWO, requests=3))
    assert entrance.enter()
    entrance.tell()
    assert [entrance.enter() for _ in range(9)] == [True] * 9
