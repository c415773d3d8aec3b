"""The delta protocol, one behaviour each. See xds_protocol ("Incremental xDS") and what Envoy 1.40 was seen to do."""

import pytest
from xds_worlds import Proxy, blob, cluster, names, proxy, world

from masche.model.refs import Kind, Ref
from masche.wire import framing
from masche.wire.discovery import DeltaRequest
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET
from masche.xds.ledger import blamed_names
from masche.xds.limits import Blame, Limits
from masche.xds.stream import Stream
from masche.xds.verdict import Sync


def test_nothing_is_sent_before_the_control_plane_knows_the_world():
    waiting = Proxy(Stream(now=0.0))
    assert waiting.ask(CLUSTER) == []
    assert waiting.ask(LISTENER, initial={"a": "old"}) == []
    assert not waiting.stream.is_live(world())


def test_a_first_request_without_names_means_every_cluster_and_listener_but_no_endpoints():
    connected = proxy(cluster("a"), blob(LISTENER, "l"), blob(ENDPOINTS, "a"))
    assert names(connected.ask(CLUSTER)) == [("CDS", ["a"], [])]
    connected.settle()
    assert names(connected.ask(LISTENER)) == [("LDS", ["l"], [])]
    assert connected.hear(DeltaRequest(type_url=ENDPOINTS)) == []


def test_an_empty_world_is_answered_once_so_that_the_proxy_need_not_wait():
    connected = proxy()
    assert names(connected.ask(CLUSTER)) == [("CDS", [], [])]
    connected.settle()
    assert connected.want() == []


def test_an_explicit_star_is_the_wildcard_too():
    connected = proxy(cluster("a"), cluster("b"))
    assert names(connected.ask(CLUSTER, "*", "b")) == [("CDS", ["a", "b"], [])]


def test_a_name_beside_the_wildcard_that_does_not_exist_is_answered_as_removed():
    connected = proxy(cluster("a"))
    assert names(connected.ask(CLUSTER, "*", "ghost")) == [("CDS", ["a"], ["ghost"])]


def test_only_the_names_asked_for_are_sent():
    connected = proxy(blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b"))
    assert names(connected.ask(ENDPOINTS, "b")) == [("EDS", ["b"], [])]


def test_a_name_that_comes_to_exist_later_is_sent_then():
    connected = proxy()
    assert names(connected.ask(ENDPOINTS, "a")) == [("EDS", [], ["a"])]
    connected.settle()
    assert names(connected.want(blob(ENDPOINTS, "a"))) == [("EDS", ["a"], [])]


def test_an_acknowledgement_causes_no_resend():
    connected = proxy(cluster("a"))
    connected.ask(CLUSTER)
    assert connected.answer() == []
    assert connected.stream.is_live(world(cluster("a")))


def test_an_unsubscribed_name_is_no_longer_sent_and_is_sent_again_when_asked_for_again():
    connected = proxy(blob(ENDPOINTS, "a"))
    connected.ask(ENDPOINTS, "a")
    connected.settle()
    connected.leave(ENDPOINTS, "a")
    assert connected.want(blob(ENDPOINTS, "a", "new")) == []
    connected.want(blob(ENDPOINTS, "a"))
    assert names(connected.ask(ENDPOINTS, "a")) == [("EDS", ["a"], [])]


def test_a_name_that_is_asked_for_twice_is_sent_twice():
    connected = proxy(blob(ENDPOINTS, "a"))
    connected.ask(ENDPOINTS, "a")
    connected.settle()
    assert names(connected.ask(ENDPOINTS, "a")) == [("EDS", ["a"], [])]


def test_a_name_given_up_under_the_wildcard_is_answered_with_what_the_wildcard_says():
    connected = proxy(cluster("a"))
    connected.ask(CLUSTER, "*", "a", "ghost")
    connected.settle()
    assert names(connected.leave(CLUSTER, "a", "ghost")) == [("CDS", ["a"], ["ghost"])]


def test_the_end_of_the_wildcard_leaves_the_names():
    connected = proxy(cluster("a"), cluster("b"))
    connected.ask(CLUSTER, "*", "a")
    connected.settle()
    connected.leave(CLUSTER, "*")
    assert names(connected.want(cluster("a", "new"), cluster("b", "new"))) == [("CDS", ["a"], [])]


def test_a_proxy_that_comes_back_gets_only_what_changed_and_loses_what_is_gone():
    same, changed = cluster("same"), cluster("changed", "new")
    connected = proxy(same, changed)
    old = {"same": same.version, "changed": "before", "gone": "before"}
    connected.held[CLUSTER] = dict(old)
    assert names(connected.ask(CLUSTER, initial=old)) == [("CDS", ["changed"], [])]
    assert names(connected.answer()) == [("CDS", [], ["gone"])]


def test_a_proxy_that_comes_back_unchanged_is_sent_nothing_and_is_live():
    connected = proxy(cluster("a"), blob(ENDPOINTS, "a"))
    assert connected.ask(CLUSTER, initial={"a": cluster("a").version}) == []
    assert connected.ask(ENDPOINTS, "a", initial={"a": blob(ENDPOINTS, "a").version}) == []
    assert connected.stream.is_live(world(cluster("a"), blob(ENDPOINTS, "a")))


def test_a_proxy_that_comes_back_before_the_world_is_known_is_compared_when_it_is():
    connected = Proxy(Stream(now=0.0))
    connected.ask(ENDPOINTS, "a", "b", initial={"a": blob(ENDPOINTS, "a").version})
    assert names(connected.want(blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b"))) == [("EDS", ["b"], [])]


def test_a_stale_nonce_answers_nothing_but_its_subscription_counts():
    connected = proxy(blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b"))
    connected.ask(ENDPOINTS, "a")
    stale = DeltaRequest(type_url=ENDPOINTS, nonce="0", error_code=13, error_message="old", subscribe=("b",))
    assert connected.hear(stale) == []
    assert connected.rejected == []
    assert names(connected.answer()) == [("EDS", ["b"], [])]


def test_a_slow_proxy_jumps_to_the_latest_version():
    connected = proxy(blob(ENDPOINTS, "a", "0"))
    connected.ask(ENDPOINTS, "a")
    for word in range(1, 100):
        assert connected.want(blob(ENDPOINTS, "a", str(word))) == []
    (send,) = connected.answer()
    assert send.blobs[0].version == blob(ENDPOINTS, "a", "99").version
    connected.settle()
    assert len(connected.log) == 2


def test_a_change_that_is_taken_back_while_in_flight_is_sent_not_at_all():
    connected = proxy(blob(ENDPOINTS, "a", "0"))
    connected.ask(ENDPOINTS, "a")
    connected.want(blob(ENDPOINTS, "a", "1"))
    connected.want(blob(ENDPOINTS, "a", "0"))
    assert connected.answer() == []


def test_what_is_pointed_at_comes_before_what_points():
    everything = (cluster("a"), blob(ENDPOINTS, "a"), blob(LISTENER, "a"), blob(ROUTES, "a"))
    connected = proxy()
    for kind in (CLUSTER, LISTENER):
        connected.ask(kind)
    for kind in (ENDPOINTS, ROUTES):
        connected.ask(kind, "a")
    connected.settle()
    assert names(connected.want(*everything)) == [("CDS", ["a"], []), ("EDS", ["a"], [])]
    assert names(connected.answer()) == [("LDS", ["a"], [])]
    assert names(connected.answer()) == []
    assert names(connected.answer()) == [("RDS", ["a"], [])]


def test_removals_come_last_and_in_the_other_order():
    before = (cluster("a"), blob(ENDPOINTS, "a"), blob(LISTENER, "a"), blob(ROUTES, "a"))
    connected = proxy(*before)
    for kind in (CLUSTER, LISTENER):
        connected.ask(kind)
    for kind in (ENDPOINTS, ROUTES):
        connected.ask(kind, "a")
    connected.settle()
    connected.log.clear()
    connected.want(cluster("b"))
    connected.settle()
    assert names(connected.log) == [
        ("CDS", ["b"], []),
        ("RDS", [], ["a"]),
        ("LDS", [], ["a"]),
        ("EDS", [], ["a"]),
        ("CDS", [], ["a"]),
    ]


def test_the_endpoints_of_a_cluster_that_changed_are_sent_again_though_they_are_the_same():
    connected = proxy(cluster("a"), cluster("b"), blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b"))
    connected.ask(CLUSTER)
    connected.ask(ENDPOINTS, "a", "b")
    connected.settle()
    sends = connected.want(cluster("a", "new"), cluster("b"), blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b"))
    assert names(sends) == [("CDS", ["a"], []), ("EDS", ["a"], [])]


def test_endpoints_are_not_held_back_by_a_cluster_that_is_still_warming():
    connected = proxy(cluster("a"), blob(ENDPOINTS, "a"))
    connected.ask(CLUSTER)
    assert names(connected.ask(ENDPOINTS, "a")) == [("EDS", ["a"], [])]


def test_of_a_refused_response_the_good_are_held_and_the_bad_wait_for_another_version():
    bad = cluster("b", "bad")
    connected = proxy(cluster("a"), bad, cluster("c"))
    connected.bad.add(bad.version)
    connected.ask(CLUSTER)
    connected.settle()
    assert connected.rejected == [("b", bad.version)]
    assert connected.held[CLUSTER].keys() == {"a", "c"}
    assert not connected.stream.is_live(world(cluster("a"), bad, cluster("c")))
    (status,) = connected.stream.status()
    assert (status.sync, [rejection.name for rejection in status.rejections]) == (Sync.REJECTED, ["b"])
    assert "b: is bad" in status.rejections[0].why
    assert connected.want(cluster("a"), bad, cluster("c")) == []
    assert names(connected.want(cluster("a"), cluster("b", "good"), cluster("c"))) == [("CDS", ["b"], [])]
    connected.settle()
    assert connected.stream.status()[0].sync is Sync.IN_SYNC


def test_a_wish_that_goes_back_to_the_last_good_version_ends_the_rejection():
    good, bad = cluster("a"), cluster("a", "bad")
    connected = proxy(good)
    connected.bad.add(bad.version)
    connected.ask(CLUSTER)
    connected.settle()
    connected.want(bad)
    connected.settle()
    back = world(good)
    assert list(connected.stream.want(back, now=0.0).sends) == []
    assert connected.stream.is_live(back)
    assert connected.stream.status()[0].sync is Sync.IN_SYNC


def test_a_refusal_of_what_is_no_longer_wanted_is_reported_once_and_forgotten():
    bad = cluster("a", "bad")
    connected = proxy(bad)
    connected.bad.add(bad.version)
    connected.ask(CLUSTER)
    connected.want(cluster("a", "good"))
    connected.settle()
    assert connected.rejected == [("a", bad.version)]
    assert connected.stream.status()[0].sync is Sync.IN_SYNC


def test_a_rejection_tells_which_resources_it_must_be_reported_on():
    ref = Ref(Kind.HTTP_ROUTE, "shop", "cart")
    route = framing.blob(ROUTES, "cart", b"bad", frozenset({ref}))
    stream = Stream(now=0.0)
    stream.want(world(route), now=0.0)
    (send,) = stream.request(DeltaRequest(type_url=ROUTES, subscribe=("cart",)), now=0.0).sends
    decision = stream.request(
        DeltaRequest(type_url=ROUTES, nonce=send.nonce, error_code=13, error_message="no"), now=0.0
    )
    assert [(rejection.refs, rejection.why) for rejection in decision.rejected] == [(frozenset({ref}), "no")]


@pytest.mark.parametrize("count", [2, 3, 50, 500])
def test_one_bad_resource_that_is_not_named_is_found_and_the_others_are_applied(count: int):
    routes = [blob(ROUTES, f"r{number:03}") for number in range(count - 1)]
    bad = blob(ROUTES, "r001x", "bad")
    connected = proxy(*routes, bad)
    connected.bad.add(bad.version)
    connected.ask(ROUTES, *(route.name for route in (*routes, bad)))
    connected.settle()
    assert connected.rejected == [("r001x", bad.version)]
    assert connected.held[ROUTES].keys() == {route.name for route in routes}
    assert len(connected.log) <= 2 * count.bit_length() + 2
    assert connected.now < 5.0


def test_a_refused_listener_is_tried_once_more_when_a_removal_may_have_freed_its_address():
    old, new = blob(LISTENER, "old"), blob(LISTENER, "new", "same address")
    connected = proxy(old)
    connected.ask(LISTENER)
    connected.settle()
    connected.bad.add(new.version)
    connected.want(new)
    connected.answer()
    connected.bad.clear()
    connected.settle()
    assert connected.held[LISTENER].keys() == {"new"}
    assert connected.stream.is_live(world(new))


def test_a_proxy_that_refuses_everything_is_spoken_to_ever_more_rarely():
    connected = proxy()
    connected.ask(ENDPOINTS, "a")
    connected.settle()
    for word in range(30):
        update = blob(ENDPOINTS, "a", str(word))
        connected.bad.add(update.version)
        connected.want(update)
        connected.settle()
    assert connected.now > 60.0
    assert connected.stream.next_deadline(now=connected.now) is None


def test_only_names_that_stand_as_envoy_writes_them_are_blamed():
    why = "Error adding/updating cluster(s) outbound/shop/a/80: unknown field, b: also bad: c"
    assert blamed_names(why, ["outbound/shop/a/80", "a", "a/80", "b", "c"]) == ("outbound/shop/a/80", "b")


def test_a_large_world_is_sent_in_parts_and_listeners_wait_for_the_last():
    clusters = [cluster(f"c{number}", "x" * 1000) for number in range(10)]
    connected = Proxy(Stream(now=0.0, limits=Limits(response_bytes=2500)))
    connected.want(*clusters, blob(LISTENER, "l"))
    connected.ask(CLUSTER)
    connected.ask(LISTENER)
    connected.settle()
    assert [len(send.blobs) for send in connected.log] == [2, 2, 2, 2, 2, 1]
    assert connected.log[-1].type_url == LISTENER


def test_listeners_are_told_together_for_an_envoy_serves_once_it_was_told_of_some():
    listeners = [blob(LISTENER, f"l{number}", "x" * 1000) for number in range(10)]
    connected = Proxy(Stream(now=0.0, limits=Limits(response_bytes=2500)))
    connected.want(*listeners)
    connected.ask(LISTENER)
    connected.settle()
    assert [len(send.blobs) for send in connected.log] == [10]
    connected = Proxy(Stream(now=0.0, limits=Limits(listener_bytes=2500)))
    connected.want(*listeners)
    connected.ask(LISTENER)
    connected.settle()
    assert [len(send.blobs) for send in connected.log] == [2, 2, 2, 2, 2]


def test_a_resource_beyond_the_size_of_a_response_is_sent_alone():
    connected = Proxy(Stream(now=0.0, limits=Limits(response_bytes=100)))
    connected.want(cluster("big", "x" * 1000), cluster("small"))
    connected.ask(CLUSTER)
    connected.settle()
    assert [len(send.blobs) for send in connected.log] == [1, 1]


def test_a_type_that_we_do_not_serve_has_no_resources_and_harms_nothing():
    connected = proxy(cluster("a"))
    assert names(connected.ask(SECRET, "default")) == [(SECRET, [], ["default"])]
    assert names(connected.ask(CLUSTER)) == [("CDS", ["a"], [])]


def test_routes_are_asked_for_by_name_and_another_proxys_are_not_there():
    connected = proxy(blob(ROUTES, "mine"))
    assert names(connected.ask(ROUTES, "outbound/other/secret/80")) == [("RDS", [], ["outbound/other/secret/80"])]


@pytest.mark.parametrize(
    ("request_", "blame"),
    [
        (DeltaRequest(type_url=""), Blame.INVALID),
        (DeltaRequest(type_url=ENDPOINTS, subscribe=("x" * 1025,)), Blame.INVALID),
        (DeltaRequest(type_url=ENDPOINTS, subscribe=tuple(map(str, range(10_001)))), Blame.EXHAUSTED),
        (DeltaRequest(type_url=CLUSTER, initial_versions={str(n): "" for n in range(10_001)}), Blame.EXHAUSTED),
    ],
)
def test_a_request_beyond_the_limits_ends_the_stream(request_: DeltaRequest, blame: Blame):
    decision = Stream(now=0.0).request(request_, now=0.0)
    assert decision.violation is not None
    assert decision.violation.blame is blame


def test_names_count_over_all_requests_of_a_type_but_the_same_name_counts_once():
    stream = Stream(now=0.0)
    lots = tuple(map(str, range(10_000)))
    for _ in range(2):
        assert stream.request(DeltaRequest(type_url=ENDPOINTS, subscribe=lots), now=0.0).violation is None
    assert stream.request(DeltaRequest(type_url=ENDPOINTS, subscribe=("more",)), now=0.0).violation


def test_a_storm_of_requests_ends_the_stream_and_a_steady_rate_does_not():
    storm, steady = Stream(now=0.0), Stream(now=0.0)
    request = DeltaRequest(type_url=ENDPOINTS, subscribe=("a",), unsubscribe=("a",))
    decisions = [storm.request(request, now=index / 1000) for index in range(3000)]
    assert any(decision.violation and decision.violation.blame is Blame.EXHAUSTED for decision in decisions)
    assert not any(steady.request(request, now=index / 100).violation for index in range(3000))


def test_too_many_types_end_the_stream():
    stream = Stream(now=0.0)
    decisions = [stream.request(DeltaRequest(type_url=f"type{number}"), now=0.0) for number in range(33)]
    assert [bool(decision.violation) for decision in decisions] == [False] * 32 + [True]
