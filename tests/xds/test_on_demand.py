"""What a wildcard is not answered with and a name is: scope on demand, as the protocol sees it."""

from xds_worlds import Proxy, blob, cluster, names, world

from masche.wire.discovery import DeltaRequest, SotwRequest
from masche.wire.types import CLUSTER, ENDPOINTS
from masche.xds.sotw import SotwStream
from masche.xds.stream import Stream
from masche.xds.wanted import Table, Wanted


def offering(*offered: str, word: str = "a") -> Wanted:
    """Three clusters, of which a wildcard is given these."""
    return Wanted({CLUSTER: Table([cluster(name, word) for name in "abc"], offered=frozenset(offered))})


def proxy(wanted: Wanted) -> Proxy:
    made = Proxy(Stream(now=0.0))
    made.take(made.stream.want(wanted, now=0.0))
    return made


def test_a_wildcard_is_answered_with_what_is_offered():
    envoy = proxy(offering("a"))
    assert names(envoy.ask(CLUSTER)) == [("CDS", ["a"], [])]
    envoy.answer()
    assert envoy.stream.is_live(offering("a"))


def test_a_name_beside_the_wildcard_is_answered_at_once_and_kept_up_to_date():
    envoy = proxy(offering("a"))
    envoy.ask(CLUSTER)
    envoy.answer()
    assert names(envoy.ask(CLUSTER, "b")) == [("CDS", ["b"], [])]
    envoy.answer()
    changed = envoy.take(envoy.stream.want(offering("a", word="new"), now=0.0))
    assert names(changed) == [("CDS", ["a", "b"], [])]


def test_a_name_that_does_not_exist_is_said_to_be_absent_at_once():
    envoy = proxy(offering("a"))
    envoy.ask(CLUSTER)
    envoy.answer()
    assert names(envoy.ask(CLUSTER, "nowhere")) == [("CDS", [], ["nowhere"])]
    envoy.answer()
    assert envoy.stream.is_live(offering("a"))


def test_what_is_offered_later_is_sent_and_what_is_no_longer_offered_stays():
    envoy = proxy(offering("a"))
    envoy.ask(CLUSTER)
    envoy.answer()
    assert names(envoy.take(envoy.stream.want(offering("b"), now=0.0))) == [("CDS", ["b"], [])]
    envoy.answer()
    assert set(envoy.held[CLUSTER]) == {"a", "b"}
    assert envoy.stream.is_live(offering("b"))


def test_what_a_proxy_holds_beyond_the_offer_goes_when_it_is_gone_from_the_mesh():
    envoy = proxy(offering("a", "b"))
    envoy.ask(CLUSTER)
    envoy.answer()
    envoy.take(envoy.stream.want(offering("a"), now=0.0))
    assert names(envoy.take(envoy.stream.want(world(cluster("a")), now=0.0))) == [("CDS", [], ["b"])]


def test_a_control_plane_that_forgot_who_calls_whom_takes_nothing_from_a_proxy_that_returns():
    held = {name: cluster(name).version for name in "ab"}
    envoy = proxy(offering())
    assert envoy.hear(DeltaRequest(type_url=CLUSTER, subscribe=("*",), initial_versions=held)) == []
    assert envoy.stream.is_live(offering())


def test_a_cluster_that_was_asked_for_by_name_is_not_sent_again_when_the_proxy_returns():
    held = {name: cluster(name).version for name in "ab"}
    envoy = proxy(offering("a"))
    assert envoy.hear(DeltaRequest(type_url=CLUSTER, subscribe=("*", "b"), initial_versions=held)) == []
    changed = envoy.take(envoy.stream.want(offering("a", word="new"), now=0.0))
    assert names(changed) == [("CDS", ["a", "b"], [])]


def test_a_name_given_up_beside_a_wildcard_that_does_not_offer_it_is_kept_if_it_is_held():
    envoy = proxy(offering("a"))
    envoy.ask(CLUSTER, "*", "b")
    envoy.answer()
    assert names(envoy.leave(CLUSTER, "b")) == [("CDS", ["b"], [])], "the proxy must be told what holds now"
    envoy.answer()
    assert envoy.stream.is_live(offering("a"))


def test_the_endpoints_of_a_cluster_asked_for_by_name_are_sent_behind_it_and_again_when_they_are_asked_for():
    endpoints = Table([blob(ENDPOINTS, name) for name in "abc"])
    envoy = proxy(Wanted({**offering("a"), ENDPOINTS: endpoints}))
    envoy.ask(CLUSTER)
    envoy.answer()
    envoy.ask(ENDPOINTS, "a")
    envoy.answer()
    assert names(envoy.ask(CLUSTER, "b")) == [("CDS", ["b"], []), ("EDS", ["b"], [])]
    envoy.answer()
    assert envoy.ask(ENDPOINTS, "b") == [], "one response is under way"
    assert names(envoy.answer()) == [("EDS", ["b"], [])]
    envoy.answer()
    assert envoy.stream.is_live(Wanted({**offering("a"), ENDPOINTS: endpoints}))


def test_what_is_expected_to_be_asked_for_is_not_said_to_be_gone_when_it_goes():
    envoy = proxy(Wanted({**offering("a"), ENDPOINTS: Table([blob(ENDPOINTS, name) for name in "ab"])}))
    envoy.ask(CLUSTER)
    envoy.answer()
    envoy.ask(ENDPOINTS, "a")
    busy = envoy.inbox.pop()
    envoy.ask(CLUSTER, "b")
    less = envoy.take(envoy.stream.want(Wanted({ENDPOINTS: Table([blob(ENDPOINTS, "a")])}), now=0.0))
    assert less == []
    envoy.inbox.insert(0, busy)
    assert ("EDS", [], ["b"]) not in names(envoy.answer())


def test_a_refused_cluster_that_is_no_longer_offered_is_no_longer_a_rejection():
    envoy = proxy(offering())
    envoy.bad.add(cluster("c").version)
    envoy.ask(CLUSTER)
    envoy.answer()
    envoy.take(envoy.stream.want(offering("c"), now=0.0))
    envoy.answer()
    assert not envoy.stream.is_live(offering("c"))
    assert [name for name, _ in envoy.rejected] == ["c"]
    envoy.take(envoy.stream.want(offering(), now=0.0))
    assert envoy.stream.is_live(offering())


def test_a_table_tells_a_change_of_its_offer_from_none():
    first = offering("a").table(CLUSTER)
    assert first.changed_since(offering("a").table(CLUSTER)) == frozenset()
    assert first.changed_since(offering("a", "b").table(CLUSTER)) == {"b"}
    assert first.changed_since(Table(first.values())) == {"b", "c"}


def test_the_state_of_the_world_has_what_is_offered_or_named_or_held():
    stream = SotwStream(now=0.0)
    stream.want(offering("a"), now=0.0)
    (first,) = stream.request(SotwRequest(type_url=CLUSTER, names=("*", "b")), now=0.0).sends
    assert [blob.name for blob in first.blobs] == ["a", "b"]
    answer = SotwRequest(type_url=CLUSTER, names=("*", "b"), nonce=first.nonce, version=first.version)
    assert not stream.request(answer, now=0.0).sends
    (later,) = stream.want(offering("c"), now=0.0).sends
    assert [blob.name for blob in later.blobs] == ["a", "b", "c"]
