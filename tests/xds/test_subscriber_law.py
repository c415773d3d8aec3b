"""The law of a state-of-the-world client: after all messages were delivered it holds exactly what was wanted of what it
asked for, knows what does not exist, and nothing is said any more; whatever it gave up, refused, lost or missed.

The other end is our own control plane's stream. Messages of both directions cross on their way."""

from collections import Counter, deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from xds_worlds import TYPES, blob, taken

from masche.model.blob import Blob
from masche.wire import framing
from masche.wire.discovery import SotwRequest, SotwResponse
from masche.wire.types import CLUSTER
from masche.xds.client_words import Incoming, Part, Refused, Standing
from masche.xds.sotw import SotwStream
from masche.xds.subscriber import Subscriber
from masche.xds.verdict import Decision
from masche.xds.wanted import Wanted

NAMES = ("a", "b")
WORDS = ("one", "two", "three", "bad")

kinds = st.sampled_from(TYPES)
names = st.sampled_from(NAMES)
worlds = st.dictionaries(st.tuples(kinds, names), st.sampled_from(WORDS))


def named(kind: str, name: str, word: str) -> Blob:
    """A resource that carries its name, as a real one does."""
    made = blob(kind, name, word, eds=kind == CLUSTER)
    return framing.blob(kind, name, framing.text(1, name) + framing.text(2, word), eds_name=made.eds_name)


def decode(part: Part) -> object:
    word = part.message.rpartition(b"\x12")[2][1:].decode()
    return Refused("is bad") if word == "bad" else word


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.client = Subscriber()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.world: dict[tuple[str, str], str] = {}
        self.wanted = Wanted({})
        self.begin()

    def begin(self) -> None:
        self.server = SotwStream(now=self.now)
        self.to_server: deque[SotwRequest] = deque()
        self.to_client: deque[SotwResponse] = deque()
        self.open: Incoming | None = None
        self.writing: SotwRequest | None = None
        self.client.connect()
        self.take(self.server.want(self.wanted, now=self.now))

    def take(self, decision: Decision) -> None:
        assert decision.violation is None
        for send in decision.sends:
            resources = tuple(framing.sotw_frame(found) for found in send.blobs)
            fields = [next(framing.fields(frame)) for frame in resources]
            bodies = tuple(frame[part.value : part.end] for frame, part in zip(resources, fields, strict=True))
            self.to_client.append(
                SotwResponse(type_url=send.type_url, nonce=send.nonce, version=send.version, resources=bodies)
            )

    @rule(kind=kinds, name=names)
    def it_asks(self, kind: str, name: str) -> None:
        self.asked[kind, name] += 1
        self.client.subscribe(kind, name)

    @precondition(lambda self: +self.asked)
    @rule(data=st.data())
    def it_gives_up(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted((+self.asked).keys())))
        self.asked[key] -= 1
        self.client.unsubscribe(*key)

    @rule(world=worlds)
    def the_wish_changes(self, world: dict[tuple[str, str], str]) -> None:
        self.world = world
        self.wanted = Wanted.of(named(kind, name, word) for (kind, name), word in world.items())
        self.take(self.server.want(self.wanted, now=self.now))

    @precondition(lambda self: self.writing is None)
    @rule()
    def it_begins_to_write(self) -> None:
        self.writing = self.client.outgoing()

    @precondition(lambda self: self.writing)
    @rule()
    def it_wrote(self) -> None:
        assert self.writing is not None
        self.client.wrote(self.writing, now=self.now)
        self.to_server.append(self.writing)
        self.writing = None

    @precondition(lambda self: self.to_server)
    @rule()
    def the_server_hears(self) -> None:
        self.take(self.server.request(self.to_server.popleft(), now=self.now))

    @precondition(lambda self: self.to_client and self.open is None)
    @rule()
    def it_reads(self) -> None:
        self.open = taken(self.client.receive(self.to_client.popleft()))

    @precondition(lambda self: self.open)
    @rule()
    def it_applies(self) -> None:
        incoming, self.open = self.open, None
        assert incoming is not None
        self.client.apply(incoming, {part.name: decode(part) for part in incoming.parts}, now=self.now)

    @rule(passed=st.sampled_from((0.5, 2.0, 20.0)))
    def time_passes(self, passed: float) -> None:
        self.now += passed
        self.client.tick(now=self.now)

    @rule(is_applied_late=st.booleans(), is_another=st.booleans())
    def it_connects_again(self, is_applied_late: bool, is_another: bool) -> None:
        late = self.open
        self.client.disconnect()
        self.begin_again(is_another=is_another)
        if late and is_applied_late:
            self.client.apply(late, {part.name: decode(part) for part in late.parts}, now=self.now)

    def begin_again(self, *, is_another: bool) -> None:
        self.server = SotwStream(now=self.now)
        self.to_server.clear()
        self.to_client.clear()
        self.open = self.writing = None
        self.client.connect(is_another=is_another)
        self.take(self.server.want(self.wanted, now=self.now))

    @rule()
    def everything_settles(self) -> None:
        for _ in range(300):
            if self.open:
                self.it_applies()
            elif self.to_client:
                self.it_reads()
            elif self.to_server:
                self.the_server_hears()
            elif self.writing:
                self.it_wrote()
            elif request := self.client.outgoing():
                self.writing = request
            elif (deadline := self.client.next_deadline()) is not None:
                assert deadline > self.now or self.now == 0.0 or deadline >= self.now - 20.0
                self.now = max(self.now, deadline)
                self.client.tick(now=self.now)
            else:
                break
        else:
            raise AssertionError("the two never come to rest")
        for key in self.asked:
            self.stands_as_wanted(*key)

    def stands_as_wanted(self, kind: str, name: str) -> None:
        found = self.client.found(kind, name)
        if not self.asked[kind, name]:
            assert found is None, "what nobody asks for is not there"
            return
        assert found is not None
        match self.world.get((kind, name)):
            case None if kind == CLUSTER or kind.endswith("Listener"):
                assert found.standing is Standing.ABSENT, "what is not there is known not to be"
            case None:
                assert found.standing in {Standing.ABSENT, Standing.HELD, Standing.REFUSED}, "only LDS and CDS remove"
            case "bad":
                assert found.why == "is bad", "what is refused is known"
            case word:
                assert (found.standing, found.value, found.why) == (Standing.HELD, word, ""), "nothing is stale"

    @invariant()
    def what_is_held_was_once_good(self) -> None:
        for key in self.asked:
            found = self.client.found(*key)
            assert found is None or (found.standing is Standing.HELD) == (found.value in {"one", "two", "three"})


Conversation.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_a_client_holds_exactly_what_was_wanted_of_what_it_asked_for = Conversation.TestCase


class Haste(RuleBasedStateMachine):
    """With a control plane as small ones are: it looks at no nonce, answers every request with all that is asked for,
    and has all of it. No time passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.client = Subscriber()
        self.client.connect()
        self.asked: Counter[str] = Counter()
        self.heard: tuple[str, ...] | None = None
        self.to_server: deque[SotwRequest] = deque()
        self.to_client: deque[SotwResponse] = deque()

    @rule(name=names)
    def it_asks(self, name: str) -> None:
        self.asked[name] += 1
        self.client.subscribe(CLUSTER, name)
        self.write()

    @precondition(lambda self: +self.asked)
    @rule(data=st.data())
    def it_gives_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted((+self.asked).keys())))
        self.asked[name] -= 1
        self.client.unsubscribe(CLUSTER, name)
        self.write()

    def write(self) -> None:
        while request := self.client.outgoing():
            self.client.wrote(request, now=0.0)
            self.to_server.append(request)

    @precondition(lambda self: self.to_server)
    @rule()
    def the_server_hears(self) -> None:
        asked = self.to_server.popleft().names
        if asked != self.heard:
            self.heard = asked
            self.it_pushes()

    @precondition(lambda self: self.heard)
    @rule()
    def it_pushes(self) -> None:
        assert self.heard is not None
        frames = [framing.sotw_frame(named(CLUSTER, name, "one")) for name in self.heard]
        parts = [next(framing.fields(frame)) for frame in frames]
        bodies = tuple(frame[part.value : part.end] for frame, part in zip(frames, parts, strict=True))
        self.to_client.append(SotwResponse(type_url=CLUSTER, nonce="n", version="1", resources=bodies))

    @precondition(lambda self: self.to_client)
    @rule()
    def it_reads(self) -> None:
        incoming = taken(self.client.receive(self.to_client.popleft()))
        assert incoming is not None
        self.client.apply(incoming, {part.name: decode(part) for part in incoming.parts}, now=0.0)
        self.write()

    @invariant()
    def what_is_there_is_never_taken_for_gone(self) -> None:
        for name in +self.asked:
            found = self.client.found(CLUSTER, name)
            assert found is not None
            assert found.standing is not Standing.ABSENT


Haste.TestCase.settings = Conversation.TestCase.settings
test_a_client_that_changes_its_mind_takes_nothing_for_gone_that_is_there = Haste.TestCase
