"""Turns Entries and Changes into rows of a store file and back; a row that does not match its checksum is refused.

The log holds each Change whole, in one row, so that a Change is there or it is not.
"""

import sqlite3
from collections.abc import Iterable
from itertools import starmap

import msgspec

from masche.model.codec import from_json, to_json
from masche.model.ports import Change, Entry
from masche.model.refs import Kind, Ref
from masche.registry.schema import checksum

Row = tuple[str, str, str, int, int, bytes, int]
LogRow = tuple[int, bytes, int]


class DamagedRowError(Exception):
    """A row's checksum or content is wrong: the file has rotted."""


class _Logged(msgspec.Struct, array_like=True, gc=False):
    puts: list[tuple[str, str, str, int, bytes]]
    deleted: list[tuple[str, str, str]]


def encode(change: Change) -> tuple[LogRow, list[Row]]:
    """The row of the log and the rows of the resources that ``change`` puts."""
    rows = [_row(entry) for entry in change.entries]
    logged = _Logged(
        [(kind, namespace, name, created, body) for kind, namespace, name, created, _, body, _ in rows],
        [(ref.kind.value, ref.namespace, ref.name) for ref in change.deleted],
    )
    body = msgspec.msgpack.encode(logged)
    return (change.revision, body, checksum(body, change.revision)), rows


def _row(entry: Entry) -> Row:
    ref, body = entry.ref, to_json(entry.resource)
    key = (ref.kind.value, ref.namespace, ref.name, entry.created_revision, entry.revision)
    return *key, body, checksum(body, *key)


def entry(row: Row) -> Entry:
    """Read a resource's row back."""
    *key, body, crc = row
    if checksum(body, *key) != crc:
        raise DamagedRowError(f"the checksum of {row[0]}/{row[1]}/{row[2]} is wrong")
    return _entry(Ref(Kind(row[0]), row[1], row[2]), body, created=row[3], revision=row[4])


def change(revision: int, body: bytes, crc: int) -> Change:
    """Read a row of the log back."""
    if checksum(body, revision) != crc:
        raise DamagedRowError(f"the checksum of revision {revision} in the log is wrong")
    logged = msgspec.msgpack.decode(body, type=_Logged)
    entries = tuple(
        _entry(Ref(Kind(kind), namespace, name), text, created=created, revision=revision)
        for kind, namespace, name, created, text in logged.puts
    )
    deleted = tuple(Ref(Kind(kind), namespace, name) for kind, namespace, name in logged.deleted)
    return Change(revision=revision, entries=entries, deleted=deleted)


def _entry(ref: Ref, body: bytes, *, created: int, revision: int) -> Entry:
    try:
        resource = from_json(body)
    except ValueError as error:
        raise DamagedRowError(f"{ref} cannot be read: {error}") from error
    return Entry(ref=ref, resource=resource, revision=revision, created_revision=created)


ENTRIES = "SELECT kind, namespace, name, created, revision, body, crc FROM kv"
PUT = "INSERT OR REPLACE INTO kv VALUES(?, ?, ?, ?, ?, ?, ?)"
DELETE = "DELETE FROM kv WHERE kind = ? AND namespace = ? AND name = ?"
LOG = "INSERT INTO log VALUES(?, ?, ?)"
SINCE = "SELECT revision, body, crc FROM log WHERE revision > ? ORDER BY revision LIMIT ?"


def load(connection: sqlite3.Connection) -> Iterable[Entry]:
    """Every stored resource."""
    return map(entry, connection.execute(ENTRIES))


def since(connection: sqlite3.Connection, revision: int, *, limit: int = -1) -> list[Change]:
    """The logged Changes above ``revision``; at most ``limit``, all of them when it is negative."""
    return list(starmap(change, connection.execute(SINCE, (revision, limit))))


class Batch:
    """The rows of many Changes, written together."""

    def __init__(self) -> None:
        self._log: list[LogRow] = []
        self._kv: dict[tuple[str, str, str], Row | None] = {}

    def __len__(self) -> int:
        return len(self._log)

    @property
    def log_sizes(self) -> list[tuple[int, int]]:
        """(revision, bytes) of every row of the log."""
        return [(revision, len(body)) for revision, body, _ in self._log]

    def add(self, log: LogRow, rows: Iterable[Row], deleted: Iterable[Ref]) -> None:
        """Take in one encoded Change."""
        self._log.append(log)
        self._kv.update((row[:3], row) for row in rows)
        self._kv.update(((ref.kind.value, ref.namespace, ref.name), None) for ref in deleted)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the last state of every resource and every row of the log, within the caller's transaction."""
        connection.executemany(LOG, self._log)
        connection.executemany(PUT, [row for row in self._kv.values() if row])
        connection.executemany(DELETE, [key for key, row in self._kv.items() if not row])
