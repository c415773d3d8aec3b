"""What the call pipeline needs of the rest of the process: what the mesh says, who we are, and who writes down.

The pipeline is given these and knows no control plane, no thread and no file, so that it runs the same over a real one
and over the doubles in ``masche.testing``. Everything here may be called from any thread and any event loop.
"""

import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Final, Protocol

from msgspec import Struct

from masche.model.frozen import frozen
from masche.model.told import Destination
from masche.model.view import Endpoints, Inbound, VirtualHost
from masche.traffic.outcome import Outcome


@frozen
class Known:
    """All that a call to one authority needs, of one moment: nothing in it is still to be asked for (gRFC A74).

    ``destinations`` and ``endpoints`` have every cluster that ``host`` leads to, by the cluster's name; a cluster that
    the control plane does not have is in neither, and calls to it fail. The same object comes back until something of
    it has changed, so that what is derived from it can be kept.
    """

    host: VirtualHost
    destinations: Mapping[str, Destination]
    endpoints: Mapping[str, Endpoints]


class MeshError(Exception):
    """The mesh cannot carry a call, and why: for people. Never a reason to call in plaintext instead."""


class NotReadyError(MeshError):
    """Nothing is known yet, for as long as the caller was ready to wait: names what was waited for."""


class Knowledge(Protocol):
    """What the control plane said, as it is now."""

    def known(self, authority: str) -> Known | None:
        """Return what is known of ``host`` or ``host:port``; None: not told yet, or not any more. Never blocks.

        The first question about an authority makes it wanted from then on.
        """
        ...

    def want(self, authority: str) -> "Future[Known]":
        """Complete as soon as something is known; the caller waits as long as it likes, and may cancel."""
        ...

    def waiting_for(self) -> str:
        """Say what is waited for: "the control plane at 10.0.0.1:15012 (connection refused)". Empty: for nothing."""
        ...


HTTP_1: Final = ("http/1.1",)
"""What is spoken (ALPN) unless an adapter says that it can do more."""

HTTP_2: Final = ("h2", "http/1.1")
"""What an adapter asks for that speaks HTTP/2 as well."""

BYTES: Final[tuple[str, ...]] = ()
"""Of a connection that carries bytes of which the mesh reads nothing."""


class Identity(Protocol):
    """Who this process is in the mesh. Contexts are replaced when the certificate or the roots are: ask each time."""

    @property
    def spiffe_id(self) -> str:
        """Our own SPIFFE ID; empty before the first certificate came."""
        ...

    def client_context(self, identities: tuple[str, ...], alpn: tuple[str, ...] = HTTP_1) -> ssl.SSLContext:
        """Return the TLS of a connection to one of ``identities``, which is checked inside the handshake.

        The same object for the same identities and what may be spoken (ALPN), until what we show or trust has changed.
        """
        ...

    def server_context(self, alpn: tuple[str, ...] = HTTP_1) -> ssl.SSLContext:
        """Return the TLS of our own port: it asks for a client certificate of the mesh."""
        ...


class Tried(Struct, frozen=True, gc=False):
    """One attempt that ended. One is made for every attempt, and the collector of garbage need not look at it.

    ``address`` is ``host:port``, of a detour ``host:port@gateway``; ``seconds`` until the first byte of the answer.

    ``service_seconds`` is what the callee said of its own part, negative when it said nothing.
    """

    cluster: str
    address: str
    outcome: Outcome
    seconds: float
    service_seconds: float = -1.0


class Called(Struct, frozen=True, gc=False):
    """One call that ended. One is made for every call, as of attempts.

    ``status`` 0: no answer came. ``flag`` is Envoy's response flag for why (``UH``, ``UT``). ``is_stream``: it was a
    connection of TCP, which has no status, and whose ``seconds`` are its life.
    """

    cluster: str
    rule: str
    status: int
    seconds: float
    flag: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    is_stream: bool = False


class Recorder(Protocol):
    """Who counts. Must cost next to nothing and never block: it is called once or twice per call."""

    def tried(self, tried: Tried) -> None:
        """Count an attempt."""
        ...

    def called(self, called: Called) -> None:
        """Count a call."""
        ...


class Reception(Protocol):
    """What the control plane said of our own ports, as it is now."""

    def inbound(self, port: int) -> Inbound | None:
        """Return how calls to ``port`` of the application are received; None: not told yet. Never blocks.

        An update that was refused changes nothing: the last good one comes back.
        """
        ...

    def waiting_for(self) -> str:
        """Say what is waited for, as Knowledge does."""
        ...


@frozen
class Received:
    """One request that came to our ``port`` and ended. ``peer`` is the caller's SPIFFE ID, "" of a plaintext caller.

    ``status`` 0: the caller went before there was an answer. ``rule`` is of a refusal by policy alone: which one.
    ``seconds`` from the request's first byte to the answer's last, ``flag`` Envoy's response flag (``UAEX`` and such).
    ``is_stream``: it was a connection of TCP.
    """

    port: int
    peer: str
    status: int
    seconds: float
    rule: str = ""
    flag: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    is_stream: bool = False


class Counter(Protocol):
    """Who counts what is received. As cheap as a Recorder, and like it called from any thread."""

    def received(self, received: Received) -> None:
        """Count a request that ended."""
        ...


Now = Callable[[], float]
"""Monotonic seconds."""
