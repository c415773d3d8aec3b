"""The embedded store: one SQLite file, owned by one control plane, durable at every acknowledgement.

``Source``, ``Writer`` and ``Records`` of ``model.ports`` in one. Reads come from memory, so that they go on when the
disk does not.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from masche.identity.files import sync_folder
from masche.model.ports import Change, CompactedError, Edit, Snapshot, StoreError
from masche.registry import writer
from masche.registry.feed import PAGE, Feed
from masche.registry.files import Ownership, Witness, create_private
from masche.registry.ledger import Wall, wall_clock
from masche.registry.rows import DamagedRowError
from masche.registry.schema import CURE, connect, prepare, unusable
from masche.registry.writer import Commit, Keep, Read, Settlement, Transact


class SqliteStore:
    """A registry in one file. Make it with ``open``; use it on the event loop that opened it."""

    def __init__(self, thread: writer.Writer, path: Path) -> None:
        self._writer = thread
        self._feed = Feed(revision=thread.revision, recent=min(thread.keep.revisions, 1024))
        self._closed = False
        self.path = path
        self.cluster = thread.cluster
        self.epoch = thread.epoch
        thread.begin(self._deliver)

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path} at revision {self.revision}>"

    @property
    def revision(self) -> int:
        """The last durable revision that this event loop has heard of."""
        return self._feed.revision

    @classmethod
    async def open(cls, path: Path, *, wall: Wall = wall_clock, keep: Keep | None = None) -> Self:
        """Open the store at ``path``, or make a new one there, with its folder (0700) and its files (0600).

        Raises StoreError when another process owns it, when it is damaged, older than it should be, written by a newer
        masche, on a network file system, or cannot be opened at all.
        """
        loop = asyncio.get_running_loop()
        return cls(await asyncio.to_thread(_own, path, wall, keep or Keep(), loop), path)

    async def snapshot(self) -> Snapshot:
        """Everything that is stored, after every commit that was asked for before."""
        return await self._ask(partial(Read, self._writer.snapshot))

    async def watch(self, *, after: int) -> AsyncIterator[Change]:
        """Yield every Change above ``after``, as Source.watch says; ends when the store is closed."""
        async for change in self._feed.watch(after=after, older=self._older):
            yield change

    async def commit(self, edits: Sequence[Edit], *, expect: int | None = None) -> Change:
        """Write all edits as one revision, as Writer.commit says."""
        return await self._ask(partial(Commit, tuple(edits), expect))

    async def get(self, bucket: str, key: str) -> bytes | None:
        """Return the record, or None."""
        return await self._read(lambda c: writer.record_get(c, bucket, key))

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Write the record, durable on return."""
        await self._transact(lambda c: writer.record_put(c, bucket, key, value))

    async def create(self, bucket: str, key: str, value: bytes) -> bool:
        """Write the record only if there is none; say whether it was written."""
        return await self._transact(lambda c: writer.record_create(c, bucket, key, value))

    async def take(self, bucket: str, key: str) -> bytes | None:
        """Delete the record and return what it was; of many takers exactly one gets it."""
        return await self._transact(lambda c: writer.record_take(c, bucket, key))

    async def list(self, bucket: str) -> dict[str, bytes]:
        """All records of a bucket by key."""
        return await self._read(lambda c: writer.record_list(c, bucket))

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to ``target`` (0600), which must not exist, while writes go on.

        Raises StoreError when it cannot be written; what was begun is then removed.
        """
        await asyncio.to_thread(_backup, self.path, target)

    async def close(self) -> None:
        """Finish what was asked for, end every watch and give the file free."""
        if not self._closed:
            self._closed = True
            self._writer.ask(None)
            await asyncio.to_thread(self._writer.join)
            await asyncio.sleep(0)  # what the thread told last is delivered before the watches end
            self._feed.close()

    async def _older(self, after: int) -> Sequence[Change]:
        changes = await self._ask(partial(Read, lambda: self._writer.older(after, PAGE)))
        if changes is None:
            raise CompactedError(f"the log no longer has revision {after + 1}; read a snapshot and watch from there")
        return changes

    async def _transact(self, work: Callable[[sqlite3.Connection], object]) -> Any:
        return await self._ask(partial(Transact, work))

    async def _read(self, work: Callable[[sqlite3.Connection], object]) -> Any:
        return await self._ask(partial(Read, self._writer.reading(work)))

    async def _ask(self, job: "Callable[[asyncio.Future[Any]], writer.Job]") -> Any:
        if self._closed:
            raise StoreError(f"{self.path} is closed")
        future = asyncio.get_running_loop().create_future()
        self._writer.ask(job(future))
        return await future

    def _deliver(self, changes: Sequence[Change], settlements: Sequence[Settlement]) -> None:
        if changes:
            self._feed.publish(changes)
        for future, outcome in settlements:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def _own(path: Path, wall: Wall, keep: Keep, loop: asyncio.AbstractEventLoop) -> writer.Writer:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ownership = Ownership.take(path)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error}") from error
    connection: sqlite3.Connection | None = None
    try:
        connection = _open(path, ownership.read())
        return writer.Writer(connection, ownership, path, wall=wall, keep=keep, loop=loop)
    except BaseException as error:
        if connection:
            connection.close()
        ownership.release()
        match error:
            case DamagedRowError() | sqlite3.DatabaseError():
                raise unusable(path, error) from error
            case OSError():
                raise StoreError(f"cannot open {path}: {error}") from error
            case _:
                raise


def _open(path: Path, witness: Witness | None) -> sqlite3.Connection:
    if witness and witness.revision and not (path.exists() and path.stat().st_size):
        raise _stale(path, witness, "is missing")
    create_private(path)
    sync_folder(path.parent)
    connection = connect(path)
    try:
        prepare(connection, path)
        _compare(connection, path, witness)
    except BaseException:
        connection.close()
        raise
    return connection


def _compare(connection: sqlite3.Connection, path: Path, witness: Witness | None) -> None:
    query = (
        "SELECT max((SELECT ifnull(max(revision), 0) FROM log), (SELECT CAST(value AS INTEGER) FROM meta"
        " WHERE key = 'base')), (SELECT value FROM meta WHERE key = 'cluster')"
    )
    revision, cluster = connection.execute(query).fetchone()
    if witness and witness.cluster != cluster and witness.revision:
        raise _stale(path, witness, f"belongs to another mesh ({cluster[:8]} instead of {witness.cluster[:8]})")
    if witness and revision < witness.revision:
        raise _stale(path, witness, f"is at revision {revision}")


def _stale(path: Path, witness: Witness, what: str) -> StoreError:
    lock = path.name + ".lock"
    return StoreError(
        f"{path} {what}, but revision {witness.revision} was acknowledged: it lost writes or was exchanged, and "
        f"nothing is served from it. To repair: {CURE}. To accept it as it is, delete {lock} beside it"
    )


def _backup(path: Path, target: Path) -> None:
    if target.exists():
        raise StoreError(f"{target} exists already; name a new file")
    try:
        create_private(target)
        source, copy = connect(path), sqlite3.connect(target, isolation_level=None)
        try:
            source.backup(copy)
        finally:
            copy.close()
            source.close()
        sync_folder(target.parent)
    except (sqlite3.Error, OSError) as error:
        target.unlink(missing_ok=True)
        raise StoreError(f"cannot write a backup to {target}: {error}") from error
