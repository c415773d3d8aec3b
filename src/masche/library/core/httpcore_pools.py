"""The connections of a blocking httpx client into the mesh: a pool of httpcore's for each set of expected identities.

httpcore keeps connections apart by address, and makes all of a pool with one TLS context; so there is a pool for each
context and way there, and one for instances that the mesh itself says to take plaintext. Invariant: a pool that was
replaced is closed once its last answer has ended, for closing a pool of httpcore's breaks what it carries.
"""

import ssl
from threading import Lock
from typing import Any

from masche.library.core.exchange import Target
from masche.library.core.facade import Facade
from masche.library.core.pool import Pools
from masche.library.core.ways import Way
from masche.library.core.ways_httpcore import SyncBackend

KEPT_ALIVE = 55.0
"""Seconds for which an idle connection to a proxy, or to a server of ours, is kept: theirs last for minutes."""

KEPT_ALIVE_PLAIN = 4.0
"""The same for a server that is not ours: common ones close idle connections after 5 seconds."""

_OPTIONS: dict[str, Any] = {"max_connections": None, "max_keepalive_connections": None, "http1": True, "http2": False}
"""How many there may be is the policy's to say, for each service."""


class Kept:
    """One pool of httpcore's, and how many answers of it have not ended."""

    __slots__ = ("_lock", "active", "is_retired", "pool")

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.active = 0
        self.is_retired = False
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<Kept {self.active} active{', retired' if self.is_retired else ''}>"

    def begin(self) -> None:
        """Count a request."""
        with self._lock:
            self.active += 1

    def end(self) -> bool:
        """Count its end; whether nobody needs the pool any more."""
        with self._lock:
            self.active -= 1
            return self.is_retired and not self.active

    def retire(self) -> bool:
        """Take no further request; whether nobody needs the pool any more."""
        with self._lock:
            self.is_retired = True
            return not self.active


class SyncPools:
    """The pools of one Client."""

    def __init__(self, core: Any, facade: Facade) -> None:
        self._core, self._facade = core, facade
        self._tls: Pools[Way | None, Kept] = Pools(self._make, close=self._retire, now=facade.now)
        self._plain = Kept(core.ConnectionPool(keepalive_expiry=KEPT_ALIVE_PLAIN, **_OPTIONS))
        self._live: set[Kept] = {self._plain}

    def __repr__(self) -> str:
        return f"{self._tls!r}, {self._plain.active} active in plaintext"

    def pool(self, target: Target) -> Kept:
        """Return the pool for an attempt. Raises NotReadyError before our own certificate has come."""
        if not target.is_tls:
            return self._plain
        context = self._facade.identity.client_context(target.identities)
        return self._tls.pool(target.identities, target.way, context)

    def send(self, kept: Kept, request: Any) -> Any:
        """Send a request of httpcore's; ``ended`` is to be called when its answer has ended, if there is one."""
        kept.begin()
        try:
            return kept.pool.handle_request(request)
        except BaseException:
            self.ended(kept)
            raise

    def ended(self, kept: Kept) -> None:
        """An answer of this pool has ended."""
        if kept.end():
            self._close(kept)

    def close(self) -> None:
        """Close all, at once, whatever they carry: the client is closed."""
        self._tls.close()
        for kept in list(self._live):
            self._close(kept)

    def _make(self, context: ssl.SSLContext, way: Way | None) -> Kept:
        more = {"network_backend": SyncBackend(self._core, way, self._facade.identity)} if way is not None else {}
        made = Kept(self._core.ConnectionPool(ssl_context=context, keepalive_expiry=KEPT_ALIVE, **_OPTIONS, **more))
        self._live.add(made)
        return made

    def _retire(self, kept: Kept) -> None:
        if kept.retire():
            self._close(kept)

    def _close(self, kept: Kept) -> None:
        self._live.discard(kept)
        kept.pool.close()
