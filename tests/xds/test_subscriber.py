"""The state-of-the-world protocol from the client's side, one behaviour each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xds_worlds import taken

from masche.wire import framing
from masche.wire.discovery import RESOURCE, SotwRequest, SotwResponse
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client_words import Bounds, Key, Part, Refused, Resource, Standing, TooMuchError
from masche.xds.subscriber import Subscriber


def packed(kind: str, name: str, word: str = "good") -> bytes:
    return framing.packed(kind, framing.text(1, name) + framing.text(2, word))


def decode(part: Part) -> object:
    word = part.message[4 + len(part.name) :].decode()
    return Refused(f"{word} is not understood") if word.startswith("bad") else word


class Talk:
    """A Subscriber and what it says."""

    def __init__(self, **bounds: int) -> None:
        self.subscriber = Subscriber(bounds=Bounds(**bounds))
        self.subscriber.connect()
        self.now = 0.0
        self.nonce = 0
        self.decoded: list[str] = []

    def ask(self, kind: str, *names: str) -> list[SotwRequest]:
        for name in names:
            self.subscriber.subscribe(kind, name)
        return self.said()

    def give_up(self, kind: str, *names: str) -> list[SotwRequest]:
        for name in names:
            self.subscriber.unsubscribe(kind, name)
        return self.said()

    def said(self) -> list[SotwRequest]:
        found: list[SotwRequest] = []
        while request := self.subscriber.outgoing():
            self.subscriber.wrote(request, now=self.now)
            found.append(request)
        return found

    def hear(self, kind: str, *resources: bytes, version: str = "1") -> tuple[Key, ...]:
        self.nonce += 1
        response = SotwResponse(type_url=kind, nonce=f"n{self.nonce}", version=version, resources=resources)
        incoming = taken(self.subscriber.receive(response))
        assert incoming is not None
        assert not [each for each in self.said() if each.type_url == kind], "nothing is answered before it is applied"
        self.decoded = [part.name for part in incoming.parts]
        return self.subscriber.apply(incoming, {part.name: decode(part) for part in incoming.parts}, now=self.now)

    def wait(self, seconds: float) -> tuple[Key, ...]:
        self.now += seconds
        return self.subscriber.tick(now=self.now)

    def found(self, kind: str, name: str) -> Resource:
        found = self.subscriber.found(kind, name)
        assert found is not None
        return found


def test_names_are_asked_for_once_and_an_answer_is_acknowledged_with_its_version_and_nonce():
    talk = Talk()
    assert talk.ask(LISTENER, "proxy", "proxy") == [SotwRequest(type_url=LISTENER, names=("proxy",))]
    assert talk.hear(LISTENER, packed(LISTENER, "proxy"), version="7") == ((LISTENER, "proxy"),)
    assert talk.found(LISTENER, "proxy") == Resource(Standing.HELD, "good")
    assert talk.said() == [SotwRequest(type_url=LISTENER, version="7", nonce="n1", names=("proxy",))]
    assert talk.give_up(LISTENER, "proxy") == [], "somebody else still asks for it"


def test_one_refused_resource_refuses_only_itself_and_is_named_with_its_reason():
    talk = Talk()
    talk.ask(CLUSTER, "a", "b")
    talk.hear(CLUSTER, packed(CLUSTER, "a"), packed(CLUSTER, "b"), version="1")
    talk.said()
    talk.hear(CLUSTER, packed(CLUSTER, "a", "new"), packed(CLUSTER, "b", "bad one"), version="2")
    (answer,) = talk.said()
    assert (answer.version, answer.nonce, answer.error_code) == ("1", "n2", 3)
    assert answer.error_message == "b: bad one is not understood"
    assert talk.found(CLUSTER, "a").value == "new"
    assert talk.found(CLUSTER, "b") == Resource(Standing.HELD, "good", "bad one is not understood")


def test_what_is_refused_with_nothing_good_before_it_stands_refused_until_a_better_one_comes():
    talk = Talk()
    talk.ask(ROUTES, "r")
    talk.hear(ROUTES, packed(ROUTES, "r", "bad"))
    assert talk.found(ROUTES, "r") == Resource(Standing.REFUSED, None, "bad is not understood")
    assert talk.subscriber.refusals() == (((ROUTES, "r"), "bad is not understood"),)
    talk.hear(ROUTES, packed(ROUTES, "r", "good"))
    assert talk.found(ROUTES, "r") == Resource(Standing.HELD, "good")
    assert talk.subscriber.refusals() == ()


def test_what_did_not_change_is_not_decoded_again_and_what_is_still_bad_is_refused_again():
    talk = Talk()
    talk.ask(CLUSTER, "a", "b")
    talk.hear(CLUSTER, packed(CLUSTER, "a"), packed(CLUSTER, "b", "bad"))
    talk.said()
    assert talk.hear(CLUSTER, packed(CLUSTER, "a"), packed(CLUSTER, "b", "bad"), version="2") == ()
    assert talk.decoded == []
    assert talk.said()[0].error_message == "b: bad is not understood"


@pytest.mark.parametrize("kind", [LISTENER, CLUSTER])
def test_a_listener_or_cluster_that_is_missing_from_a_response_is_gone(kind: str):
    talk = Talk()
    talk.ask(kind, "a", "b")
    talk.hear(kind, packed(kind, "a"))
    assert talk.found(kind, "b").standing is Standing.ABSENT, "the first response answers the first request"
    talk.said()
    assert talk.hear(kind) == ((kind, "a"),)
    assert talk.found(kind, "a") == Resource(Standing.ABSENT)


def test_ignored_deletions_keep_what_was_held():
    talk = Talk()
    talk.subscriber.ignores_deletion = True
    talk.ask(CLUSTER, "a", "b")
    talk.hear(CLUSTER, packed(CLUSTER, "a"))
    talk.said()
    assert talk.hear(CLUSTER) == ()
    assert talk.found(CLUSTER, "a").value == "good"


@pytest.mark.parametrize("kind", [ROUTES, ENDPOINTS])
def test_routes_and_endpoints_stay_when_a_response_leaves_them_out(kind: str):
    talk = Talk()
    talk.ask(kind, "a")
    talk.hear(kind, packed(kind, "a"))
    assert talk.hear(kind) == ()
    assert talk.found(kind, "a").value == "good"


def test_what_does_not_come_within_fifteen_seconds_of_the_request_does_not_exist():
    talk = Talk()
    talk.subscriber.subscribe(ENDPOINTS, "a")
    assert talk.subscriber.next_deadline() is None, "nothing was asked yet"
    talk.said()
    assert talk.subscriber.next_deadline() == 15.0
    assert talk.wait(14.9) == ()
    assert talk.wait(0.2) == ((ENDPOINTS, "a"),)
    assert talk.found(ENDPOINTS, "a").standing is Standing.ABSENT
    assert talk.hear(ENDPOINTS, packed(ENDPOINTS, "a")) == ((ENDPOINTS, "a"),)
    assert talk.found(ENDPOINTS, "a").standing is Standing.HELD


def test_nothing_is_declared_absent_while_no_stream_is_up():
    talk = Talk()
    talk.ask(LISTENER, "a")
    talk.subscriber.disconnect()
    assert talk.wait(100.0) == ()
    talk.subscriber.connect()
    talk.said()
    assert talk.subscriber.next_deadline() == 115.0


def test_a_cluster_added_later_and_missing_from_a_response_that_may_have_crossed_is_gone_a_second_later():
    talk = Talk()
    talk.ask(CLUSTER, "a")
    talk.hear(CLUSTER, packed(CLUSTER, "a"))
    talk.said()
    talk.ask(CLUSTER, "b")
    talk.hear(CLUSTER, packed(CLUSTER, "a"))
    assert talk.found(CLUSTER, "b").standing is Standing.ASKED
    assert talk.wait(1.0) == ((CLUSTER, "b"),)


def test_a_new_stream_asks_for_everything_with_the_version_held_and_keeps_what_it_has():
    talk = Talk()
    talk.ask(CLUSTER, "a")
    talk.hear(CLUSTER, packed(CLUSTER, "a"), version="5")
    talk.said()
    talk.subscriber.disconnect()
    assert talk.ask(ENDPOINTS, "a") == [], "no stream is up"
    talk.subscriber.connect()
    assert talk.said() == [
        SotwRequest(type_url=CLUSTER, version="5", names=("a",)),
        SotwRequest(type_url=ENDPOINTS, names=("a",)),
    ]
    assert talk.wait(100.0) == ((ENDPOINTS, "a"),), "the one that is held need not be sent again"
    talk.subscriber.connect(is_another=True)
    assert talk.said()[0].version == "", "another control plane's versions are its own"


def test_an_empty_list_never_asks_for_everything():
    talk = Talk()
    talk.ask(LISTENER, "a")
    talk.hear(LISTENER, packed(LISTENER, "a"))
    talk.said()
    assert talk.give_up(LISTENER, "a") == []
    talk.hear(LISTENER, packed(LISTENER, "a", "new"))
    assert talk.said()[0].names == ("a",)
    assert talk.ask(LISTENER, "b")[0].names == ("b",)


def test_what_is_given_up_and_asked_for_again_is_still_there_as_the_control_plane_may_send_it_no_more():
    talk = Talk()
    talk.ask(ENDPOINTS, "a", "b")
    talk.hear(ENDPOINTS, packed(ENDPOINTS, "a"), packed(ENDPOINTS, "b"))
    talk.said()
    talk.give_up(ENDPOINTS, "b")
    assert talk.subscriber.found(ENDPOINTS, "b") is None
    talk.hear(ENDPOINTS, packed(ENDPOINTS, "b", "newer"))
    talk.ask(ENDPOINTS, "b")
    assert talk.found(ENDPOINTS, "b").value == "newer"
    talk.give_up(ENDPOINTS, "b")
    talk.wait(61.0)
    talk.ask(ENDPOINTS, "b")
    assert talk.found(ENDPOINTS, "b").standing is Standing.ASKED


def test_what_is_given_up_and_asked_for_again_before_that_was_said_is_still_waited_for():
    talk = Talk()
    talk.ask(ENDPOINTS, "a")
    talk.subscriber.unsubscribe(ENDPOINTS, "a")
    assert talk.ask(ENDPOINTS, "a") == [], "the control plane never heard of it"
    assert talk.wait(15.0) == ((ENDPOINTS, "a"),)


def test_what_vanishes_while_nobody_asks_for_it_is_not_taken_for_held_afterwards():
    talk = Talk()
    talk.ask(CLUSTER, "a")
    talk.hear(CLUSTER, packed(CLUSTER, "a"))
    talk.said()
    talk.give_up(CLUSTER, "a")
    talk.hear(CLUSTER)
    talk.ask(CLUSTER, "a")
    assert talk.found(CLUSTER, "a").standing is Standing.ABSENT


def test_names_that_nobody_asked_for_are_neither_decoded_nor_kept():
    talk = Talk()
    talk.ask(ENDPOINTS, "a")
    assert talk.hear(ENDPOINTS, packed(ENDPOINTS, "stranger", "bad"), packed(ENDPOINTS, "a")) == ((ENDPOINTS, "a"),)
    assert talk.decoded == ["a"]
    assert talk.said()[0].error_code == 0
    unknown = SotwResponse(type_url="type.googleapis.com/unknown", nonce="x", version="1")
    assert taken(talk.subscriber.receive(unknown)) is None
    assert talk.said() == []


def test_a_resource_may_come_in_a_wrapper_that_names_it():
    talk = Talk()
    talk.ask(CLUSTER, "outer")
    wrapped = framing.packed(RESOURCE, framing.text(3, "outer") + framing.field(2, packed(CLUSTER, "inner")))
    assert talk.hear(CLUSTER, wrapped) == ((CLUSTER, "outer"),)


@pytest.mark.parametrize(
    ("resources", "why"),
    [
        ((b"\xff\xff",), "resource 0 of the response: "),
        ((packed(ROUTES, "a"),), "resource 0 of the response, 'a', is of the type"),
        ((packed(CLUSTER, "a"), packed(CLUSTER, "a")), "a: is in the response twice"),
        (tuple(packed(CLUSTER, f"a{number}") for number in range(5)), "5 resources; at most 4 are taken"),
    ],
)
def test_a_malformed_response_is_refused_and_removes_nothing(resources: tuple[bytes, ...], why: str):
    talk = Talk(resources=4)
    talk.ask(CLUSTER, "a", "b")
    talk.hear(CLUSTER, packed(CLUSTER, "a"), packed(CLUSTER, "b"))
    talk.said()
    talk.hear(CLUSTER, *resources)
    (answer,) = talk.said()
    assert answer.error_code == 3
    assert why in answer.error_message
    assert talk.found(CLUSTER, "b").standing is Standing.HELD


def test_a_refusal_of_many_names_them_all_in_few_words():
    talk = Talk(reason_characters=2000)
    names = [f"cluster-{number:03}" for number in range(20)]
    talk.ask(CLUSTER, *names)
    talk.hear(CLUSTER, *(packed(CLUSTER, name, "bad" * 40) for name in names))
    message = talk.said()[0].error_message
    assert len(message) <= 2000
    assert all(name in message for name in names)


def test_more_is_not_asked_for_than_a_control_plane_answers():
    talk = Talk(names=2, name_characters=10)
    talk.ask(CLUSTER, "a", "b")
    with pytest.raises(TooMuchError, match="2 resources of the type Cluster"):
        talk.subscriber.subscribe(CLUSTER, "c")
    with pytest.raises(TooMuchError, match="1 to 10 characters, this one 11"):
        talk.subscriber.subscribe(LISTENER, "a" * 11)
    talk.give_up(CLUSTER, "a")
    talk.ask(CLUSTER, "c")
    assert talk.found(CLUSTER, "c").standing is Standing.ASKED


def test_what_came_on_a_stream_that_has_ended_is_kept_and_not_answered():
    talk = Talk()
    talk.ask(CLUSTER, "a")
    incoming = taken(
        talk.subscriber.receive(
            SotwResponse(type_url=CLUSTER, nonce="n", version="1", resources=(packed(CLUSTER, "a"),))
        )
    )
    assert incoming is not None
    talk.subscriber.disconnect()
    talk.subscriber.connect()
    talk.said()
    talk.subscriber.apply(incoming, {"a": "good"}, now=0.0)
    assert talk.found(CLUSTER, "a").value == "good"
    assert talk.said() == []


def test_what_was_known_before_the_process_began_is_held_until_a_control_plane_says_better():
    talk = Talk()
    talk.subscriber.subscribe(CLUSTER, "a")
    talk.subscriber.preload(CLUSTER, "a", "old")
    assert talk.found(CLUSTER, "a").value == "old"
    assert talk.said()[0].version == ""
    talk.hear(CLUSTER, packed(CLUSTER, "a", "new"))
    assert talk.found(CLUSTER, "a").value == "new"


@given(
    st.lists(
        st.lists(
            st.one_of(
                st.binary(max_size=40), st.builds(packed, st.sampled_from([CLUSTER, ROUTES]), st.sampled_from("abc"))
            ),
            max_size=5,
        ),
        max_size=5,
    )
)
def test_whatever_a_control_plane_sends_is_answered_once_and_ends_nothing(responses: list[list[bytes]]):
    talk = Talk()
    talk.ask(CLUSTER, "a", "b")
    for resources in responses:
        talk.hear(CLUSTER, *resources)
        (answer,) = talk.said()
        assert answer.nonce == f"n{talk.nonce}"
        assert answer.names == ("a", "b")


def test_what_is_given_up_while_its_request_is_written_and_asked_for_again_is_still_waited_for():
    talk = Talk()
    talk.subscriber.subscribe(ENDPOINTS, "a")
    request = talk.subscriber.outgoing()
    assert request is not None
    talk.subscriber.unsubscribe(ENDPOINTS, "a")
    talk.subscriber.wrote(request, now=0.0)
    assert talk.ask(ENDPOINTS, "a") == []
    assert talk.subscriber.next_deadline() == 15.0
    assert talk.hear(ENDPOINTS, packed(ENDPOINTS, "a")) == ((ENDPOINTS, "a"),)


def test_what_is_asked_for_again_is_not_taken_for_gone_by_a_response_that_crossed():
    talk = Talk()
    talk.ask(CLUSTER, "a", "b")
    both, one = (packed(CLUSTER, "a"), packed(CLUSTER, "b")), packed(CLUSTER, "b")
    talk.hear(CLUSTER, *both)
    talk.said()
    assert talk.give_up(CLUSTER, "a")[0].names == ("b",)
    assert talk.ask(CLUSTER, "a")[0].names == ("a", "b")
    talk.hear(CLUSTER, *both)
    talk.hear(CLUSTER, one)
    assert talk.found(CLUSTER, "a").standing is Standing.HELD, "that answers what we said in between"
    talk.hear(CLUSTER, *both)
    assert talk.wait(2.0) == ()
    talk.hear(CLUSTER, one)
    assert talk.wait(1.0) == ((CLUSTER, "a"),)


def test_what_a_response_leaves_out_while_the_request_that_gives_it_up_is_written_is_not_taken_for_gone():
    talk = Talk()
    talk.ask(CLUSTER, "a", "b")
    talk.hear(CLUSTER, packed(CLUSTER, "a"), packed(CLUSTER, "b"))
    talk.said()
    talk.subscriber.unsubscribe(CLUSTER, "a")
    request = talk.subscriber.outgoing()
    assert request is not None
    assert request.names == ("b",)
    answer = SotwResponse(type_url=CLUSTER, nonce="n2", version="2", resources=(packed(CLUSTER, "b"),))
    incoming = taken(talk.subscriber.receive(answer))
    assert incoming is not None
    talk.subscriber.apply(incoming, {}, now=0.0)
    talk.subscriber.wrote(request, now=0.0)
    assert talk.subscriber.subscribe(CLUSTER, "a").standing is Standing.HELD, "the control plane may have heard of it"


def test_a_late_answer_to_what_was_asked_and_given_up_makes_nothing_certain():
    talk = Talk()
    both, one = (packed(CLUSTER, "a"), packed(CLUSTER, "b")), packed(CLUSTER, "b")
    talk.ask(CLUSTER, "b")
    talk.ask(CLUSTER, "a")
    talk.give_up(CLUSTER, "a")
    talk.hear(CLUSTER, one)  # to the first request
    talk.ask(CLUSTER, "a")
    talk.hear(CLUSTER, *both)  # to the second
    talk.hear(CLUSTER, one)  # to the third
    assert talk.found(CLUSTER, "a").standing is Standing.HELD, "the fourth was not answered yet"
    talk.give_up(CLUSTER, "a")
    talk.ask(CLUSTER, "a")
    talk.give_up(CLUSTER, "a")
    talk.hear(CLUSTER, one)
    assert talk.wait(60.0) == ()
    assert talk.subscriber.next_deadline() is None, "after so long nothing is remembered"
    talk.ask(CLUSTER, "a")
    assert talk.found(CLUSTER, "a").standing is Standing.ASKED
