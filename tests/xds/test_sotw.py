"""The state-of-the-world protocol, one behaviour each, as xds_protocol describes it and grpcio's client needs it."""

import pytest
from xds_worlds import TYPES, blob, cluster, names, world

from masche.model.blob import Blob
from masche.wire.discovery import SotwRequest
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.limits import Blame
from masche.xds.sotw import SotwStream
from masche.xds.verdict import Decision, Send, Sync


class Client:
    """A state-of-the-world client without a network."""

    def __init__(self, *blobs: Blob) -> None:
        self.stream = SotwStream(now=0.0)
        self.nonces = dict.fromkeys(TYPES, "")
        self.asked: dict[str, tuple[str, ...]] = {}
        self.held: dict[str, dict[str, str]] = {}
        self.inbox: list[Send] = []
        self.log: list[Send] = []
        self.want(*blobs)

    def want(self, *blobs: Blob) -> list[Send]:
        return self.take(self.stream.want(world(*blobs), now=0.0))

    def ask(self, kind: str, *asked: str) -> list[Send]:
        self.asked[kind] = asked
        return self.hear(SotwRequest(type_url=kind, nonce=self.nonces[kind], names=asked))

    def hear(self, request: SotwRequest) -> list[Send]:
        return self.take(self.stream.request(request, now=0.0))

    def take(self, decision: Decision) -> list[Send]:
        self.inbox += decision.sends
        self.log += decision.sends
        return list(decision.sends)

    def answer(self, why: str = "") -> list[Send]:
        send = self.inbox.pop(0)
        kind, self.nonces[send.type_url] = send.type_url, send.nonce
        if not why:
            self.held[kind] = {blob.name: blob.version for blob in send.blobs}
        return self.hear(
            SotwRequest(
                type_url=kind, nonce=send.nonce, names=self.asked[kind], error_code=3 if why else 0, error_message=why
            )
        )

    def settle(self) -> None:
        while self.inbox:
            self.answer()


def test_nothing_is_sent_before_the_control_plane_knows_the_world():
    stream = SotwStream(now=0.0)
    assert not stream.request(SotwRequest(type_url=CLUSTER), now=0.0).sends
    assert names(stream.want(world(cluster("a")), now=0.0).sends) == [("CDS", ["a"], [])]


def test_every_response_is_all_there_is():
    client = Client(cluster("a"), cluster("b"))
    assert names(client.ask(CLUSTER)) == [("CDS", ["a", "b"], [])]
    client.settle()
    assert names(client.want(cluster("a"), cluster("b", "new"))) == [("CDS", ["a", "b"], [])]


def test_an_acknowledgement_causes_no_resend_and_equal_worlds_have_equal_versions():
    client, other = Client(cluster("a"), cluster("b")), Client(cluster("b"), cluster("a"))
    (send,) = client.ask(CLUSTER)
    assert client.answer() == []
    assert other.ask(CLUSTER)[0].version == send.version
    assert client.stream.is_live(world(cluster("a"), cluster("b")))


def test_only_the_names_asked_for_are_sent_and_a_new_name_is_answered_at_once():
    client = Client(blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b"), blob(ENDPOINTS, "c"))
    assert names(client.ask(ENDPOINTS, "a")) == [("EDS", ["a"], [])]
    client.settle()
    assert names(client.ask(ENDPOINTS, "a", "b")) == [("EDS", ["a", "b"], [])]
    client.settle()
    assert client.ask(ENDPOINTS, "b") == []
    assert names(client.ask(ENDPOINTS, "a", "b")) == [("EDS", ["a", "b"], [])]


def test_an_empty_list_after_names_is_not_the_wildcard():
    client = Client(cluster("a"), cluster("b"))
    client.ask(CLUSTER, "a")
    client.settle()
    assert client.ask(CLUSTER) == []
    assert client.want(cluster("a", "new"), cluster("b")) == []


@pytest.mark.parametrize("code", [0, 3])
def test_a_request_with_a_stale_nonce_is_ignored(code: int):
    client = Client(blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b"))
    client.ask(ENDPOINTS, "a")
    stale = SotwRequest(type_url=ENDPOINTS, nonce="stale", names=("a", "b"), error_code=code, error_message="old")
    assert client.hear(stale) == []
    assert client.stream.status()[0].sync is Sync.SENT


def test_a_refused_world_is_not_repeated_until_it_changes():
    client = Client(cluster("a"), cluster("b", "bad"))
    client.ask(CLUSTER)
    assert client.answer("cluster b: no such policy") == []
    assert client.want(cluster("a"), cluster("b", "bad")) == []
    (status,) = client.stream.status()
    assert (status.sync, [rejection.name for rejection in status.rejections]) == (Sync.REJECTED, ["b"])
    assert names(client.want(cluster("a"), cluster("b", "good"))) == [("CDS", ["a", "b"], [])]
    client.settle()
    assert client.stream.is_live(world(cluster("a"), cluster("b", "good")))


def test_a_slow_client_jumps_to_the_latest_world():
    client = Client(blob(ENDPOINTS, "a", "0"))
    client.ask(ENDPOINTS, "a")
    for word in range(1, 100):
        assert client.want(blob(ENDPOINTS, "a", str(word))) == []
    client.settle()
    assert client.held[ENDPOINTS] == {"a": blob(ENDPOINTS, "a", "99").version}
    assert len(client.log) == 2


def test_additions_go_in_order_and_removals_come_last():
    client = Client(cluster("a"), blob(LISTENER, "l", "to a"), blob(ROUTES, "r", "to a"))
    for kind, asked in ((CLUSTER, ()), (LISTENER, ()), (ROUTES, ("r",))):
        client.ask(kind, *asked)
        client.settle()
    client.log.clear()
    client.want(cluster("b"), blob(LISTENER, "l", "to b"), blob(ROUTES, "r", "to b"))
    client.settle()
    assert names(client.log) == [
        ("CDS", ["a", "b"], []),
        ("LDS", ["l"], []),
        ("RDS", ["r"], []),
        ("CDS", ["b"], []),
    ]


def test_the_endpoints_of_a_cluster_that_changed_are_sent_again():
    client = Client(cluster("a"), blob(ENDPOINTS, "a"))
    client.ask(CLUSTER)
    client.ask(ENDPOINTS, "a")
    client.settle()
    sends = client.want(cluster("a", "new"), blob(ENDPOINTS, "a"))
    assert names(sends) == [("CDS", ["a"], []), ("EDS", ["a"], [])]


def test_a_request_beyond_the_limits_ends_the_stream():
    stream = SotwStream(now=0.0)
    no_type = stream.request(SotwRequest(type_url=""), now=0.0).violation
    lots = stream.request(SotwRequest(type_url=ENDPOINTS, names=tuple(map(str, range(10_001)))), now=0.0).violation
    assert no_type is not None
    assert lots is not None
    assert (no_type.blame, lots.blame) == (Blame.INVALID, Blame.EXHAUSTED)


def test_a_client_that_refused_a_part_is_told_again_what_it_had_acknowledged_before():
    client = Client(cluster("a"))
    client.ask(CLUSTER)
    client.settle()
    client.want(cluster("a", "new"), cluster("b", "bad"))
    client.answer("cluster b: no such policy")
    assert names(client.want(cluster("a"))) == [("CDS", ["a"], [])], "it may have applied the new a"
    client.settle()
    assert client.stream.is_live(world(cluster("a")))


def test_two_states_that_are_both_refused_are_not_sent_in_turns():
    client = Client(cluster("a"))
    client.ask(CLUSTER)
    client.settle()
    assert names(client.want(cluster("b", "bad"))) == [("CDS", ["a", "b"], [])], "removals come last"
    assert names(client.answer("cluster b: no such policy")) == [("CDS", ["b"], [])]
    assert client.answer("cluster b: no such policy") == []
    assert names(client.want(cluster("b", "good"))) == [("CDS", ["a", "b"], [])]
