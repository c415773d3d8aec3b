"""Who counts in a process: every call and every attempt leaves one entry in a queue, and the resident adds them up.

A call pays for one append and nothing else; what is told to the control plane has the same words as a proxy's Report.
Invariant: memory is bounded also while nobody collects: then the oldest entries are lost.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from masche.library.core.members import parted
from masche.library.core.ports import Called, Received, Tried
from masche.link.messages import EdgeReport, EndpointReport, Histogram
from masche.link.tallies import Edge
from masche.model.frozen import frozen
from masche.model.refs import Name, PortRef
from masche.telemetry.histogram import Histogram as Counted
from masche.traffic.outcome import Outcome

MOST: Final = 200_000
"""So many entries wait to be collected."""


@frozen
class Standing:
    """How one instance of a cluster stands now: ``address`` is ``host:port``, of a detour ``host:port@gateway``."""

    cluster: str
    address: str
    active: int = 0
    is_ejected: bool = False


Attend = Callable[[], Iterable[Standing]]
"""Says how the instances stand that somebody waits for or keeps off; asked once a second, in the resident's thread."""


class Measures:
    """The Recorder and the Counter of this process. Everything but ``collect`` may be called from any thread."""

    __slots__ = ("_append", "_attend", "_calls")

    def __init__(self) -> None:
        self._calls: deque[Called | Tried | Received] = deque(maxlen=MOST)
        self._append = self._calls.append
        self._attend: list[Attend] = []

    def __repr__(self) -> str:
        return f"<Measures: {len(self._calls)} to be collected>"

    def called(self, called: Called) -> None:
        """Count a call."""
        self._append(called)

    def tried(self, tried: Tried) -> None:
        """Count an attempt."""
        self._append(tried)

    def received(self, received: Received) -> None:
        """Count a request that came to one of our ports."""
        self._append(received)

    def attend(self, who: Attend) -> None:
        """Ask ``who`` from now on how instances stand."""
        self._attend.append(who)

    def collect(self, into: "Sums") -> None:
        """Add up what was counted since the last time."""
        take, add = self._calls.popleft, into.add
        for _ in range(len(self._calls)):
            add(take())

    def standings(self) -> tuple[Standing, ...]:
        """How instances stand now."""
        return tuple(each for who in tuple(self._attend) for each in who())

    def forget(self) -> None:
        """Begin anew: what was counted was another process's."""
        self._calls.clear()


@dataclass(slots=True)
class _Edge(Edge):
    latency: Counted = field(default_factory=Counted)


@dataclass(slots=True)
class _Tries:
    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    latency: Counted = field(default_factory=Counted)
    service: Counted = field(default_factory=Counted)


_Key = tuple[str, str, str]
"""Outbound: the cluster, nobody, no rule. Inbound: no cluster, the caller's SPIFFE ID, the rule that refused it."""


class Sums:
    """What was counted since the last Report."""

    def __init__(self) -> None:
        self._edges: defaultdict[_Key, _Edge] = defaultdict(_Edge)
        self._tries: defaultdict[tuple[str, str], _Tries] = defaultdict(_Tries)

    def __repr__(self) -> str:
        return f"<Sums of {len(self._edges)} edges, {len(self._tries)} instances>"

    def __bool__(self) -> bool:
        return bool(self._edges or self._tries)

    def add(self, entry: Called | Tried | Received) -> None:
        """Add one."""
        if isinstance(entry, Called):
            _add(self._edges[entry.cluster, "", ""], entry)
        elif isinstance(entry, Tried):
            self._try(entry)
        else:
            _add(self._edges["", entry.peer, entry.rule], entry)

    def _try(self, tried: Tried) -> None:
        """A try that its caller gave up says nothing of the instance, good or bad: it is not told."""
        outcome = tried.outcome
        if outcome.is_cancelled:
            return
        seen = self._tries[tried.cluster, tried.address]
        seen.requests += 1
        if outcome.is_fault:
            seen.errors += 1
            seen.timeouts += outcome is Outcome.TIMEOUT
            return
        if not outcome.is_success:
            return  # to be turned away fast is not to be fast
        seen.latency.record(tried.seconds * 1e6)
        if tried.service_seconds >= 0:
            seen.service.record(tried.service_seconds * 1e6)

    def edges(self, workload: Name) -> tuple[EdgeReport, ...]:
        """The edges of the mesh that something happened on, as ``workload`` saw them."""
        return tuple(
            edge.told(workload=workload, service=service, peer=peer, rule=rule, latency=_told(edge.latency))
            for (cluster, peer, rule), edge in self._edges.items()
            if (service := PortRef.parse(cluster)) or not cluster
        )

    def endpoints(self, standings: Iterable[Standing] = ()) -> tuple[EndpointReport, ...]:
        """The instances that were called, are waited for or are kept off."""
        now = {(each.cluster, each.address): each for each in standings if each.active or each.is_ejected}
        nothing, nobody = _Tries(), Standing(cluster="", address="")
        return tuple(
            EndpointReport(
                service=service,
                endpoint=parted(key[1])[0],
                via=parted(key[1])[1],
                requests=(seen := self._tries.get(key, nothing)).requests,
                errors=seen.errors,
                timeouts=seen.timeouts,
                active=(standing := now.get(key, nobody)).active,
                is_ejected=standing.is_ejected,
                latency=_told(seen.latency),
                service_time=_told(seen.service),
            )
            for key in sorted(self._tries.keys() | now.keys())
            if (service := PortRef.parse(key[0]))
        )


def _add(edge: _Edge, seen: Called | Received) -> None:
    if seen.is_stream:
        edge.connections += 1
    else:
        edge.codes[seen.status] += 1
    if seen.flag:
        edge.flags[seen.flag] += 1
    if seen.status and not seen.is_stream:
        edge.latency.record(seen.seconds * 1e6)
    edge.sent += seen.bytes_sent
    edge.received += seen.bytes_received


def _told(counted: Counted) -> Histogram:
    return Histogram(buckets=counted.buckets, sum_us=counted.sum_us)
