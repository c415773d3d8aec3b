"""The connections of an httpx client on an event loop into the mesh: idle ones by expected identities, place and way.

A connection waits in the list of the place for which it was made, under the TLS context that it was made with, and only
requests for that place take it from there; so it never crosses identities, and it ends with its certificate. How many
there may be is the policy's to say, for each service, so nothing waits here. Invariant: a connection is in use by one
answer, or idle, or closed, and all are closed with the client.
"""

import asyncio
import ssl
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Any

from masche.library.core.exchange import Target
from masche.library.core.facade import Facade
from masche.library.core.h11_connection import Connection, Limits, Pairs, Stream
from masche.library.core.httpcore_pools import KEPT_ALIVE, KEPT_ALIVE_PLAIN
from masche.library.core.pool import Pools
from masche.library.core.ways import Way
from masche.library.core.ways_async import connected

_SWEEP = 5.0
"""Seconds between two looks for connections that were idle for too long."""

_TURNS = 10
"""Turns of the loop within which it has closed what was aborted; two are usual."""


class Place:
    """The idle connections to one instance by one way. ``context`` None: plaintext."""

    __slots__ = ("address", "context", "idle", "is_retired", "keeps", "port", "way")

    def __init__(self, address: str, port: int, way: Way | None, context: ssl.SSLContext | None) -> None:
        self.address, self.port, self.way, self.context = address, port, way, context
        self.keeps = KEPT_ALIVE_PLAIN if context is None else KEPT_ALIVE
        self.idle: list[Connection] = []
        self.is_retired = False

    def __repr__(self) -> str:
        return f"<Place {self.address}:{self.port} {len(self.idle)} idle{', retired' if self.is_retired else ''}>"

    @property
    def endpoint(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def take(self, loop: asyncio.AbstractEventLoop) -> Connection | None:
        """Take the connection that was used last, which is the least likely to end; None: there is none."""
        idle = self.idle
        while idle:
            found = idle.pop()
            if found.loop is loop and loop.time() - found.idle_since <= self.keeps and found.is_usable:
                return found
            found.close()
        return None

    def sweep(self, now: float) -> None:
        """Close who was idle for too long, or has ended: they are in the order in which they came to rest."""
        kept = [each for each in self.idle if now - each.idle_since <= self.keeps and not each.is_ended]
        for each in self.idle:
            if each not in kept:
                each.close()
        self.idle = kept

    def retire(self) -> None:
        """Keep nobody any more; who is in use is closed at the end of its answer."""
        self.is_retired = True
        for each in self.idle:
            each.close()
        self.idle = []


class Answer:
    """The head of an answer of one attempt, and its body to come. Of one that nobody closes the connection is closed
    when it is forgotten.
    """

    __slots__ = ("_connection", "_place", "_pools", "extensions", "headers", "limits", "status")

    def __init__(self, pools: "AsyncPools", place: Place, connection: Connection, head: Any, limits: Limits) -> None:
        self._pools, self._place = pools, place
        self._connection: Connection | None = connection
        self.limits = limits
        self.status: int = head.status_code
        self.headers: list[tuple[bytes, bytes]] = head.headers.raw_items()
        self.extensions: dict[str, Any] = {
            "http_version": b"HTTP/" + head.http_version,
            "reason_phrase": head.reason,
            "network_stream": Stream(connection),
        }

    def __del__(self) -> None:
        if self._connection is not None:
            self._pools.forgotten(self._connection)

    async def part(self) -> bytes | None:
        """Return the next part of the body; None at its end. Raises the client's exceptions."""
        return None if self._connection is None else await self._connection.part(self.limits)

    async def aclose(self) -> None:
        """Let others have the connection, if the answer is complete."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pools.end(self._place, connection)


class AsyncPools:
    """The connections of one AsyncClient. ``errors`` is the client's module."""

    def __init__(self, errors: Any, facade: Facade) -> None:
        self._errors, self._facade = errors, facade
        self._tls: Pools[tuple[str, int, Way | None], Place] = Pools(self._made, close=self._retire, now=facade.now)
        self._plain: dict[tuple[str, int], Place] = {}
        self._places: set[Place] = set()
        self._used: set[Connection] = set()
        self._sweeping: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    def __repr__(self) -> str:
        idle = sum(len(each.idle) for each in self._places)
        return f"{self._tls!r}, {len(self._used)} connections in use, {idle} idle"

    async def send(self, target: Target, headers: Pairs, body: bytes | AsyncIterable[bytes], limits: Limits) -> Answer:
        """Send a request and return its answer; raises the client's exceptions, or NotReadyError before our own
        certificate has come.
        """
        place, asked = self._place(target), target.request
        connection = place.take(asyncio.get_running_loop()) or await self._connected(place, limits["connect"])
        self._used.add(connection)
        try:
            method, where = asked.method.encode("ascii"), asked.target.encode("ascii")
            return Answer(self, place, connection, await connection.send(method, where, headers, body, limits), limits)
        except BaseException:
            self._given_up(connection)
            raise

    def end(self, place: Place, connection: Connection) -> None:
        """An answer has ended, or was given up."""
        self._used.discard(connection)
        if place.is_retired or not connection.rest():
            connection.close()
            return
        place.idle.append(connection)
        if self._sweeping is None or self._sweeping[0] is not connection.loop:
            self._sweep_later(connection.loop)

    def forgotten(self, connection: Connection) -> None:
        """An answer that was neither read nor closed is gone; told by a finalizer, which may run in any thread."""
        with suppress(RuntimeError):  # the loop is closed, and with it whatever it carried
            connection.loop.call_soon_threadsafe(self._given_up, connection)

    async def close(self) -> None:
        """Close all, at once, whatever they carry: the client is closed."""
        self._tls.close()
        closing = [*self._used, *(each for place in self._places for each in place.idle)]
        for each in closing:
            each.close()
        for place in self._places:
            place.retire()
        self._used.clear()
        self._places.clear()
        self._plain.clear()
        if self._sweeping is not None:
            self._sweeping[1].cancel()
            self._sweeping = None
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if all(each.is_closed for each in closing):
                break

    def _given_up(self, connection: Connection) -> None:
        self._used.discard(connection)
        connection.close()

    def _place(self, target: Target) -> Place:
        if target.is_tls:
            context = self._facade.identity.client_context(target.identities)
            return self._tls.pool(target.identities, (target.address, target.port, target.way), context)
        found = self._plain.get((target.address, target.port))
        if found is None:
            found = self._plain[target.address, target.port] = Place(target.address, target.port, None, None)
            self._places.add(found)
        return found

    def _made(self, context: ssl.SSLContext, key: tuple[str, int, Way | None]) -> Place:
        made = Place(*key, context)
        self._places.add(made)
        return made

    def _retire(self, place: Place) -> None:
        self._places.discard(place)
        place.retire()

    async def _connected(self, place: Place, seconds: float | None) -> Connection:
        """Make a connection: one that fails, or is not made in time, has sent nothing."""
        loop = asyncio.get_running_loop()
        made = Connection(self._errors, loop)
        try:
            async with asyncio.timeout(seconds):
                if place.way is None:
                    await loop.create_connection(lambda: made, place.address, place.port, ssl=place.context)
                else:
                    gateway = self._facade.identity.client_context(place.way.identities)
                    await connected(lambda: made, place.way, place.endpoint, gateway=gateway, context=place.context)
        except TimeoutError as error:
            raise self._errors.ConnectTimeout(f"no connection to {place.endpoint} in time") from error
        except OSError as error:  # ssl.SSLError is one
            raise self._errors.ConnectError(str(error)) from error
        except BaseException:
            made.close()
            raise
        return made

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = (loop, loop.call_later(_SWEEP, self._sweep, loop))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        for place in self._places:
            place.sweep(loop.time())
        for key, place in [each for each in self._plain.items() if not each[1].idle]:
            del self._plain[key]
            self._retire(place)
        self._sweeping = None
        if any(place.idle for place in self._places):
            self._sweep_later(loop)
