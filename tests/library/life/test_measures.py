"""What is counted in a process is told in the words of a proxy's Report, once, and with bounded memory."""

import time

from masche.library.core.ports import Called, Received, Tried
from masche.library.life import measures as module
from masche.library.life.measures import Measures, Standing, Sums
from masche.model.refs import Name, PortRef
from masche.telemetry.histogram import Histogram
from masche.traffic.outcome import Outcome

WEB = Name("shop", "web")
ORDERS = "outbound/shop/orders/80"


def summed(*entries: Called | Tried | Received) -> Sums:
    sums = Sums()
    for entry in entries:
        sums.add(entry)
    return sums


def called(status: int = 200, *, flag: str = "", cluster: str = ORDERS, seconds: float = 0.01) -> Called:
    return Called(cluster=cluster, rule="orders", status=status, seconds=seconds, flag=flag, bytes_sent=3)


def tried(outcome: Outcome, *, seconds: float = 0.01, service_seconds: float = -1.0) -> Tried:
    return Tried(
        cluster=ORDERS, address="10.0.0.1:80", outcome=outcome, seconds=seconds, service_seconds=service_seconds
    )


def test_calls_are_an_edge_by_status_flag_and_latency() -> None:
    [edge] = summed(called(), called(), called(503, flag="UH"), called(0, flag="DC")).edges(WEB)
    assert (edge.direction, edge.workload, edge.service, edge.peer) == (
        "outbound",
        WEB,
        PortRef("shop", "orders", 80),
        "",
    )
    assert edge.codes == {200: 2, 503: 1, 0: 1}
    assert edge.flags == {"UH": 1, "DC": 1}
    assert edge.bytes_sent == 12
    assert Histogram(edge.latency.buckets).count == 3, "what was not answered has no latency"


def test_what_went_to_no_service_of_the_mesh_is_no_edge() -> None:
    assert summed(called(cluster="passthrough")).edges(WEB) == ()


def test_requests_to_our_ports_are_edges_by_caller_and_by_the_rule_that_refused_them() -> None:
    web = "spiffe://mesh.local/ns/shop/sa/web"
    received = Received(port=8080, peer=web, status=200, seconds=0.01)
    refused = Received(port=8080, peer=web, status=403, seconds=0.001, rule="shop/deny rules[0]")
    passed, denied = sorted(summed(received, refused).edges(WEB), key=lambda each: each.rule)
    assert (passed.direction, passed.service, passed.peer, passed.codes) == ("inbound", None, web, {200: 1})
    assert (denied.rule, denied.codes) == ("shop/deny rules[0]", {403: 1})


def test_attempts_are_counted_by_instance_and_only_good_answers_have_a_latency() -> None:
    sums = summed(
        tried(Outcome.SUCCESS, seconds=0.02, service_seconds=0.015),
        tried(Outcome.FAILURE),
        tried(Outcome.REFUSED),
        tried(Outcome.TIMEOUT),
    )
    [seen] = sums.endpoints()
    assert (seen.endpoint, seen.requests, seen.errors, seen.timeouts) == ("10.0.0.1:80", 4, 3, 1)
    assert seen.latency.sum_us == 20_000
    assert seen.service_time.sum_us == 15_000


def test_two_ways_to_an_instance_are_told_apart() -> None:
    around = Tried(cluster=ORDERS, address="10.0.0.1:80@10.0.0.9:15008", outcome=Outcome.SUCCESS, seconds=0.01)
    found = summed(tried(Outcome.SUCCESS), around).endpoints()
    assert [(each.endpoint, each.via) for each in found] == [("10.0.0.1:80", ""), ("10.0.0.1:80", "10.0.0.9:15008")]


def test_an_attempt_that_its_caller_gave_up_says_nothing_of_the_instance() -> None:
    assert summed(tried(Outcome.CANCELLED)).endpoints() == ()


def test_instances_that_somebody_waits_for_or_keeps_off_are_told_although_nothing_ended() -> None:
    waiting = Standing(cluster=ORDERS, address="10.0.0.1:80", active=3)
    ejected = Standing(cluster=ORDERS, address="10.0.0.2:80", is_ejected=True)
    idle = Standing(cluster=ORDERS, address="10.0.0.3:80")
    first, second = Sums().endpoints([waiting, ejected, idle])
    assert (first.active, first.is_ejected, first.requests) == (3, False, 0)
    assert (second.endpoint, second.is_ejected) == ("10.0.0.2:80", True)


def test_what_was_collected_is_counted_once() -> None:
    measures, sums = Measures(), Sums()
    measures.called(called())
    measures.tried(tried(Outcome.SUCCESS))
    measures.collect(sums)
    measures.collect(sums)
    assert [edge.codes for edge in sums.edges(WEB)] == [{200: 1}]
    assert [seen.requests for seen in sums.endpoints()] == [1]


def test_what_nobody_collects_is_bounded() -> None:
    measures, sums = Measures(), Sums()
    for _ in range(module.MOST + 10):
        measures.called(called())
    measures.collect(sums)
    assert sum(edge.codes[200] for edge in sums.edges(WEB)) == module.MOST


def test_counting_costs_a_call_next_to_nothing() -> None:
    """The best of many short rounds, between which the machine may do something else."""
    measures, entry, times = Measures(), called(), 1_000
    costs: list[float] = []
    for _ in range(100):
        began = time.perf_counter()
        for _ in range(times):
            measures.called(entry)
        costs.append((time.perf_counter() - began) / times)
    assert min(costs) < 2e-6
