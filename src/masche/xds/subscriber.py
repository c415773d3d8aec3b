"""The client's side of state-of-the-world ADS: what to ask for, what to answer, and how each resource stands.

The twin of ``sotw``, over values: requests come out, responses go in, time is an argument. After gRFC A27, with A40's
"does not exist" timer as A57 corrects it, A46's refusal of single resources and A53's ignored deletions. Invariant:
a resource that was good stays until a better one, or its absence, is certain; what nobody asked for is not kept.
"""

from collections.abc import Collection, Generator, Mapping
from hashlib import blake2b
from itertools import chain

from masche.wire.discovery import SotwRequest, SotwResponse, unpacked
from masche.wire.framing import WireError
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client_words import (
    ABSENT,
    ASKED,
    Bounds,
    Incoming,
    Key,
    Part,
    Patience,
    Refused,
    Resource,
    Standing,
    TooMuchError,
)

_WHOLE = frozenset({LISTENER, CLUSTER})
"""Types of which "a response must contain all", so that what is missing is gone; of the others only some may come."""

_ORDER = (LISTENER, ROUTES, CLUSTER, ENDPOINTS)
_INVALID_ARGUMENT = 3


class _Entry:
    """One name that is asked for (``count`` times), or was and may still come (``count`` 0).

    ``is_sure``: the control plane has surely heard on this stream that we want it, so that its absence means something.
    That cannot be known any more of what ``was_dropped`` on it: a response from before may still be on its way. Of what
    was dropped before it was sure, ``is_owed`` a response: one without it does not say that our request was heard.
    """

    __slots__ = ("count", "digest", "is_owed", "is_sure", "refused", "resource", "was_dropped")

    def __init__(self) -> None:
        self.count = 0
        self.resource = ASKED
        self.digest = b""
        self.refused: tuple[bytes, str] = (b"", "")
        self.is_sure = False
        self.was_dropped = False
        self.is_owed = False

    def drop(self) -> None:
        """A request that leaves it out is on its way."""
        self.is_owed |= not self.is_sure
        self.is_sure, self.was_dropped = False, True

    def knows(self, digest: bytes) -> bool:
        """Whether this came before, and what became of it still stands."""
        return digest == (self.refused[0] if self.refused[1] else self.digest)

    def vanish(self) -> bool:
        """The resource does not exist. Whether that is news."""
        is_news = self.resource.standing is not Standing.ABSENT
        self.resource, self.digest, self.refused = ABSENT if is_news else self.resource, b"", (b"", "")
        return is_news


class _Book:
    """All of one type. ``asked`` are the names of the last request of this stream, None before the first."""

    __slots__ = (
        "answer",
        "asked",
        "entries",
        "is_busy",
        "is_stale",
        "leaving",
        "nonce",
        "type_url",
        "version",
        "wanted",
        "written",
    )

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.entries: dict[str, _Entry] = {}
        self.version = ""
        self.wanted = 0
        self.restart()

    def restart(self) -> None:
        """Forget what belonged to a stream."""
        self.nonce = ""
        self.asked: tuple[str, ...] | None = None
        self.leaving: frozenset[str] = frozenset()
        self.written: frozenset[str] = frozenset()
        self.answer: str | None = None
        self.is_busy = False
        self.is_stale = bool(self.entries)
        for entry in self.entries.values():
            entry.is_sure = entry.was_dropped = entry.is_owed = False

    def send(self, names: tuple[str, ...]) -> None:
        """A request with these names is on its way: what it gives up may be missing from whatever comes now."""
        self.asked, self.leaving, self.is_stale = names, frozenset(names), False
        for name in (self.written - self.leaving) & self.entries.keys():
            self.entries[name].drop()

    def may_come(self, name: str) -> bool:
        """Whether the control plane may think that we want it, as far as our last requests say."""
        return name in self.written or name in self.leaving

    def is_owed(self, entry: _Entry) -> bool:
        """Whether a response to what was asked before may still come and look like one to what is asked next."""
        return entry.is_owed and self.type_url in _WHOLE

    def names(self) -> tuple[str, ...]:
        """What to ask for. An empty list would ask older control planes for everything: then we ask as before."""
        found = tuple(sorted(name for name, entry in self.entries.items() if entry.count))
        return found or ((self.asked or ()) if self.type_url in _WHOLE else ())

    def is_whole(self) -> bool:
        """Whether nothing is missing, so that a new stream need not send what has the version that we have."""
        return all(entry.resource.standing is Standing.HELD for entry in self.entries.values() if entry.count)


class Subscriber:
    """The protocol towards one control plane after another; what is held outlives their streams.

    ``ignores_deletion``: gRFC A53, a Listener or a Cluster that is missing from a response is kept as it was.
    """

    def __init__(self, *, patience: Patience = Patience(), bounds: Bounds = Bounds()) -> None:  # noqa: B008 - frozen
        self._patience, self._bounds = patience, bounds
        self._books: dict[str, _Book] = {}
        self._deadlines: dict[Key, float] = {}
        self._stream = 0
        self._is_up = False
        self.ignores_deletion = False

    def subscribe(self, type_url: str, name: str) -> Resource:
        """Ask for a resource once more, and return how it stands.

        Raises:
            TooMuchError: a control plane would end the stream for it.
        """
        book = self._book(type_url)
        entry = book.entries.get(name)
        if entry is None:
            self._check(book, name)
            entry = book.entries[name] = _Entry()
        if not entry.count:
            book.is_stale = True
            book.wanted += 1
            if not book.may_come(name):
                entry.is_sure = False
                self._deadlines.pop((type_url, name), None)
        entry.count += 1
        return entry.resource

    def unsubscribe(self, type_url: str, name: str) -> None:
        """Take back one ``subscribe``. After the last one the resource is only kept while it may still be sent."""
        book = self._book(type_url)
        entry = book.entries[name]
        entry.count -= 1
        if entry.count:
            return
        book.is_stale = True
        book.wanted -= 1
        if not book.may_come(name):
            self._deadlines.pop((type_url, name), None)
            if not book.is_owed(entry):
                del book.entries[name]

    def found(self, type_url: str, name: str) -> Resource | None:
        """Return how a resource stands; None when nobody asks for it."""
        book = self._books.get(type_url)
        entry = book.entries.get(name) if book else None
        return entry.resource if entry and entry.count else None

    def preload(self, type_url: str, name: str, value: object) -> None:
        """Hold what was known before this process began, until a control plane says better. Ask for it first."""
        entry = self._book(type_url).entries[name]
        entry.resource = Resource(Standing.HELD, value)

    def connect(self, *, is_another: bool = False) -> None:
        """Hear that a new stream begins: everything is asked for again, and nothing that is held is lost.

        ``is_another``: to another control plane than before, whose versions may say other things.
        """
        self._stream += 1
        self._is_up = True
        self._deadlines.clear()
        for book in self._books.values():
            for name in [name for name, entry in book.entries.items() if not entry.count]:
                del book.entries[name]
            book.version = "" if is_another else book.version
            book.restart()

    def disconnect(self) -> None:
        """Hear that the stream ended: nothing can be said to be absent "until the stream is up again" (A57)."""
        self._is_up = False
        self._deadlines.clear()

    def outgoing(self) -> SotwRequest | None:
        """Return the next request to write, taking it as sent; None when there is nothing to say."""
        if not self._is_up:
            return None
        for type_url in chain(_ORDER, sorted(self._books.keys() - set(_ORDER))):
            book = self._books.get(type_url)
            if book is not None and (request := self._request(book)):
                return request
        return None

    def wrote(self, request: SotwRequest, *, now: float) -> None:
        """Hear that a request left: what it asked for has to come from now on, and what it gave up may stop coming."""
        book = self._books.get(request.type_url)
        if book is None or not self._is_up:
            return
        before, book.written = book.written, frozenset(request.names)
        for name in (book.written - before) & book.entries.keys():
            entry = book.entries[name]
            self._deadlines.pop((book.type_url, name), None)
            if entry.resource.standing is Standing.ASKED:
                self._deadlines[book.type_url, name] = now + self._patience.absent
        for name in (before - book.written) & book.entries.keys():
            if not book.entries[name].count:
                self._deadlines[book.type_url, name] = now + self._patience.forgotten

    def receive(self, response: SotwResponse) -> Generator[None, None, Incoming | None]:
        """Look at a response, one resource a step. None: of a type that nobody asked for, which is not even answered.

        Nothing more is said of its type until it is given to ``apply``: the next request would be its answer.
        """
        book = self._books.get(response.type_url)
        if book is None or book.asked is None or not self._is_up:
            return None
        book.is_busy = True
        book.nonce = response.nonce
        stream = self._stream
        found = _Sorted(book)
        if len(response.resources) > self._bounds.resources:
            found.errors.append(f"{len(response.resources)} resources; at most {self._bounds.resources} are taken")
        else:
            for index, packed in enumerate(response.resources):
                found.add(index, packed)
                yield
        return Incoming(
            type_url=response.type_url,
            nonce=response.nonce,
            version=response.version,
            stream=stream,
            parts=tuple(found.parts.values()),
            seen=frozenset(found.seen),
            errors=tuple(found.errors),
        )

    def apply(self, incoming: Incoming, decoded: Mapping[str, object], *, now: float) -> tuple[Key, ...]:
        """Take in what was decoded (or Refused) of each part, and owe the answer. Return what stands differently."""
        book = self._books[incoming.type_url]
        before = {name: entry.resource for name, entry in book.entries.items()}
        for part in incoming.parts:
            if part.name in book.entries and part.name in decoded:
                self._take(book, part, decoded[part.name])
        if incoming.stream == self._stream and self._is_up:
            self._see(book, incoming, now=now)
            self._answer(book, incoming)
        return tuple(
            (book.type_url, name) for name, entry in book.entries.items() if entry.resource is not before[name]
        )

    def tick(self, *, now: float) -> tuple[Key, ...]:
        """Hear that time has passed. Return what is now known not to exist."""
        due = [key for key, at in self._deadlines.items() if at <= now]
        gone: list[Key] = []
        for key in due:
            del self._deadlines[key]
            book = self._books[key[0]]
            entry = book.entries[key[1]]
            if not entry.count and not book.may_come(key[1]):
                del book.entries[key[1]]
            elif entry.vanish() and entry.count:
                gone.append(key)
        return tuple(gone)

    def next_deadline(self) -> float | None:
        """When to ``tick`` next."""
        return min(self._deadlines.values(), default=None)

    def postpone(self, seconds: float) -> None:
        """Wait so much longer for everything."""
        self._deadlines = {key: at + seconds for key, at in self._deadlines.items()}

    def refusals(self) -> tuple[tuple[Key, str], ...]:
        """Return what of the control plane's resources is refused now, and why."""
        return tuple(
            ((kind, name), entry.resource.why)
            for kind, book in sorted(self._books.items())
            for name, entry in sorted(book.entries.items())
            if entry.count and entry.resource.why
        )

    def __repr__(self) -> str:
        kinds = (
            f"{sum(entry.resource.standing is Standing.HELD for entry in book.entries.values())} of "
            f"{len(book.entries)} {kind.rpartition('.')[2]}"
            for kind, book in self._books.items()
        )
        return f"<Subscriber {', '.join(kinds) or 'nothing asked'}>"

    def _book(self, type_url: str) -> _Book:
        if type_url not in self._books:
            self._books[type_url] = _Book(type_url)
        return self._books[type_url]

    def _check(self, book: _Book, name: str) -> None:
        if not name or len(name) > self._bounds.name_characters:
            raise TooMuchError(f"a name has 1 to {self._bounds.name_characters} characters, this one {len(name)}")
        if book.wanted >= self._bounds.names:
            kind = book.type_url.rpartition(".")[2]
            raise TooMuchError(f"{self._bounds.names} resources of the type {kind} are asked for already")

    def _request(self, book: _Book) -> SotwRequest | None:
        if book.is_busy:
            return None
        names = book.names()
        if book.answer is None and (not book.is_stale or names == book.asked):
            book.is_stale = False
            return None
        if book.asked is None:
            return self._first(book, names) if names else None
        why, book.answer = book.answer or "", None
        book.send(names)
        return SotwRequest(
            type_url=book.type_url,
            version=book.version,
            nonce=book.nonce,
            error_code=_INVALID_ARGUMENT if why else 0,
            error_message=why,
            names=names,
        )

    def _first(self, book: _Book, names: tuple[str, ...]) -> SotwRequest:
        """Ask first on a stream, with the version that we hold if nothing is missing from it."""
        book.send(names)
        for name in names:
            if name in book.entries:
                book.entries[name].is_sure = True
        return SotwRequest(type_url=book.type_url, version=book.version if book.is_whole() else "", names=names)

    def _take(self, book: _Book, part: Part, value: object) -> None:
        entry = book.entries[part.name]
        if not isinstance(value, Refused):
            entry.resource, entry.digest, entry.refused = Resource(Standing.HELD, value), part.digest, (b"", "")
            return
        entry.refused = (part.digest, value.why)
        held = entry.resource
        keeps = held.standing is Standing.HELD
        entry.resource = Resource(
            Standing.HELD if keeps else Standing.REFUSED, held.value if keeps else None, value.why
        )

    def _see(self, book: _Book, incoming: Incoming, *, now: float) -> None:
        for name in incoming.seen & book.entries.keys():
            entry = book.entries[name]
            if entry.count or book.may_come(name):
                self._deadlines.pop((book.type_url, name), None)
            entry.is_sure |= name in book.written and not entry.was_dropped
        if book.type_url in _WHOLE and not incoming.errors:
            self._miss(book, incoming.seen, now=now)

    def _miss(self, book: _Book, seen: Collection[str], *, now: float) -> None:
        """Judge what a whole response left out: gone if the control plane knew that we want it, else soon."""
        for name in [name for name in book.entries if name not in seen]:
            entry = book.entries[name]
            key = (book.type_url, name)
            if not entry.count and not book.may_come(name):
                if book.is_owed(entry):
                    self._deadlines.setdefault(key, now + self._patience.forgotten)
                else:
                    del book.entries[name]
                    self._deadlines.pop(key, None)
            elif self.ignores_deletion and entry.resource.standing is Standing.HELD:
                continue
            elif entry.is_sure:
                self._deadlines.pop(key, None)
                entry.vanish()
            elif key in self._deadlines or entry.resource.standing is Standing.HELD:
                soon = now + self._patience.answered
                self._deadlines[key] = min(self._deadlines.get(key, soon), soon)

    def _answer(self, book: _Book, incoming: Incoming) -> None:
        """Owe an acknowledgement, or a refusal that names all that is refused and why."""
        book.is_busy = False
        refused = [
            f"{name}: {entry.refused[1]}"
            for name, entry in book.entries.items()
            if name in incoming.seen and entry.refused[1]
        ]
        book.answer = _reasons((*incoming.errors, *refused), self._bounds.reason_characters)
        if not book.answer:
            book.version = incoming.version


class _Sorted:
    """What is in a response: what was asked for, what of that is new, and what is wrong."""

    __slots__ = ("_book", "errors", "parts", "seen")

    def __init__(self, book: _Book) -> None:
        self._book = book
        self.parts: dict[str, Part] = {}
        self.seen: set[str] = set()
        self.errors: list[str] = []

    def add(self, index: int, packed: bytes) -> None:
        """Look at one resource."""
        try:
            found = unpacked(packed)
        except WireError as error:
            self.errors.append(f"resource {index} of the response: {error}")
            return
        entry = self._book.entries.get(found.name)
        if found.type_url != self._book.type_url:
            self.errors.append(f"resource {index} of the response, {found.name!r}, is of the type {found.type_url!r}")
        elif found.name in self.seen:
            self.errors.append(f"{found.name}: is in the response twice")
        elif entry is not None:
            self.seen.add(found.name)
            digest = blake2b(found.message, digest_size=16).digest()
            if not entry.knows(digest):
                self.parts[found.name] = Part(name=found.name, message=found.message, digest=digest)


def _reasons(errors: Collection[str], limit: int) -> str:
    """Join all reasons to one text, each cut short where there are many: A46 wants every resource in it."""
    room = max(80, limit // max(len(errors), 1) - 2)
    return "; ".join(error if len(error) <= room else error[: room - 1] + "…" for error in errors)[:limit]
