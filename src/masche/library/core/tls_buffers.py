"""How much memory asyncio's TLS keeps for a connection, of which a process in a mesh has one for each instance.

asyncio gives every TLS connection a buffer of 256 kB for what it reads, be it idle for minutes: a hundred of them weigh
as much as all of the library. Two records of TLS at a time do as well, and one buffer for all connections of a loop:
what was read into it is taken out again before the loop reads for another. Invariant: only connections of ours are
touched, and of an event loop that keeps its buffers elsewhere (uvloop) none.
"""

import asyncio
from asyncio.sslproto import SSLProtocol
from typing import Any
from weakref import WeakKeyDictionary

from masche.library.core.tls_usual import UsualTls

_SIZE = 32 * 1024
"""Bytes that are read at a time: two records, of 16 kB each at the most (RFC 8446, 5.1)."""

_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, bytearray] = WeakKeyDictionary()
"""The buffer of each loop. A loop runs in one thread at a time, and reads for one connection at a time."""


def lighten(transport: asyncio.BaseTransport | None) -> None:
    """Let a connection that has just been made read in smaller pieces, and give back what it has been given."""
    protocol: Any = getattr(transport, "_ssl_protocol", None)
    if isinstance(protocol, SSLProtocol) and len(vars(protocol).get("_ssl_buffer", b"")) > _SIZE:
        buffer = _buffer(vars(protocol).get("_loop"))
        vars(protocol).update(max_size=_SIZE, _ssl_buffer=buffer, _ssl_buffer_view=memoryview(buffer))
    if type(protocol) is SSLProtocol:
        protocol.__class__ = UsualTls


def _buffer(loop: object) -> bytearray:
    """What connections of this loop read into. Only of a loop that waits for sockets: others read while they wait."""
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return bytearray(_SIZE)
    return _shared.setdefault(loop, bytearray(_SIZE))
