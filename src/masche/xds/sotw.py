"""One state-of-the-world xDS stream, the twin of ``stream`` for clients that do not speak delta (grpcio).

Every response of a type is whole: all that the client asked for. Order, silence before the first ``want``, one
response in flight per type and the last good state are as in ``stream``. What is no longer wanted stays in responses
until every addition of the other types is answered, so that removals come last here too.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import count

from masche.model.blob import Blob
from masche.model.frozen import frozen
from masche.wire.discovery import SotwRequest
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, MAKE_BEFORE_BREAK, ROUTES
from masche.xds.limits import Blame, Bucket, Limits, Violation, names_violation
from masche.xds.subscription import IMPLICITLY_WILD, Subscription
from masche.xds.verdict import Decision, Rejection, Send, Sync, TypeStatus
from masche.xds.wanted import EMPTY, Table, Wanted

_WAITS_FOR = {LISTENER: (CLUSTER,), ROUTES: (CLUSTER, LISTENER)}


@frozen(kw_only=False)
class _World:
    """One whole state of a type, by name."""

    blobs: tuple[Blob, ...] = ()

    @property
    def version(self) -> str:
        """The version of a response: a hash of the versions in it."""
        digest = blake2b(digest_size=16)
        for blob in self.blobs:
            digest.update(f"{blob.name}\0{blob.version}\0".encode())
        return digest.hexdigest()

    def is_same(self, other: "_World") -> bool:
        return self.key == other.key

    @property
    def key(self) -> frozenset[tuple[str, str]]:
        return frozenset((blob.name, blob.version) for blob in self.blobs)


class _Book:
    """What was asked, sent and answered of one type."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.subscription = Subscription(type_url)
        self.table: Table = EMPTY
        self.flight: Send | None = None
        self.nonce = ""
        self.is_owing = False
        self.held = _World()
        self._refused: tuple[_World, ...] = ()
        self.rejections: tuple[Rejection, ...] = ()

    def target(self) -> _World:
        """All that is wanted of what was asked, and of what a wildcard need not be given what is held already."""
        return self._wanted(self.table)

    def _wanted(self, table: Table) -> _World:
        asked = self.subscription
        found = set(asked.names & table.keys())
        if asked.is_wild:
            held = (blob.name for blob in self.held.blobs if blob.name in table)
            found.update((name for name in table if table.offers(name)), held)
        return _World(tuple(table[name] for name in sorted(found)))

    def widest(self) -> _World:
        """The target, and what the client holds beyond it where leaving it out would remove it."""
        target = self.target()
        if self.type_url not in IMPLICITLY_WILD:
            return target
        names = {blob.name for blob in target.blobs}
        kept = [blob for blob in self.held.blobs if blob.name not in names and self.subscription.covers(blob.name)]
        return _World(tuple(sorted((*target.blobs, *kept), key=lambda blob: blob.name)))

    @property
    def has_additions(self) -> bool:
        return self.is_owing or self._is_news(self.widest())

    @property
    def has_removals(self) -> bool:
        return self._is_news(self.target())

    def _is_news(self, world: _World) -> bool:
        """Whether the client has to be told. After a refusal it may have applied what was good of it (gRFC A46), so
        that even the last state that it acknowledged must be sent again."""
        if self._refused:
            return not any(world.is_same(refused) for refused in self._refused)
        return not world.is_same(self.held)

    def reconsider(self) -> None:
        """Something else is wanted, or asked for: of all that was refused only the last tells what the client has."""
        self._refused = self._refused[-1:]

    def send(self, world: _World, nonce: str) -> Send:
        self.is_owing = False
        self.nonce = nonce
        self.flight = Send(type_url=self.type_url, nonce=nonce, blobs=world.blobs, version=world.version)
        return self.flight

    def acknowledge(self) -> None:
        assert self.flight is not None, "only what is in flight can be answered"
        self.held, self.flight = _World(self.flight.blobs), None
        self._refused, self.rejections = (), ()

    def ask(self, names: Iterable[str]) -> None:
        """Take the names of a request; what the client no longer asks for it has dropped by itself."""
        shift = self.subscription.replace(names)
        self.is_owing |= bool(shift.asked) or shift.opened
        if shift.asked or shift.dropped or shift.opened or shift.closed:
            self.reconsider()
        if not self.subscription.is_wild:
            self.held = _World(tuple(blob for blob in self.held.blobs if self.subscription.covers(blob.name)))

    def refuse(self, why: str) -> tuple[Rejection, ...]:
        """Book a refusal. The client's words tell which resources it means; if they name none, all may be meant."""
        assert self.flight is not None, "only what is in flight can be answered"
        sent, self.flight = self.flight.blobs, None
        self._refused = (*self._refused, _World(sent))
        before = {blob.name: blob.version for blob in self.held.blobs}
        changed = [blob for blob in sent if before.get(blob.name) != blob.version]
        blamed = [blob for blob in changed if blob.name in why] or changed
        self.rejections = tuple(
            Rejection(type_url=self.type_url, name=blob.name, version=blob.version, why=why, refs=blob.refs)
            for blob in blamed
        ) or (Rejection(type_url=self.type_url, name="", version="", why=why),)
        return self.rejections

    def is_live(self, table: Table) -> bool:
        return not (self.flight or self.is_owing or self.rejections) and self._wanted(table).is_same(self.held)

    def status(self) -> TypeStatus:
        return TypeStatus(
            type_url=self.type_url, sync=self._sync(), held=len(self.held.blobs), rejections=self.rejections
        )

    def _sync(self) -> Sync:
        if self.flight:
            return Sync.SENT
        if self.has_additions or self.has_removals:
            return Sync.PENDING
        return Sync.REJECTED if self.rejections else Sync.IN_SYNC


class SotwStream:
    """The state-of-the-world protocol towards one client."""

    def __init__(self, *, now: float, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self._bucket = Bucket(rate=limits.requests_per_second, burst=limits.burst, now=now)
        self._books: dict[str, _Book] = {}
        self._wanted: Wanted | None = None
        self._nonces = count(1)

    def request(self, request: SotwRequest, *, now: float) -> Decision:
        """Hear the client. "A request with a stale nonce is ignored": the client will answer the newer response."""
        violation = self._violation(request, now=now)
        if violation:
            return Decision(violation=violation)
        is_first = request.type_url not in self._books
        book = self._book(request.type_url)
        if not is_first and request.nonce != book.nonce:
            return Decision()
        is_answer = not is_first and book.flight is not None
        rejected: tuple[Rejection, ...] = ()
        if is_answer and request.error_code:
            rejected = book.refuse(request.error_message)
        elif is_answer:
            book.acknowledge()
        book.ask(request.names)
        return Decision(sends=tuple(self._sends()), rejected=rejected, has_settled=is_answer)

    def want(self, wanted: Wanted, *, now: float) -> Decision:  # noqa: ARG002 - the same call as a delta Stream's
        """Hear what the client should hold from now on."""
        changed = [book for kind, book in self._books.items() if wanted.table(kind) is not book.table]
        is_first, self._wanted = self._wanted is None, wanted
        for book in changed:
            before, book.table = book.table, wanted.table(book.type_url)
            if book.table.changed_since(before):
                book.reconsider()
        return Decision(sends=tuple(self._sends()) if changed or is_first else ())

    def tick(self, *, now: float) -> Decision:  # noqa: ARG002 - the same call as a delta Stream's
        """Hear that time has passed; a state-of-the-world stream never waits for it."""
        return Decision()

    def next_deadline(self, *, now: float) -> float | None:  # noqa: ARG002 - the same call as a delta Stream's
        """Return None: a refused state is sent again only when it has changed."""
        return None

    def is_live(self, wanted: Wanted) -> bool:
        """Whether the client acknowledged all of ``wanted`` that it asked for, and holds nothing else."""
        return bool(self._books) and all(book.is_live(wanted.table(kind)) for kind, book in self._books.items())

    def status(self) -> tuple[TypeStatus, ...]:
        """Say how far each type is, by type URL."""
        return tuple(self._books[kind].status() for kind in sorted(self._books))

    def __repr__(self) -> str:
        states = (f"{status.type_url.rpartition('.')[2]} {status.sync}" for status in self.status())
        return f"<SotwStream {', '.join(states) or 'nothing asked'}>"

    def _book(self, type_url: str) -> _Book:
        if type_url not in self._books:
            book = self._books[type_url] = _Book(type_url)
            if self._wanted is not None:
                book.table = self._wanted.table(type_url)
        return self._books[type_url]

    def _sends(self) -> Iterator[Send]:
        if self._wanted is None:
            return
        for type_url in (*MAKE_BEFORE_BREAK, *sorted(self._books.keys() - set(MAKE_BEFORE_BREAK))):
            book = self._books.get(type_url)
            if book and not book.flight and book.has_additions and not self._is_held_back(type_url):
                before = book.held
                send = book.send(book.widest(), str(next(self._nonces)))
                self._owe_endpoints(send, before)
                yield send
        if not any(book.flight or book.has_additions for book in self._books.values()):
            yield from self._next_removal()

    def _is_held_back(self, type_url: str) -> bool:
        ahead = (self._books[kind] for kind in _WAITS_FOR.get(type_url, ()) if kind in self._books)
        return any(other.flight or other.has_additions for other in ahead)

    def _owe_endpoints(self, send: Send, before: _World) -> None:
        """A cluster that changed waits for its endpoints, whether or not they changed."""
        endpoints = self._books.get(ENDPOINTS)
        if send.type_url != CLUSTER or endpoints is None:
            return
        held = before.key
        changed = (blob.eds_name for blob in send.blobs if (blob.name, blob.version) not in held)
        endpoints.is_owing |= any(name and endpoints.subscription.covers(name) for name in changed)

    def _next_removal(self) -> Iterator[Send]:
        for type_url in reversed(MAKE_BEFORE_BREAK):
            book = self._books.get(type_url)
            if book and book.has_removals:
                yield book.send(book.target(), str(next(self._nonces)))
                return

    def _violation(self, request: SotwRequest, *, now: float) -> Violation | None:
        if not self._bucket.take(now=now):
            return Violation(
                blame=Blame.EXHAUSTED, why=f"more than {self._limits.requests_per_second:g} requests per second"
            )
        if not request.type_url:
            return Violation(blame=Blame.INVALID, why="type_url is required on an aggregated stream")
        if request.type_url not in self._books and len(self._books) >= self._limits.types:
            return Violation(blame=Blame.EXHAUSTED, why=f"more than {self._limits.types} types on one stream")
        return names_violation(request.names, already=set(), limits=self._limits)
