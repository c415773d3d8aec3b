"""Small worlds for the tests of the xDS protocol: Blobs whose content is a word, and a proxy without a network."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from masche.model.blob import Blob
from masche.wire import framing
from masche.wire.discovery import DeltaRequest
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.stream import Stream
from masche.xds.verdict import Decision, Send
from masche.xds.wanted import Wanted

T = TypeVar("T")

TYPES = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)


def blob(type_url: str, name: str, word: str = "a", *, eds: bool = False) -> Blob:
    return framing.blob(type_url, name, word.encode(), eds_name=name if eds else "")


def cluster(name: str, word: str = "a") -> Blob:
    return blob(CLUSTER, name, word, eds=True)


def world(*blobs: Blob) -> Wanted:
    return Wanted.of(blobs)


@dataclass
class Proxy:
    """What Envoy does, as far as the protocol sees it. ``bad`` are versions that it refuses."""

    stream: Stream
    bad: set[str] = field(default_factory=set)
    held: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in TYPES})
    asked: dict[str, set[str]] = field(default_factory=dict)
    inbox: list[Send] = field(default_factory=list)
    log: list[Send] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    now: float = 0.0

    def covers(self, kind: str, name: str) -> bool:
        return bool({"*", name} & self.asked.get(kind, set()))

    def ask(self, kind: str, *names: str, initial: dict[str, str] | None = None) -> list[Send]:
        self.asked.setdefault(kind, set()).update(names or {"*"})
        return self.hear(DeltaRequest(type_url=kind, subscribe=names, initial_versions=initial or {}))

    def leave(self, kind: str, *names: str) -> list[Send]:
        self.asked[kind] -= set(names)
        for name in [name for name in self.held[kind] if not self.covers(kind, name)]:
            del self.held[kind][name]
        return self.hear(DeltaRequest(type_url=kind, unsubscribe=names))

    def hear(self, request: DeltaRequest) -> list[Send]:
        return self.take(self.stream.request(request, now=self.now))

    def want(self, *blobs: Blob) -> list[Send]:
        return self.take(self.stream.want(world(*blobs), now=self.now))

    def take(self, decision: Decision) -> list[Send]:
        assert decision.violation is None
        self.rejected += [(rejection.name, rejection.version) for rejection in decision.rejected]
        self.inbox += decision.sends
        self.log += decision.sends
        return list(decision.sends)

    def answer(self, *, names_the_bad: bool = True) -> list[Send]:
        """Apply the oldest response as Envoy would, and say so."""
        send = self.inbox.pop(0)
        bad = [blob for blob in send.blobs if blob.version in self.bad]
        named = names_the_bad and send.type_url in {CLUSTER, LISTENER}
        if named or not bad:
            self._apply(send.type_url, (blob for blob in send.blobs if blob not in bad), send.removed)
        else:
            self._apply(send.type_url, (), send.removed)
        if not bad:
            return self.hear(DeltaRequest(type_url=send.type_url, nonce=send.nonce))
        message = ", ".join(f"{blob.name}: is bad" for blob in bad) if named else "Proto constraint validation failed"
        why = f"Error adding/updating resource(s) {message}"
        return self.hear(DeltaRequest(type_url=send.type_url, nonce=send.nonce, error_code=13, error_message=why))

    def _apply(self, kind: str, blobs: Iterable[Blob], removed: Iterable[str]) -> None:
        for name in removed:
            self.held[kind].pop(name, None)
        self.held[kind].update({blob.name: blob.version for blob in blobs if self.covers(kind, blob.name)})

    def settle(self) -> None:
        """Answer until nothing more comes, letting time pass where the stream waits for it."""
        for _ in range(2000):
            deadline = self.stream.next_deadline(now=self.now)
            if self.inbox:
                self.answer()
            elif deadline is not None:
                self.now = deadline
                self.take(self.stream.tick(now=self.now))
            else:
                return
        raise AssertionError("the stream does not come to rest")


def proxy(*blobs: Blob) -> Proxy:
    """A proxy whose control plane already knows this world."""
    made = Proxy(Stream(now=0.0))
    made.want(*blobs)
    return made


def names(sends: Iterable[Send]) -> list[tuple[str, list[str], list[str]]]:
    """What was sent, in words: (type, resources, removed)."""
    short = {CLUSTER: "CDS", ENDPOINTS: "EDS", LISTENER: "LDS", ROUTES: "RDS"}
    return [
        (short.get(send.type_url, send.type_url), [blob.name for blob in send.blobs], list(send.removed))
        for send in sends
    ]


def taken(steps: Generator[None, None, T]) -> T:
    """Take all steps of something that is done in steps, and return what comes of it."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
