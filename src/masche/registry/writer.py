"""The one thread that writes a store file: it gathers whatever callers asked for and makes it durable with one fsync.

Each commit of a group has its own revision and is whole or absent; all of a group are acknowledged once the
transaction that holds them is durable, or none is. Reads run after the group, in memory or on the thread's
own connection.
"""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from masche.model.ports import Change, ConflictError, Edit, Snapshot, StoreError
from masche.registry import rows
from masche.registry.files import Ownership, Witness
from masche.registry.ledger import Ledger, Wall
from masche.registry.schema import checksum, damaged, meta

GROUP = 2048

Settlement = tuple["asyncio.Future[Any]", object]
Publish = Callable[[Sequence[Change], Sequence[Settlement]], None]
"""Called on the event loop with what became durable and with what each caller is to hear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How much of the log stays: the last ``revisions``, and of these no more than ``size_bytes``."""

    revisions: int = 10_000
    size_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Commit:
    """Edits to write as one revision."""

    edits: Sequence[Edit]
    expect: int | None
    future: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class Transact:
    """Work on the records, within the group's transaction; its result is told after the fsync."""

    work: Callable[[sqlite3.Connection], object]
    future: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class Read:
    """Work that changes nothing."""

    work: Callable[[], object]
    future: "asyncio.Future[Any]"


Job = Commit | Transact | Read


class Writer(threading.Thread):
    """Owns the connection, the Ledger and the lock; everything reaches it through ``ask``."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        ownership: Ownership,
        path: Path,
        *,
        wall: Wall,
        keep: Keep,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(name=f"registry {path.name}", daemon=True)
        self._connection = connection
        self._ownership = ownership
        self._path = path
        self._wall = wall
        self.keep = keep
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._loop = loop
        self._publish: Publish = lambda _changes, _settlements: None
        self._in_doubt = False
        facts = meta(connection)
        self.cluster, self.epoch, self._floor = facts["cluster"], int(facts["epoch"]), int(facts["floor"])
        self._log = deque[tuple[int, int]](
            connection.execute("SELECT revision, length(body) FROM log ORDER BY revision").fetchall()
        )
        self._log_bytes = sum(size for _, size in self._log)
        revision = self._log[-1][0] if self._log else int(facts["base"])
        self._ledger = Ledger(rows.load(connection), revision=revision)

    @property
    def revision(self) -> int:
        """The last durable revision; read it before ``start`` or on the thread."""
        return self._ledger.revision

    def begin(self, publish: Publish) -> None:
        """Start the thread; ``publish`` is called on the loop."""
        self._publish = publish
        self._testify()
        self.start()

    def ask(self, job: Job | None) -> None:
        """Queue a job; None ends the thread once everything before it is done."""
        self._jobs.put(job)

    def snapshot(self) -> Snapshot:
        """Everything that is durable. To be asked for with a Read."""
        return self._ledger.snapshot()

    def reading(self, work: Callable[[sqlite3.Connection], object]) -> Callable[[], object]:
        """The same work on the thread's connection, outside of any transaction. To be asked for with a Read."""
        return lambda: work(self._connection)

    def older(self, after: int, limit: int) -> list[Change] | None:
        """The first Changes above ``after``, or None when the log no longer has them. To be asked for with a Read."""
        return None if after < self._floor else rows.since(self._connection, after, limit=limit)

    def run(self) -> None:
        """Serve jobs until a None comes."""
        running = True
        while running:
            jobs = self._gather()
            running = None not in jobs
            writes = [job for job in jobs if isinstance(job, Commit | Transact)]
            if writes:
                self._write(writes)
            for job in jobs:
                if isinstance(job, Read):
                    self._tell((), [(job.future, _attempt(job.work))])
        with suppress(sqlite3.Error):  # every acknowledged write is in the write-ahead log already
            self._connection.close()
        self._ownership.release()

    def _gather(self) -> list[Job | None]:
        jobs = [self._jobs.get()]
        with suppress(Empty):
            while len(jobs) < GROUP and jobs[-1] is not None:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _write(self, jobs: Sequence[Commit | Transact]) -> None:
        self._ledger.begin()
        settlements: list[Settlement] = []
        changes: list[Change] = []
        try:
            changes += self._catch_up()
            self._ledger.begin()
            self._transact(jobs, changes, settlements)
        except Exception as error:  # noqa: BLE001 - whatever failed, nothing of the group is durable and all must hear it
            self._ledger.rollback()
            self._in_doubt = True
            refusal = _refusal(self._path, error)
            with suppress(sqlite3.Error):  # the cause is told; a rollback that fails too is settled by _catch_up
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            self._tell([c for c in changes if c.revision <= self._ledger.revision], [(j.future, refusal) for j in jobs])
        else:
            self._testify()
            self._tell(changes, settlements)

    def _transact(
        self, jobs: Sequence[Commit | Transact], changes: list[Change], settlements: list[Settlement]
    ) -> None:
        batch = rows.Batch()
        self._connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            outcome = self._stage(job, batch)
            if isinstance(outcome, Change) and (outcome.entries or outcome.deleted):
                changes.append(outcome)
            settlements.append((job.future, outcome))
        if batch:
            batch.write(self._connection)
            self._compact(batch)
        self._connection.execute("COMMIT")

    def _stage(self, job: Commit | Transact, batch: rows.Batch) -> object:
        if isinstance(job, Transact):
            return job.work(self._connection)
        try:
            change = self._ledger.draft(job.edits, expect=job.expect, wall=self._wall)
            if change.revision > self._ledger.revision:
                log, kv = rows.encode(change)
                batch.add(log, kv, change.deleted)
                self._ledger.apply(change)
        except (ConflictError, ValueError, TypeError) as error:  # this commit's own fault; the others go on
            return error
        return change

    def _compact(self, batch: rows.Batch) -> None:
        """Drop the oldest rows of the log beyond what Keep says, in bites, within the open transaction."""
        self._log.extend(batch.log_sizes)
        self._log_bytes += sum(size for _, size in batch.log_sizes)
        if len(self._log) <= self.keep.revisions * 1.1 and self._log_bytes <= self.keep.size_bytes * 1.1:
            return
        floor = self._floor
        while len(self._log) > self.keep.revisions or (self._log_bytes > self.keep.size_bytes and len(self._log) > 1):
            floor, size = self._log.popleft()
            self._log_bytes -= size
        self._connection.execute("DELETE FROM log WHERE revision <= ?", (floor,))
        self._connection.execute("UPDATE meta SET value = ? WHERE key = 'floor'", (str(floor),))
        self._floor = floor

    def _catch_up(self) -> list[Change]:
        """After a failure, ask the file what it holds: a commit whose fsync failed may yet have become durable."""
        if not self._in_doubt:
            return []
        missed = rows.since(self._connection, self._ledger.revision)
        for change in missed:
            self._ledger.apply(change)
        self._log = deque(self._connection.execute("SELECT revision, length(body) FROM log ORDER BY revision"))
        self._log_bytes = sum(size for _, size in self._log)
        self._floor = int(meta(self._connection)["floor"])
        self._in_doubt = False
        return missed

    def _testify(self) -> None:
        self._ownership.testify(Witness(cluster=self.cluster, revision=self._ledger.revision))

    def _tell(self, changes: Sequence[Change], settlements: Sequence[Settlement]) -> None:
        with suppress(RuntimeError):  # the loop is gone, and with it everybody who could hear
            self._loop.call_soon_threadsafe(self._publish, changes, settlements)


def _attempt(work: Callable[[], object]) -> object:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - told to the caller who asked
        return StoreError(f"cannot read the store: {error}")


def _refusal(path: Path, error: Exception) -> StoreError:
    match error:
        case rows.DamagedRowError() | sqlite3.DatabaseError() if not isinstance(error, sqlite3.OperationalError):
            return damaged(path, error)
        case sqlite3.OperationalError() if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return StoreError(f"{path}: the disk is full; nothing was written. Free some space and try again")
        case _:
            return StoreError(f"{path}: {error}; nothing was acknowledged. Look at the disk and try again")


def record_get(connection: sqlite3.Connection, bucket: str, key: str) -> bytes | None:
    """Read one record. Raises DamagedRowError when it has rotted."""
    found = connection.execute("SELECT value, crc FROM records WHERE bucket = ? AND key = ?", (bucket, key)).fetchone()
    return _checked(bucket, key, *found) if found else None


def record_list(connection: sqlite3.Connection, bucket: str) -> dict[str, bytes]:
    """Read all records of a bucket."""
    found = connection.execute("SELECT key, value, crc FROM records WHERE bucket = ? ORDER BY key", (bucket,))
    return {key: _checked(bucket, key, value, crc) for key, value, crc in found}


def record_put(connection: sqlite3.Connection, bucket: str, key: str, value: bytes) -> None:
    """Write one record."""
    row = (bucket, key, value, checksum(value, bucket, key))
    connection.execute("INSERT OR REPLACE INTO records VALUES(?, ?, ?, ?)", row)


def record_create(connection: sqlite3.Connection, bucket: str, key: str, value: bytes) -> bool:
    """Write one record if there is none."""
    row = (bucket, key, value, checksum(value, bucket, key))
    return connection.execute("INSERT OR IGNORE INTO records VALUES(?, ?, ?, ?)", row).rowcount == 1


def record_take(connection: sqlite3.Connection, bucket: str, key: str) -> bytes | None:
    """Delete one record and return what it was."""
    value = record_get(connection, bucket, key)
    connection.execute("DELETE FROM records WHERE bucket = ? AND key = ?", (bucket, key))
    return value


def _checked(bucket: str, key: str, value: bytes, crc: int) -> bytes:
    if checksum(value, bucket, key) != crc:
        raise rows.DamagedRowError(f"the checksum of record {bucket}/{key} is wrong")
    return value
