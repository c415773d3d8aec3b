"""What an adapter does for one call, and what it is told: the seam between the call pipeline and an HTTP client.

An adapter makes one Exchange for each call of its client; it knows connections, bodies and the client's own types, and
decides nothing. The pipeline says where each attempt goes (``Target``) and which answer counts. Invariant: every answer
that an attempt gave is either finished, once, or dropped; whoever is cancelled frees what it holds.
"""

from collections.abc import Callable, Mapping
from enum import Enum, unique
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec import Struct

from masche.library.core.ways import Way
from masche.model.frozen import frozen
from masche.traffic.request import Headers, Request

if TYPE_CHECKING:
    from masche.library.core.router import Names

Raw = TypeVar("Raw")
"""What one attempt gives: the client's answer when its head is there and its body is still to be read."""
Raw_contra = TypeVar("Raw_contra", contravariant=True)
"""The same where it is only taken."""
Final_co = TypeVar("Final_co", covariant=True)
"""What the client's user gets."""


class Asked(Struct, frozen=True):
    """What a client's user asked for. One is made for every call, at a third of a dataclass's price.

    ``request`` has header names in lower case and no ``host`` among them; the authority is as the user wrote it.
    ``timeout``: seconds for which the client itself would wait for an answer to begin, 0 for ever. ``can_repeat``: the
    body, if there is one, can be sent more than once. ``sent_bytes``: the length of the body, 0 when not known.
    ``names``: what ``router.plain_headers`` says of the headers, for whoever sees the same ones again and again.
    """

    request: Request
    timeout: float = 0.0
    can_repeat: bool = True
    sent_bytes: int = 0
    names: "Names | None" = None


class Target(Struct, frozen=True, gc=False):
    """One attempt: where it goes and what is sent. One is made for every attempt, at a third of a dataclass's price.

    ``identities``: the SPIFFE IDs of which the peer must show one, checked inside the handshake (``is_tls``);
    plaintext only when the mesh itself says so. ``way``: the detour by which it is reached, None for the direct way.
    ``request`` is what goes out, with ``headers`` in place of its own: ``authority`` is the Host header, ``target`` the
    path with its query, ``headers`` all others but those of the connection and of the body's framing. ``timeout``:
    seconds until the answer must have begun (infinite: none), ``connect_timeout`` for a new connection,
    ``idle_timeout`` how long nothing may move (0: for ever). ``is_copy``: nobody waits for the answer.
    """

    cluster: str
    address: str
    port: int
    identities: tuple[str, ...]
    is_tls: bool
    way: Way | None
    request: Request
    headers: Headers
    timeout: float
    connect_timeout: float
    idle_timeout: float = 0.0
    is_copy: bool = False

    @property
    def endpoint(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Head(Struct, frozen=True, gc=False):
    """The head of an answer; header names in lower case. ``said``: the same by their names, for whoever has it.

    ``received``: the bytes of its body, where all of it has come and its connection is free again; negative otherwise.
    Such an answer ends with its head: its Ending has nothing more to be told.
    """

    status: int
    headers: Headers
    said: Mapping[str, str] | None = None
    received: int = -1


@frozen(kw_only=False)
class Answer:
    """An answer that the mesh itself makes. ``flag`` is Envoy's response flag for why: ``UH``, ``UO``, ``NR``, ..."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    flag: str = ""


@unique
class Blame(Enum):
    """What an exception of an attempt means."""

    UNREACHED = "nothing was sent"
    """No connection could be made, or its handshake failed: an application cannot have seen anything."""
    BROKEN = "the connection broke"
    """Something was, or may have been, sent."""
    TIMEOUT = "no answer in time"
    OURS = "not the peer's fault"
    """The request itself is wrong, or the client is closed: neither repeated nor held against anybody."""


Over = Callable[[int, bool], None]
"""Takes how many bytes of a body were received, and whether it broke off."""


class Ending(Protocol):
    """The end of an answer's body, which the adapter tells: until then its request counts as active.

    Nothing happens the second time. An answer that nobody reads or closes ends when it is forgotten.
    """

    def over(self, *, received: int = 0, is_broken: bool = False) -> None:
        """The body of ``received`` bytes has ended or was closed; ``is_broken``: the connection ended before it."""
        ...

    def left(self) -> float:
        """Seconds that are left for the whole body, infinite: no limit."""
        ...


class Exchange(Protocol[Raw_contra, Final_co]):
    """What every adapter says of its client's answers and exceptions, whether it blocks or not."""

    @property
    def is_spent(self) -> bool:
        """Was something of a body read that cannot be read again?"""
        ...

    def head(self, raw: Raw_contra) -> Head:
        """Return the head of an attempt's answer."""
        ...

    def blame(self, error: Exception) -> Blame:
        """Say what an exception of ``attempt`` means."""
        ...

    def finished(self, raw: Raw_contra, headers: Headers, ending: Ending) -> Final_co:
        """Make the user's answer of an attempt's, with ``headers`` in place of its own (the very object that ``head``
        gave when nothing of them changes); ``ending`` is to be told.
        """
        ...

    def answered(self, answer: Answer) -> Final_co:
        """Make the user's answer of one that the mesh itself gives."""
        ...

    def timed_out(self, why: str) -> Exception:
        """Make the exception by which the client says that no answer came in time."""
        ...


class AsyncExchange(Exchange[Raw, Final_co], Protocol[Raw, Final_co]):
    """One call of a client on an event loop."""

    async def attempt(self, target: Target) -> Raw:
        """Send the request there and return when the answer's head has come. May be called several times, also at the
        same time. Being cancelled it must free its connection.
        """
        ...

    async def outside(self, request: Request) -> Final_co:
        """Send a request that is not for the mesh as the client would have without it."""
        ...

    async def drop(self, raw: Raw) -> None:
        """Close an answer that nobody wants."""
        ...


class SyncExchange(Exchange[Raw, Final_co], Protocol[Raw, Final_co]):
    """One call of a client that blocks its thread."""

    def attempt(self, target: Target) -> Raw:
        """Send the request there and return when the answer's head has come, or fail after ``target.timeout``. May be
        called several times, also by several threads at the same time.
        """
        ...

    def outside(self, request: Request) -> Final_co:
        """Send a request that is not for the mesh as the client would have without it."""
        ...

    def drop(self, raw: Raw) -> None:
        """Close an answer that nobody wants."""
        ...
