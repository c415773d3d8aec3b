"""Whatever number of Reports come in an interval, steering is given each call once and means that are weighted."""

from hypothesis import given
from hypothesis import strategies as some

from masche.control.sightings import MOST_CALLS, Sightings
from masche.link.messages import EndpointReport, Histogram
from masche.model.refs import PortRef
from masche.telemetry import histogram

ORDERS = PortRef("shop", "orders", 80)
KEY = (ORDERS, "a")
SIGHT = ("shop/orders-1", "", "web-1-proxy")


def times(count: int, us: int) -> Histogram:
    made = histogram.Histogram()
    made.record(us, count)
    return Histogram(buckets=dict(made.buckets), sum_us=count * us)


def report(requests: int, us: int, **more: object) -> EndpointReport:
    known: dict[str, object] = {"latency": times(requests, us), "service_time": times(requests, us // 2)}
    return EndpointReport(service=ORDERS, endpoint="127.0.0.1:22000", requests=requests, **(known | more))  # type: ignore[arg-type]  # a table of keywords


def test_reports_of_one_proxy_add_up_and_their_means_are_weighted_by_what_they_were_taken_of():
    sightings = Sightings()
    sightings.add(KEY, SIGHT, report(1, 4000, errors=1, timeouts=1, rtt_us=300, active=5), zone="b")
    sightings.add(KEY, SIGHT, report(3, 2000, is_ejected=True, active=2), zone="b")
    [seen] = dict(sightings.taken())[KEY]
    assert (seen.workload, seen.zone, seen.via, seen.caller) == ("shop/orders-1", "b", "", "web-1-proxy")
    assert (seen.answers, seen.errors, seen.timeouts) == (4, 1, 1)
    assert (seen.latency_us, seen.service_us) == (2500, 1250)
    assert (seen.active, seen.rtt_us, seen.is_ejected) == (2, 300, True)


def test_proxies_zones_and_ways_are_told_apart():
    sightings = Sightings()
    for key, sight in ((KEY, SIGHT), (KEY, ("shop/orders-1", "c", "web-1-proxy")), ((ORDERS, "b"), SIGHT)):
        sightings.add(key, sight, report(2, 1000), zone="b")
    sightings.add(KEY, ("shop/orders-1", "", "web-2-proxy"), report(2, 1000), zone="b")
    taken = dict(sightings.taken())
    assert [(each.via, each.caller) for each in taken[KEY]] == [
        ("", "web-1-proxy"),
        ("c", "web-1-proxy"),
        ("", "web-2-proxy"),
    ]
    assert len(taken[ORDERS, "b"]) == 1
    assert dict(sightings.taken()) == {}, "what was taken is not given again"


def test_a_verdict_without_calls_is_a_sighting_and_the_newest_word_counts():
    sightings = Sightings()
    sightings.judge(KEY, SIGHT, zone="b", is_ejected=True)
    sightings.judge(KEY, SIGHT, zone="b", is_ejected=False)
    sightings.judge(KEY, SIGHT, zone="b", is_ejected=True)
    [seen] = dict(sightings.taken())[KEY]
    assert (seen.is_ejected, seen.answers, seen.latency_us, seen.service_us) == (True, 0, 0.0, 0.0)


@given(some.lists(some.tuples(some.integers(0, 3), some.integers(0, 50), some.integers(1, 10**6))))
def test_nothing_is_lost_and_nothing_counts_twice(reports: list[tuple[int, int, int]]):
    sightings = Sightings()
    for proxy, requests, us in reports:
        sightings.add(KEY, ("shop/orders-1", "", f"proxy-{proxy}"), report(requests, us), zone="b")
    seen = dict(sightings.taken()).get(KEY, ())
    assert sum(each.answers for each in seen) == sum(requests for _, requests, _ in reports)
    total = sum(each.answers * each.latency_us for each in seen)
    assert abs(total - sum(requests * us for _, requests, us in reports)) < 1


def test_a_sum_that_contradicts_its_buckets_and_a_count_that_cannot_be_are_believed_no_further_than_they_can_be_true():
    sightings = Sightings()
    slow, quick = times(2, 1000), times(2, 1000)
    forged = EndpointReport(
        service=ORDERS,
        endpoint="127.0.0.1:22000",
        errors=10**15,
        active=10**15,
        latency=Histogram(buckets=slow.buckets, sum_us=10**15),
        service_time=Histogram(buckets=quick.buckets, sum_us=0),
    )
    sightings.add(KEY, SIGHT, forged, zone="b")
    [seen] = dict(sightings.taken())[KEY]
    [number] = slow.buckets
    low, high = histogram.bounds(number)
    assert (seen.latency_us, seen.service_us) == (high, low)
    assert seen.errors == MOST_CALLS
    assert seen.active == MOST_CALLS
