"""A registry that lives in memory: the same promises as the SQLite store except that it forgets when the process ends.

For tests and for trying things out; it passes the same ``check_source``.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence

from masche.model.ports import Change, CompactedError, Edit, Snapshot, StoreError
from masche.registry.feed import PAGE, Feed
from masche.registry.ledger import Ledger, Wall, wall_clock


class MemoryStore:
    """``Source``, ``Writer`` and ``Records`` in one; the log keeps the last ``keep`` revisions."""

    def __init__(self, *, wall: Wall = wall_clock, keep: int = 10_000) -> None:
        self._ledger = Ledger()
        self._feed = Feed(revision=0, recent=min(keep, 64))
        self._log = deque[Change](maxlen=keep)
        self._records = defaultdict[str, dict[str, bytes]](dict)
        self._wall = wall
        self._failure: StoreError | None = None

    @property
    def revision(self) -> int:
        """The last revision."""
        return self._ledger.revision

    def fail(self, error: StoreError | None) -> None:
        """Refuse every write with ``error`` from now on, as a full disk would; None heals it."""
        self._failure = error

    async def snapshot(self) -> Snapshot:
        """Everything that is stored."""
        return self._ledger.snapshot()

    async def watch(self, *, after: int) -> AsyncIterator[Change]:
        """Yield every Change above ``after``, as Source.watch says; ends when the store is closed."""
        async for change in self._feed.watch(after=after, older=self._older):
            yield change

    async def commit(self, edits: Sequence[Edit], *, expect: int | None = None) -> Change:
        """Write all edits as one revision, as Writer.commit says."""
        await self._written()
        change = self._ledger.draft(edits, expect=expect, wall=self._wall)
        if change.revision > self._ledger.revision:
            self._ledger.apply(change)
            self._ledger.begin()
            self._log.append(change)
            self._feed.publish([change])
        return change

    async def get(self, bucket: str, key: str) -> bytes | None:
        """Return the record, or None."""
        return self._records[bucket].get(key)

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Write the record."""
        await self._written()
        self._records[bucket][key] = value

    async def create(self, bucket: str, key: str, value: bytes) -> bool:
        """Write the record only if there is none; say whether it was written."""
        await self._written()
        records = self._records[bucket]
        is_new = key not in records
        records.setdefault(key, value)
        return is_new

    async def take(self, bucket: str, key: str) -> bytes | None:
        """Delete the record and return what it was."""
        await self._written()
        return self._records[bucket].pop(key, None)

    async def list(self, bucket: str) -> dict[str, bytes]:
        """All records of a bucket by key."""
        return dict(sorted(self._records[bucket].items()))

    async def close(self) -> None:
        """End every watch."""
        self._feed.close()

    async def _written(self) -> None:
        await asyncio.sleep(0)  # a real store lets others run while it writes
        if self._failure:
            raise self._failure

    async def _older(self, after: int) -> Sequence[Change]:
        if not self._log or after < self._log[0].revision - 1:
            raise CompactedError(f"the log no longer has revision {after + 1}; read a snapshot and watch from there")
        return [change for change in self._log if change.revision > after][:PAGE]
