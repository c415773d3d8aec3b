"""What one proxy holds, was sent and refused of one type, and what it must be sent next.

One response is in flight at a time; what changes meanwhile is looked at again when it is answered, so a slow proxy
jumps to the latest version. Invariant: ``held`` is what the proxy acknowledged (or said it holds), never what we hope.

A wildcard is answered with what the table offers. What a proxy holds beyond that it keeps, as long as it exists: it may
be in use, and what was asked for by name is not told apart from it after a restart.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from masche.model.blob import Blob
from masche.model.frozen import frozen
from masche.wire.types import CLUSTER, LISTENER
from masche.xds.limits import Limits
from masche.xds.subscription import Subscription
from masche.xds.verdict import Rejection, Send, Sync, TypeStatus
from masche.xds.wanted import EMPTY, Table

_APPLIED_ONE_BY_ONE = frozenset({CLUSTER, LISTENER})
"""Types of which Envoy applies the good resources of a response that it refuses, naming the bad ones."""

_FREE_STRIKES = 4
_FIRST_REST, _LONGEST_REST = 0.1, 5.0


@frozen
class Flight:
    """A response that is not answered yet."""

    send: Send
    is_removal: bool = False


@dataclass(slots=True)
class _Batch:
    """A response being filled, up to its bound in bytes."""

    room: int
    blobs: list[Blob]
    absent: list[str]

    def admits(self, blob: Blob) -> bool:
        if self.blobs and len(blob.frame) > self.room:
            return False
        self.room -= len(blob.frame)
        self.blobs.append(blob)
        return True


class Ledger:
    """The books of one type on one delta stream."""

    def __init__(self, type_url: str, *, limits: Limits) -> None:
        self.type_url = type_url
        self.subscription = Subscription(type_url)
        self.table: Table = EMPTY
        self.flight: Flight | None = None
        self.resume_at = 0.0
        self._limits = limits
        self._held: dict[str, str] = {}
        self._rejected: dict[str, Rejection] = {}
        self._owed: set[str] = set()
        self._expected: set[str] = set()
        self._dirty: set[str] = set()
        self._suspects: deque[tuple[str, ...]] = deque()
        self._owes_greeting = False
        self._strikes = 0

    # -- what is asked and what is wanted -------------------------------------------------------------------------

    def ask(
        self, *, subscribe: Iterable[str], unsubscribe: Iterable[str], initial_versions: Mapping[str, str] | None
    ) -> None:
        """Apply the subscription part of a request; ``initial_versions`` only of the first one of its type."""
        shift = self.subscription.change(subscribe=subscribe, unsubscribe=unsubscribe)
        if initial_versions:
            self._held = {name: initial_versions[name] for name in self.subscription.among(initial_versions.keys())}
            self._dirty.update(self._held)
        self._forget(shift.dropped)
        self._owed.update(name for name in shift.asked if not initial_versions or name not in self._held)
        self._expected -= shift.asked
        if shift.opened:
            self._owes_greeting = not self._held
            self._dirty.update(name for name in self.table if self.table.offers(name))
        if shift.closed:
            self._forget([*self._held, *self._rejected, *self._owed], keep=self.subscription.names)

    def want(self, table: Table) -> None:
        """Hold this table against what the proxy holds from now on."""
        changed = table.changed_since(self.table)
        self.table = table
        self._expected &= table.keys()
        self._dirty.update(self.subscription.among(changed))
        for name in [name for name, each in self._rejected.items() if not self._is_due(each)]:
            del self._rejected[name]

    def owe_again(self, names: Iterable[str]) -> None:
        """Send these again even if their version is the same, as far as the proxy subscribed to them."""
        self._owed.update(self.subscription.among(frozenset(names)))

    def expect(self, names: Iterable[str]) -> None:
        """Send these although the proxy did not ask for them yet: it will, and then they are sent once more."""
        self._expected.update(name for name in names if name in self.table and not self._covers(name))

    def _forget(self, names: Iterable[str], keep: Collection[str] = ()) -> None:
        for name in names:
            if name in keep:
                continue
            self._held.pop(name, None)
            self._rejected.pop(name, None)
            self._owed.discard(name)

    # -- what to send next ----------------------------------------------------------------------------------------

    def additions(self, nonce: str) -> Send | None:
        """Put the next response of new and changed resources into flight, or return None when there is nothing."""
        self._prune()
        send = self._fresh(nonce)
        if send is None:
            return self._probe(nonce)
        self.flight = Flight(send=send)
        return send

    def removals(self, nonce: str) -> Send | None:
        """Put the removal of what is held and no longer wanted into flight."""
        gone = tuple(sorted(name for name in self._dirty if self._is_leftover(name)))
        if not gone:
            return None
        self._dirty.difference_update(gone)
        send = Send(type_url=self.type_url, nonce=nonce, removed=gone)
        self.flight = Flight(send=send, is_removal=True)
        return send

    @property
    def has_additions(self) -> bool:
        """Whether there is something to send that is not a removal. Only asked while nothing is in flight."""
        self._prune()
        return (
            self._owes_greeting
            or bool(self._owed or self._expected or self._suspects)
            or any(name in self.table for name in self._dirty)
        )

    @property
    def is_owing(self) -> bool:
        """Whether the proxy waits for the answer to a name."""
        return bool(self._owed)

    def _prune(self) -> None:
        """Stop looking at names about which nothing is left to do."""
        self._dirty = {name for name in self._dirty if self._differs(name)}

    def _covers(self, name: str) -> bool:
        """Whether the proxy is to have this name, if it exists."""
        asked = self.subscription
        return name in asked.names or (asked.is_wild and (name in self._held or self.table.offers(name)))

    def _differs(self, name: str) -> bool:
        blob = self.table.get(name)
        if blob is None or not self._covers(name):
            return self._is_leftover(name)
        return self._held.get(name) != blob.version and name not in self._rejected

    def _wants(self, name: str, version: str) -> bool:
        blob = self.table.get(name)
        return blob is not None and blob.version == version

    def _is_due(self, rejection: Rejection) -> bool:
        """Whether the proxy is still to have just what it refused."""
        return self._covers(rejection.name) and self._wants(rejection.name, rejection.version)

    def _is_leftover(self, name: str) -> bool:
        return name in self._held and name not in self.table

    def _fresh(self, nonce: str) -> Send | None:
        suspected = {name for group in self._suspects for name in group} if self._suspects else frozenset[str]()
        names = (self._owed | self._expected | {name for name in self._dirty if name in self.table}) - suspected
        if not (names or self._owes_greeting):
            return None
        batch = self._batch(sorted(names))
        self._owes_greeting = False
        return Send(type_url=self.type_url, nonce=nonce, blobs=tuple(batch.blobs), removed=tuple(batch.absent))

    def _batch(self, names: Iterable[str]) -> _Batch:
        limits = self._limits
        room = limits.listener_bytes if self.type_url == LISTENER else limits.response_bytes
        batch = _Batch(room=room, blobs=[], absent=[])
        for name in names:
            blob = self.table.get(name) if self._covers(name) or name in self._expected else None
            if blob is None:
                batch.absent.append(name)
            elif not batch.admits(blob):
                break
            self._owed.discard(name)
            self._expected.discard(name)
            self._dirty.discard(name)
        return batch

    def _probe(self, nonce: str) -> Send | None:
        """Send the next group of suspects alone."""
        while self._suspects:
            names = [name for name in self._suspects.popleft() if self.subscription.covers(name)]
            if not names:
                continue
            batch = self._batch(names)
            rest = tuple(names[len(batch.blobs) + len(batch.absent) :])
            if rest:
                self._suspects.appendleft(rest)
            send = Send(type_url=self.type_url, nonce=nonce, blobs=tuple(batch.blobs), removed=tuple(batch.absent))
            self.flight = Flight(send=send)
            return send
        return None

    # -- what the proxy said --------------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Book the response in flight as held."""
        flight = self._landed()
        self._strikes = 0
        self._book(flight.send.blobs)
        if flight.is_removal:
            self._try_again()

    def refuse(self, why: str, *, now: float) -> tuple[Rejection, ...]:
        """Book the response in flight as refused; return the resources that are known to be the cause.

        When it is not known which ones, the response is sent again in parts, until each bad resource stood alone.
        """
        send = self._landed().send
        self._rest(now=now)
        if not send.blobs:
            return (Rejection(type_url=self.type_url, name="", version="", why=why),)
        blamed = blamed_names(why, [blob.name for blob in send.blobs]) if self.type_url in _APPLIED_ONE_BY_ONE else ()
        if len(send.blobs) == 1:
            blamed = (send.blobs[0].name,)
        if not blamed:
            self._suspect([blob.name for blob in send.blobs])
            return ()
        self._book(blob for blob in send.blobs if blob.name not in blamed)
        return tuple(self._reject(blob, why) for blob in send.blobs if blob.name in blamed)

    def _landed(self) -> Flight:
        flight = self.flight
        assert flight is not None, "only what is in flight can be answered"
        self.flight = None
        for name in flight.send.removed:
            self._held.pop(name, None)
            self._rejected.pop(name, None)
            self._dirty.add(name)
        return flight

    def _book(self, blobs: Iterable[Blob]) -> None:
        for blob in blobs:
            if self.subscription.covers(blob.name):
                self._held[blob.name] = blob.version
                self._rejected.pop(blob.name, None)
                if not self._wants(blob.name, blob.version):  # it changed while nobody asked for it
                    self._dirty.add(blob.name)

    def _reject(self, blob: Blob, why: str) -> Rejection:
        rejection = Rejection(type_url=self.type_url, name=blob.name, version=blob.version, why=why, refs=blob.refs)
        if self._is_due(rejection):
            self._rejected[blob.name] = rejection
        return rejection

    def _suspect(self, names: list[str]) -> None:
        middle = len(names) // 2
        self._suspects.extend((tuple(names[:middle]), tuple(names[middle:])))

    def _try_again(self) -> None:
        """Give refused resources one more try: what was removed may have held the address that they need."""
        self._dirty.update(self._rejected)
        self._rejected.clear()

    def _rest(self, *, now: float) -> None:
        """Wait longer after each refusal in a row, so that a proxy which refuses everything costs little."""
        self._strikes += 1
        if self._strikes > _FREE_STRIKES:
            doublings = min(self._strikes - _FREE_STRIKES - 1, 10)
            self.resume_at = now + min(_LONGEST_REST, _FIRST_REST * 2**doublings)

    # -- what is told about it ------------------------------------------------------------------------------------

    def is_live(self, table: Table) -> bool:
        """Whether the proxy acknowledged everything of ``table`` that it subscribed to, and nothing beyond it."""
        if self.flight or self._owes_greeting or self._owed or self._expected or self._suspects:
            return False
        if table is self.table:
            self._prune()
            return not (self._dirty or self._rejected)
        asked = self.subscription
        names = self._held.keys() | (asked.names & table.keys())
        if asked.is_wild:
            names |= {name for name in table if table.offers(name)}
        return all(name in table and self._held.get(name) == table[name].version for name in names)

    def status(self) -> TypeStatus:
        """Say how far this type is."""
        rejections = tuple(self._rejected[name] for name in sorted(self._rejected))
        return TypeStatus(
            type_url=self.type_url, sync=self._sync(rejections), held=len(self._held), rejections=rejections
        )

    def _sync(self, rejections: Collection[Rejection]) -> Sync:
        if self.flight:
            return Sync.SENT
        if self.has_additions or self._dirty:
            return Sync.PENDING
        return Sync.REJECTED if rejections else Sync.IN_SYNC


def blamed_names(why: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that an error message of Envoy blames: ``Error adding/updating listener(s) a: ..., b: ...``."""
    return tuple(name for name in names if _is_blamed(name, why))


def _is_blamed(name: str, why: str) -> bool:
    at = why.find(f"{name}: ")
    while at >= 0:
        if at == 0 or why[at - 1].isspace():
            return True
        at = why.find(f"{name}: ", at + 1)
    return False
