"""A detour on an event loop: the connection to an instance that a gateway between zones carries.

Order: mutual TLS with the gateway, CONNECT, and within that connection mutual TLS with the instance, so that all that
is checked of a direct connection is checked of this one. Invariant: however it fails or is cancelled, the connection to
the gateway is closed, and the instance has seen nothing.
"""

import asyncio
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

from masche.library.core.ways import Consent, Way, WayError, request

P = TypeVar("P", bound=asyncio.BaseProtocol)


async def connected(
    made: Callable[[], P], way: Way, endpoint: str, *, gateway: ssl.SSLContext, context: ssl.SSLContext | None
) -> tuple[asyncio.Transport, P]:
    """Return a connection to ``endpoint`` (``host:port``) with the protocol that ``made`` makes, which has been told.

    ``gateway`` is the TLS of the gateway, ``context`` that of the instance, None for a protocol that does it itself.
    Raises OSError (WayError when the gateway does not carry us, ssl.SSLError when somebody is not who was expected).
    """
    loop = asyncio.get_running_loop()
    host, port = way.address
    asking = _Asking(Consent(way, endpoint), request(endpoint))
    try:
        outer, _ = await loop.create_connection(lambda: asking, host, port, ssl=gateway)
    except ssl.SSLError:
        raise
    except OSError as error:
        raise WayError(f"the gateway at {way.gateway} cannot be reached: {error}") from error
    try:
        await asking.agreed
        protocol = made()
        inner = outer if context is None else await _within(loop, outer, protocol, context)
    except BaseException:
        outer.abort()
        raise
    if context is None:
        inner.set_protocol(protocol)
    protocol.connection_made(inner)
    return inner, protocol


async def _within(
    loop: asyncio.AbstractEventLoop, outer: asyncio.Transport, protocol: asyncio.BaseProtocol, context: ssl.SSLContext
) -> asyncio.Transport:
    if sys.version_info < (3, 12, 2) and type(outer).__module__ == "asyncio.sslproto":
        # TLS within TLS that fails fails in itself, before CPython 3.11.8 and 3.12.2 (gh-113214).
        vars(outer)["_force_close"] = partial(_abort, outer)
    made = await loop.start_tls(outer, protocol, context)
    if made is None:
        raise WayError("the gateway closed the connection within the handshake")
    return made


def _abort(transport: asyncio.Transport, _error: Exception | None) -> None:
    transport.abort()


class _Asking(asyncio.Protocol):
    """Asks the gateway, and waits for its consent; what comes later is the instance's."""

    def __init__(self, consent: Consent, words: bytes) -> None:
        self._consent, self._words = consent, words
        self.agreed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake with the gateway is over."""
        cast("asyncio.Transport", transport).write(self._words)

    def data_received(self, data: bytes) -> None:
        """A part of its answer."""
        try:
            if not self.agreed.done() and self._consent.read(data):
                self.agreed.set_result(None)
        except WayError as error:
            self.agreed.set_exception(error)

    def eof_received(self) -> None:
        """It says no more."""
        self.data_received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        if not self.agreed.done():
            self.agreed.set_exception(exc or WayError("the gateway closed the connection"))
