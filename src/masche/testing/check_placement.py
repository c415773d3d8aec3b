"""What every placement must do: what another one does with the same requests in the same mesh.

A request is put to both until the same has been seen of both, whatever chance decides: the same statuses by the same
instances, and the same copies. Then one answer of each kind is compared with its counterpart, header by header, as the
caller saw it and as the instance did. Invariant: only what ``MEANT`` lists may differ.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: ``caller`` is ``namespace/workload``, ``authority`` the host it names, with a port or without.

    It is put at least ``rounds`` times, more than once where chance decides. ``is_sticky``: it always goes to the same
    instance, but to which one is each placement's own choice.
    """

    caller: str
    authority: str
    method: str = "GET"
    target: str = "/"
    headers: Headers = ()
    rounds: int = 1
    is_sticky: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A request as an instance saw it. ``instance`` is ``namespace/workload:port``, ``peer`` the caller's SPIFFE ID."""

    instance: str
    method: str
    target: str
    authority: str
    headers: Headers
    peer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of a request. ``status`` 0: it left the mesh. ``by`` is who answered, ``copies`` who else got it.

    ``headers`` None: there are none, because the caller's client said it by an exception of its own.
    """

    status: int
    headers: Headers | None = ()
    by: Arrived | None = None
    copies: tuple[Arrived, ...] = ()


class Placement(Protocol):
    """One way to be in a mesh that is running: its workloads can call, and be called."""

    def ask(self, asked: Asked) -> Seen:
        """Send one request and wait for what comes of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """A header, or all that begin with a prefix ending in ``*``, that may differ, and why."""

    header: str
    why: str


REQUEST = (
    Meant(header="content-length", why="how a body is framed is between two hops"),
    Meant(header="transfer-encoding", why="how a body is framed is between two hops"),
    Meant(header="host", why="it is compared as the authority"),
    Meant(header="traceparent", why="the library begins a trace where its caller has none; a proxy leaves that alone"),
    Meant(header="tracestate", why="it goes with traceparent"),
    Meant(header="x-request-id", why="it is by chance where the caller has none"),
    Meant(header="x-forwarded-for", why="on loopback Envoy names an address of the machine instead of the caller's"),
    Meant(header="x-forwarded-client-cert", why="it names the certificate; whose it is is compared as the peer"),
    Meant(header="endpoint-load-metrics-format", why="by it the library asks instances how busy they are"),
)
"""What may differ in a request as an instance sees it."""

RESPONSE = (
    Meant(header="content-length", why="how a body is framed is between two hops; own answers differ in their words"),
    Meant(header="transfer-encoding", why="how a body is framed is between two hops"),
    Meant(header="content-type", why="own answers of a mesh say what they are; Envoy gives some without a body"),
    Meant(header="connection", why="it is between two hops"),
    Meant(header="date", why="it is the time"),
    Meant(header="server", why="it is the application's server, and each writes its own"),
    Meant(header="x-masche-answer", why="by it the library says that it answered itself, and why"),
    Meant(header="endpoint-load-metrics", why="the library asked for it; who asks for it itself sees it"),
)
"""What may differ in an answer as the caller sees it."""

TRIES = 400
"""So often at most a request is put to a placement."""


def check_placement(tested: Placement, reference: Placement, every: Iterable[Asked]) -> None:
    """Put every request to both. Raises AssertionError, which names all differences."""
    wrong = [f"{asked}: {each}" for asked in every for each in differences(tested, reference, asked)]
    assert not wrong, "\n".join(wrong)


def differences(tested: Placement, reference: Placement, asked: Asked) -> Iterator[str]:
    """Say what is different about one request."""
    one, other = _Gathered(asked.is_sticky), _Gathered(asked.is_sticky)
    for number in range(1, TRIES + 1):
        one.add(tested.ask(asked))
        other.add(reference.ask(asked))
        if (
            number >= asked.rounds
            and one.kinds.keys() == other.kinds.keys()
            and one.copies.keys() == other.copies.keys()
        ):
            break
    yield from _unlike("came of it", set(one.kinds), set(other.kinds))
    yield from _unlike("got copies", set(one.copies), set(other.copies))
    for kind in one.kinds.keys() & other.kinds.keys():
        yield from _of_answers(one.kinds[kind], other.kinds[kind])
    for instance in one.copies.keys() & other.copies.keys():
        yield from _of_arrivals(one.copies[instance], other.copies[instance])


@dataclass(slots=True)
class _Gathered:
    """One of each kind of outcome that was seen."""

    is_sticky: bool
    kinds: dict[tuple[int, str], Seen] = field(default_factory=dict[tuple[int, str], Seen])
    copies: dict[str, Arrived] = field(default_factory=dict[str, Arrived])

    def add(self, seen: Seen) -> None:
        by = "" if seen.by is None else "one instance" if self.is_sticky else seen.by.instance
        self.kinds.setdefault((seen.status, by), seen)
        for copy in seen.copies:
            self.copies.setdefault(copy.instance, copy)


def _of_answers(one: Seen, other: Seen) -> Iterator[str]:
    if one.headers is not None and other.headers is not None:
        yield from _of_headers("the answer's", RESPONSE, one.headers, other.headers)
    if one.by and other.by:
        yield from _of_arrivals(one.by, other.by)


def _of_arrivals(one: Arrived, other: Arrived) -> Iterator[str]:
    for name in ("method", "target", "authority", "peer"):
        yield from _unlike(f"is the {name}", getattr(one, name), getattr(other, name))
    yield from _of_headers("the request's", REQUEST, one.headers, other.headers)


def _of_headers(whose: str, meant: tuple[Meant, ...], one: Headers, other: Headers) -> Iterator[str]:
    first, second = _compared(one, meant), _compared(other, meant)
    for name in sorted(first.keys() | second.keys()):
        yield from _unlike(f"is {whose} {name}", first.get(name), second.get(name))


def _compared(headers: Headers, meant: tuple[Meant, ...]) -> dict[str, str]:
    """Values by name, joined as RFC 9110 (5.3) allows."""
    found: dict[str, str] = {}
    for name, value in headers:
        if not any(_is_named(name, each.header) for each in meant):
            found[name] = f"{found[name]},{value}" if name in found else value
    return {name: value.replace(", ", ",") for name, value in found.items()}


def _is_named(name: str, meant: str) -> bool:
    return name == meant or (meant.endswith("*") and name.startswith(meant[:-1]))


def _unlike(what: str, one: object, other: object) -> Iterator[str]:
    if one != other:
        yield f"{one!r} {what}, {other!r} in the reference"
