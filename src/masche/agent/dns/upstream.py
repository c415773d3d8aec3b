"""Asks the host's resolvers what the mesh does not know, and gives up in time.

Invariant: a reply counts only if it comes from the resolver that was asked, to the socket that asked it, with the id
and the question that were sent. Ids are random, and every try has a socket of its own, and so a random port (RFC 5452).
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from masche.agent.dns.resolvers import Resolvers

PORT: Final = 53

TRY_AGAIN_AFTER: Final = 1.0
"""Seconds without a reply after which the next resolver, or the only one again, is asked."""

MOST_TRIES: Final = 3
GIVE_UP_AFTER: Final = TRY_AGAIN_AFTER * MOST_TRIES
"""Seconds in which whoever asked is told something: less than the five that a stub resolver waits for us."""

AVOIDED_FOR: Final = 10.0
"""Seconds in which a resolver that said nothing is asked last."""

MOST_AT_ONCE: Final = 512
"""Queries in flight, of all workloads; each has a socket per try."""

_LONGEST_REPLY: Final = 65535
_USELESS: Final = frozenset({2, 4, 5})
"""SERVFAIL, NOTIMP and REFUSED: another resolver may know better."""


class Upstream:
    """Asks, for all workloads of this machine."""

    def __init__(self, resolvers: Callable[[], Resolvers], *, port: int = PORT) -> None:
        self._resolvers = resolvers
        self._port = port
        self._avoided: dict[str, float] = {}
        self._asked: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<Upstream {self._resolvers().servers}: {len(self._asked)} in flight>"

    async def ask(self, query: bytes, question: bytes, *, is_tcp: bool = False) -> bytes | None:
        """Return the reply, whose id is not the asker's, or None: nobody has replied, or too much is asked at once.

        Takes at most ``GIVE_UP_AFTER`` seconds. A reply that helps nobody is returned only where there is no other.
        """
        signed = secrets.token_bytes(2) + query[2:]
        mark = signed[:2] + question
        if len(self._asked) >= MOST_AT_ONCE or mark in self._asked:
            return None
        self._asked.add(mark)
        try:
            return await (self._by_tcp if is_tcp else self._by_udp)(signed, question)
        finally:
            self._asked.discard(mark)

    def is_own(self, number: bytes, question: bytes) -> bool:
        """Whether this is what we have asked, come back to us (by chance once in 65536, where two ask the same)."""
        return number + question in self._asked

    def _order(self) -> Iterator[str]:
        """Those to ask, one after the other."""
        now = asyncio.get_running_loop().time()
        servers = sorted(self._resolvers().servers, key=lambda one: self._avoided.get(one, 0.0) > now)
        for turn in range(MOST_TRIES if servers else 0):
            yield servers[turn % len(servers)]

    def _said_nothing(self, server: str) -> None:
        known = set(self._resolvers().servers)
        self._avoided = {one: until for one, until in self._avoided.items() if one in known}
        self._avoided[server] = asyncio.get_running_loop().time() + AVOIDED_FOR

    async def _by_udp(self, signed: bytes, question: bytes) -> bytes | None:
        """Ask one after the other; whoever was asked before may still reply."""
        replies: asyncio.Queue[bytes] = asyncio.Queue()
        best: bytes | None = None
        with contextlib.ExitStack() as sockets:
            for server in self._order():
                try:
                    async with asyncio.timeout(TRY_AGAIN_AFTER):
                        sockets.callback(await self._send(server, signed, question, replies))
                        reply = await replies.get()
                except (TimeoutError, OSError):  # OSError: there is no way to it
                    reply = b""
                if not reply:
                    self._said_nothing(server)
                best = reply or best
                if best and best[3] & 0x0F not in _USELESS:
                    return best
        return best

    async def _send(
        self, server: str, signed: bytes, question: bytes, replies: "asyncio.Queue[bytes]"
    ) -> Callable[[], None]:
        """Send it from a new socket that hears nobody but this resolver; return what closes the socket."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Ear(signed, question, replies), remote_addr=(server, self._port)
        )
        transport.sendto(signed)
        return transport.close

    async def _by_tcp(self, signed: bytes, question: bytes) -> bytes | None:
        best: bytes | None = None
        for server in self._order():
            try:
                async with asyncio.timeout(TRY_AGAIN_AFTER):
                    reply = await self._converse(server, signed)
            except (TimeoutError, OSError, EOFError):
                self._said_nothing(server)
                continue
            if not is_reply(reply, signed, question):
                continue
            if reply[3] & 0x0F not in _USELESS:
                return reply
            best = reply
        return best

    async def _converse(self, server: str, signed: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(server, self._port, limit=_LONGEST_REPLY)
        try:
            writer.write(len(signed).to_bytes(2) + signed)
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        finally:
            writer.transport.abort()


class _Ear(asyncio.DatagramProtocol):
    """Takes the first datagram that is the reply; an empty one says that nobody listens there."""

    def __init__(self, signed: bytes, question: bytes, replies: "asyncio.Queue[bytes]") -> None:
        self._signed = signed
        self._question = question
        self._replies = replies

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - asyncio's protocol; the kernel has compared it
        """It came from whom the socket is connected to."""
        if is_reply(data, self._signed, self._question):
            self._replies.put_nowait(data)

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 - asyncio's protocol
        """The port there is closed (ICMP)."""
        self._replies.put_nowait(b"")


def is_reply(data: bytes, signed: bytes, question: bytes) -> bool:
    """Whether ``data`` replies to ``signed``: a reply of its id, about one question, spelled alike up to case."""
    end = 12 + len(question)
    return (
        data[:2] == signed[:2]
        and len(data) >= end
        and bool(data[2] & 0x80)
        and data[4:6] == b"\0\1"
        and data[12 : end - 4].lower() == question[:-4].lower()
        and data[end - 4 : end] == question[-4:]
    )
