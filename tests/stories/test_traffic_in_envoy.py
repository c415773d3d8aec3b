"""What a TrafficPolicy promises holds in real Envoys: limits, times, hedges, budgets, sticky users, shedding."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from live.client import Answer, http1
from live.mesh import Live, here
from masche.model.refs import Name, PortRef
from stories.loader import ROOT, read_mesh

WEB = Name("shop", "web-1")
ORDERS, STOCK = PortRef("shop", "orders", 80), PortRef("shop", "stock", 80)


class Caller:
    """The application of web-1 in one story."""

    def __init__(self, live: Live, story: str) -> None:
        self.live = live
        live.load(read_mesh(here((ROOT / story / "mesh.yaml").read_text()), file=story), {WEB})

    def get(self, target: str = "/", service: PortRef = ORDERS, method: str = "GET", **headers: str) -> Answer:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return http1(self.live.standing[WEB].local(service), method, target, service.service, named)

    def at_once(self, number: int, target: str, service: PortRef = ORDERS) -> Counter[int]:
        """Send so many requests together; count the statuses."""
        with ThreadPoolExecutor(number) as pool:
            return Counter(answer.status for answer in pool.map(lambda _: self.get(target, service), range(number)))

    def arrived(self, target: str) -> int:
        """How many tries reached an application."""
        return sum(got.path == target for got in self.live.backends.log)


def test_no_more_requests_than_allowed_are_open_at_a_time(live: Live):
    web = Caller(live, "circuit-breaker")
    assert web.get().status == 200
    assert web.at_once(8, "/?delay=800ms") == {200: 2, 503: 6}
    assert web.arrived("/?delay=800ms") == 2


def test_no_more_connections_than_allowed_are_open_and_no_more_requests_wait_for_one(live: Live):
    web = Caller(live, "circuit-breaker")
    assert web.get(service=STOCK).status == 200
    assert web.at_once(6, "/?delay=800ms", STOCK) == {200: 2, 503: 4}


def test_a_slow_request_is_sent_to_another_instance_beside_the_first_when_that_does_no_harm(live: Live):
    web = Caller(live, "hedging")
    assert web.get("/slow?delay=600ms").status == 200
    assert len({got.name for got in live.backends.log if got.path.startswith("/slow")}) == 2
    assert web.get("/fast").status == 200
    assert web.arrived("/fast") == 1
    assert web.get("/slow?delay=600ms&once", method="POST").status == 200
    assert web.arrived("/slow?delay=600ms&once") == 1


def test_hedges_change_nothing_about_how_long_the_whole_may_take(live: Live):
    web = Caller(live, "hedging")
    began = time.monotonic()
    assert web.get("/?delay=5s").status == 504
    assert 0.9 < time.monotonic() - began < 5, "the second request had its own time"


def test_no_more_repeats_run_at_a_time_than_the_budget_allows(live: Live):
    web = Caller(live, "retry-budget")
    target = "/?responseCode=503&delay=300ms"
    assert web.at_once(20, target) == {503: 20}
    assert 20 < web.arrived(target) <= 23, "one request alone was repeated, up to three times"


def test_who_repeated_in_vain_says_so_and_what_says_so_is_not_repeated(live: Live):
    web = Caller(live, "retry-budget")
    assert web.get().header("x-envoy-ratelimited") is None
    answer = web.get("/spent?responseCode=503")
    assert (answer.status, answer.header("x-envoy-ratelimited")) == (503, "1")
    assert web.arrived("/spent?responseCode=503") == 4
    answer = web.get("/told?responseCode=503", x_echo_set_header="x-envoy-ratelimited: 1")
    assert (answer.status, answer.header("x-envoy-ratelimited")) == (503, "1")
    assert web.arrived("/told?responseCode=503") == 1


def test_a_limit_that_is_reached_is_not_tried_again_a_tier_above(live: Live):
    web = Caller(live, "circuit-breaker")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: web.get("/?delay=800ms"), range(4)))
    marked = {(answer.status, answer.header("x-envoy-ratelimited")) for answer in answers}
    assert marked == {(200, None), (503, "1")}


def test_a_user_stays_with_one_instance(live: Live):
    web = Caller(live, "sticky")
    users = [f"user-{number}" for number in range(24)]
    first = {user: web.get(x_user=user).backend for user in users}
    assert {user: web.get(x_user=user).backend for user in users} == first
    assert set(first.values()) == {"shop/orders-1", "shop/orders-2", "shop/orders-3"}


def test_a_workload_stays_with_one_instance_when_its_address_is_hashed(live: Live):
    web = Caller(live, "sticky")
    assert len({web.get(service=STOCK).backend for _ in range(20)}) == 1


def test_no_more_instances_are_cut_off_than_the_policy_allows(live: Live):
    web = Caller(live, "ejection")
    assert len({web.get().backend for _ in range(30)}) == 3
    for _ in range(30):
        assert web.get("/?responseCode=500").status == 500
    assert len({web.get().backend for _ in range(60)}) == 2


def test_an_instance_that_is_overloaded_refuses_what_it_cannot_carry(live: Live):
    web = Caller(live, "adaptive-concurrency")
    assert web.get().status == 200
    end = time.monotonic() + 20
    while 503 not in (seen := web.at_once(20, "/?delay=100ms")):
        assert time.monotonic() < end, f"nothing was refused: {seen}"
    assert seen[200] >= 3, "some are always let through"


def test_a_request_on_which_nothing_moves_ends_when_somebody_said_so(live: Live):
    web = Caller(live, "adaptive-concurrency")
    began = time.monotonic()
    assert web.get("/?delay=10s").status == 504
    assert time.monotonic() - began < 10, "it ended with the answer"


@pytest.mark.parametrize(("target", "status"), [("/?delay=700ms", 200), ("/?delay=5s", 504)])
def test_a_request_takes_no_longer_than_the_policy_says_though_a_try_may_be_shorter(
    live: Live, target: str, status: int
):
    web = Caller(live, "hedging")
    assert web.get(target).status == status
