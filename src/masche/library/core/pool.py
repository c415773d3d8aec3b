"""Connections that never cross identities, for clients whose own pools are keyed by origin alone.

Such a client uses a connection again for whatever has the same scheme, host and port. In a mesh that is not enough: an
address that was one service's may be another's a minute later, and one address may be called as two services. A
connection is made for one set of expected identities, checked once in its handshake, so it may only carry requests that
expect the same: there is a pool for each (identities, place), where a place says the way, too, by which somebody is
reached. It also ends with the certificate that it was made with: who asks with a newer TLS context is given a new pool,
and the old one is closed once nobody uses it.
"""

import ssl
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

from masche.library.core.ports import Now

P = TypeVar("P")
K = TypeVar("K", bound=Hashable)

MAX_IDLE = 300.0
"""Seconds after which a pool that nobody asked for is closed; instances come and go, and their addresses with them."""

MAX_POOLS = 4096
"""The pools of one client at most; above it, whoever was not asked for the longest goes."""


class _Kept(Generic[P]):
    __slots__ = ("context", "pool", "used_at")

    def __init__(self, pool: P, context: ssl.SSLContext, used_at: float) -> None:
        self.pool, self.context, self.used_at = pool, context, used_at


class Pools(Generic[K, P]):
    """The pools of one client. ``make`` a pool for a context and a place; ``close`` lets requests under way end.

    May be asked from any thread; ``make`` and ``close`` are called one at a time.
    """

    __slots__ = ("_by_key", "_close", "_lock", "_make", "_now")

    def __init__(self, make: Callable[[ssl.SSLContext, K], P], *, close: Callable[[P], None], now: Now) -> None:
        self._make, self._close, self._now = make, close, now
        self._by_key: dict[tuple[tuple[str, ...], K], _Kept[P]] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        who = {identities for identities, _ in self._by_key}
        return f"<Pools: {len(self._by_key)} of {len(who)} sets of identities>"

    def pool(self, identities: tuple[str, ...], place: K, context: ssl.SSLContext) -> P:
        """Return the pool for ``place``: the way there, and the address unless a pool keeps addresses apart by itself.

        ``context`` is what the connections are made with now; it must be of the same ``identities``.
        """
        kept = self._by_key.get((identities, place))
        if kept is None or kept.context is not context:
            kept = self._another(identities, place, context)
        kept.used_at = self._now()
        return kept.pool

    def close(self) -> None:
        """Close all pools."""
        with self._lock:
            gone, self._by_key = list(self._by_key.values()), {}
            for each in gone:
                self._close(each.pool)

    def _another(self, identities: tuple[str, ...], place: K, context: ssl.SSLContext) -> _Kept[P]:
        key, now = (identities, place), self._now()
        with self._lock:
            kept = self._by_key.get(key)
            if kept is not None and kept.context is context:  # another thread was first
                return kept
            self._forget(now)
            made = self._by_key[key] = _Kept(self._make(context, place), context, now)
            if kept is not None:
                self._close(kept.pool)
            return made

    def _forget(self, now: float) -> None:
        """Close what nobody asks for; only when a new pool is made, which is rare."""
        by_age = sorted(self._by_key.items(), key=lambda item: item[1].used_at)
        for place, (key, kept) in enumerate(by_age):
            if now - kept.used_at <= MAX_IDLE and len(by_age) - place < MAX_POOLS:
                return
            del self._by_key[key]
            self._close(kept.pool)
