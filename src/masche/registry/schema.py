"""The tables of a store file, and how a file of an older masche becomes one of today's.

Every migration is one transaction that ends by writing its own number, so that a process killed at any statement leaves
either the old schema or the new one. A file with a higher number is not touched.
"""

import shutil
import sqlite3
import uuid
import zlib
from pathlib import Path

from masche.model.ports import StoreError

APPLICATION_ID = 0x6D617363  # "masc"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE log(revision INTEGER PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL)",
        "CREATE TABLE kv(kind TEXT, namespace TEXT, name TEXT, created INTEGER NOT NULL, revision INTEGER NOT NULL,"
        " body BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY(kind, namespace, name)) WITHOUT ROWID",
        "CREATE TABLE records(bucket TEXT, key TEXT, value BLOB NOT NULL, crc INTEGER NOT NULL,"
        " PRIMARY KEY(bucket, key)) WITHOUT ROWID",
        "INSERT INTO meta VALUES('epoch', '0'), ('base', '0'), ('floor', '0')",
    ),
)
"""One tuple of statements per schema version, oldest first. ``base`` is the revision that the file began with,
``floor`` the highest one whose Change the log no longer has, ``epoch`` the number of restores."""

VERSION = len(MIGRATIONS)

LEAST_ROOM_BYTES = 1 << 20
"""With less than that on the disk, an input/output error is most likely for want of it."""

CURE = "stop the control plane, then restore a backup: python -m masche.registry.backup restore BACKUP STORE"


def damaged(path: Path, why: object) -> StoreError:
    """The error that says a file cannot be trusted, and what to do."""
    return StoreError(f"{path} is damaged ({why}); nothing is served from it. To repair: {CURE}")


def unusable(path: Path, why: Exception) -> StoreError:
    """The error for a file that cannot be opened: a full disk damages nothing, and looks to SQLite as if it did."""
    is_full = isinstance(why, sqlite3.OperationalError) and shutil.disk_usage(path.parent).free < LEAST_ROOM_BYTES
    return (
        StoreError(f"cannot open {path}: its disk is full ({why}); free some space") if is_full else damaged(path, why)
    )


def connect(path: Path) -> sqlite3.Connection:
    """Open the file with the settings that durability needs; a commit returns after its fsync.

    Waits up to five seconds for a lock; a control plane owns the file, so that only a backup can be met.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
    return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check the file, then bring it to today's schema. Raises StoreError on a foreign, newer or damaged one."""
    try:
        _refuse_foreign(connection, path)
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise damaged(path, found)
        connection.execute("PRAGMA journal_mode=WAL")
        migrate(connection)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR:
            why = f"cannot open {path}: {error}"
            raise StoreError(why) from error
        raise unusable(path, error) from error


def migrate(connection: sqlite3.Connection) -> None:
    """Carry out every migration that the file has not had."""
    for version in range(_pragma(connection, "user_version"), VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            if version == 0:
                connection.execute("INSERT INTO meta VALUES('cluster', ?)", (uuid.uuid4().hex,))
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    version = _pragma(connection, "user_version")
    if version > VERSION:
        why = (
            f"{path} has schema {version}, written by a newer masche; this one knows schema {VERSION}. "
            "Use the newer masche, or restore a backup made by this one"
        )
        raise StoreError(why)
    if _pragma(connection, "application_id") != APPLICATION_ID and _pragma(connection, "schema_version"):
        why = f"{path} is an SQLite file of another program; name another file"
        raise StoreError(why)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def meta(connection: sqlite3.Connection) -> dict[str, str]:
    """The table ``meta`` as a mapping."""
    return dict(connection.execute("SELECT key, value FROM meta"))


def checksum(body: bytes, *key: object) -> int:
    """A CRC-32 over a row's body and the columns that say what it is: pages can rot without losing their form."""
    return zlib.crc32(repr(key).encode(), zlib.crc32(body))
