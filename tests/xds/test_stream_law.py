"""The law of the delta protocol: after applying what it was sent a proxy holds exactly what was wanted of what it
subscribed to, and the next delta is empty; whatever it asked, refused, forgot or missed on the way.

A wildcard is owed what the table offers; what the proxy holds beyond that stays, and is never stale."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from xds_worlds import TYPES, Proxy, blob

from masche.model.blob import Blob
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.limits import Limits
from masche.xds.stream import Stream
from masche.xds.wanted import Table, Wanted

NAMES = ("a", "b", "c")
WORDS = ("one", "two", "three", "bad")
BAD = frozenset(blob(kind, name, "bad").version for kind in TYPES for name in NAMES)
LIMITS = Limits(response_bytes=300)  # two or three of these small resources in a response

kinds = st.sampled_from(TYPES)
subsets = st.sets(st.sampled_from(NAMES), min_size=1)
offers = st.none() | st.frozensets(st.sampled_from(NAMES))
worlds = st.dictionaries(st.tuples(kinds, st.sampled_from(NAMES)), st.sampled_from(WORDS))


def narrowed(wanted: Wanted, offered: frozenset[str] | None) -> Wanted:
    """The same with a part of its clusters and listeners for those alone who ask by name."""
    return Wanted(
        {
            kind: Table(table.values(), offered=offered if kind in {CLUSTER, LISTENER} else None)
            for kind, table in wanted.items()
        }
    )


def again(wanted: Wanted) -> Wanted:
    """An equal wish that is another object."""
    return Wanted({kind: Table(table.values(), offered=table.offered) for kind, table in wanted.items()})


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.wanted: Wanted | None = None
        self.proxy = Proxy(Stream(now=0.0, limits=LIMITS), bad=set(BAD))

    @rule(content=worlds, offered=offers)
    def the_wish_changes(self, content: dict[tuple[str, str], str], offered: frozenset[str] | None) -> None:
        blobs = [blob(kind, name, word, eds=kind == CLUSTER) for (kind, name), word in content.items()]
        self.wanted = narrowed(Wanted.of(blobs), offered)
        self.proxy.take(self.proxy.stream.want(self.wanted, now=self.proxy.now))

    @rule(kind=st.sampled_from((CLUSTER, LISTENER)))
    def it_asks_for_everything(self, kind: str) -> None:
        if kind not in self.proxy.asked:
            self.proxy.ask(kind)
        else:
            self.proxy.ask(kind, "*")

    @rule(kind=kinds, asked=subsets)
    def it_asks_by_name(self, kind: str, asked: set[str]) -> None:
        self.proxy.ask(kind, *sorted(asked))

    @precondition(lambda self: self.proxy.asked)
    @rule(data=st.data())
    def it_gives_up(self, data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from(sorted(self.proxy.asked)))
        if self.proxy.asked[kind]:
            self.proxy.leave(kind, *data.draw(st.sets(st.sampled_from(sorted(self.proxy.asked[kind])), min_size=1)))

    @precondition(lambda self: self.proxy.inbox)
    @rule(named=st.booleans())
    def it_answers(self, named: bool) -> None:
        self.proxy.answer(names_the_bad=named)

    @rule(kind=kinds)
    def it_repeats_an_old_nonce(self, kind: str) -> None:
        from masche.wire.discovery import DeltaRequest

        if kind in self.proxy.asked:
            self.proxy.hear(DeltaRequest(type_url=kind, nonce="stale", error_code=13, error_message="old news"))

    @rule()
    def time_passes(self) -> None:
        self.proxy.now += 10.0
        self.proxy.take(self.proxy.stream.tick(now=self.proxy.now))

    @rule()
    def it_connects_again(self) -> None:
        old = self.proxy
        self.proxy = Proxy(Stream(now=old.now, limits=LIMITS), bad=set(BAD), held=old.held, now=old.now)
        for kind in sorted(old.asked):
            if old.asked[kind]:
                self.proxy.asked[kind] = set(old.asked[kind])
                self.proxy.ask(kind, *sorted(old.asked[kind]), initial=dict(old.held[kind]))
            else:
                old.held[kind].clear()
        if self.wanted is not None:
            self.proxy.take(self.proxy.stream.want(again(self.wanted), now=self.proxy.now))

    @rule()
    def everything_settles(self) -> None:
        self.proxy.settle()
        if self.wanted is None:
            assert not self.proxy.log, "nothing is sent before the first wish"
            return
        for kind in self.proxy.asked:
            self.holds_what_was_wanted(kind, self.wanted)
        self.liveness_is_the_truth(self.wanted)
        self.liveness_is_the_truth(again(self.wanted))
        next_delta = self.proxy.take(self.proxy.stream.want(again(self.wanted), now=self.proxy.now))
        assert next_delta == [], "the next delta is empty"
        self.liveness_is_the_truth(self.wanted)

    def holds_what_was_wanted(self, kind: str, wanted: Wanted) -> None:
        held, table = self.proxy.held[kind], wanted.table(kind)
        covered = {name for name in table if self.proxy.covers(kind, name)}
        assert held.keys() <= covered, "nothing unwanted is left"
        for name in covered & (self.owed(kind, table) | held.keys()):
            if table[name].version in self.proxy.bad:
                assert held.get(name) != table[name].version
            else:
                assert held.get(name) == table[name].version, "nothing is missing or stale"

    def owed(self, kind: str, table: Table) -> set[str]:
        """What the proxy asked for by name, and what its wildcard is answered with."""
        asked = self.proxy.asked.get(kind, set())
        return {name for name in table if name in asked or ("*" in asked and table.offers(name))}

    def liveness_is_the_truth(self, wanted: Wanted) -> None:
        def accepts(found: Blob) -> bool:
            kind, name = found.type_url, found.name
            is_due = name in self.owed(kind, wanted.table(kind)) or name in self.proxy.held[kind]
            return found.version not in BAD or not is_due

        is_whole = all(accepts(found) for table in wanted.values() for found in table.values())
        assert self.proxy.stream.is_live(wanted) == (bool(self.proxy.asked) and is_whole)

    @invariant()
    def one_response_of_a_type_is_in_flight(self) -> None:
        types = [send.type_url for send in self.proxy.inbox]
        assert len(types) == len(set(types))

    @invariant()
    def listeners_and_routes_wait_for_clusters(self) -> None:
        types = [send.type_url for send in self.proxy.inbox]
        for later in (LISTENER, ROUTES):
            if later in types and CLUSTER in types:
                assert types.index(later) < types.index(CLUSTER), "what was sent first may still be on its way"
        assert set(types) <= {CLUSTER, ENDPOINTS, LISTENER, ROUTES}


Conversation.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_a_proxy_holds_exactly_what_was_wanted = Conversation.TestCase
