"""Puts a backup in the place of a store: ``python -m masche.registry.backup restore BACKUP STORE``.

A restored store begins a new epoch, a billion revisions above every revision it ever gave out, so that nobody who saw
the lost ones takes the new ones for older. What was there before is kept beside it.
"""

import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from masche.identity.files import sync_folder
from masche.model.ports import StoreError
from masche.registry.files import Ownership, Witness, create_private
from masche.registry.schema import connect, meta, prepare

EPOCH = 1_000_000_000


def restore(backup: Path, store: Path) -> int:
    """Make ``store`` a copy of ``backup`` and return its revision. The control plane must be stopped.

    Raises StoreError when the store is in use, or the backup is missing, damaged or from a newer masche.
    """
    if not backup.is_file():
        raise StoreError(f"there is no backup {backup}")
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ownership = Ownership.take(store)
    try:
        fresh = store.with_name(store.name + ".restoring")
        fresh.unlink(missing_ok=True)
        witness = _copy(backup, fresh, ownership.read())
        _set_aside(store)
        fresh.rename(store)
        sync_folder(store.parent)
        ownership.testify(witness)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot restore {backup} to {store}: {error}") from error
    finally:
        ownership.release()
    return witness.revision


def _copy(backup: Path, fresh: Path, witness: Witness | None) -> Witness:
    create_private(fresh)
    source, copy = sqlite3.connect(f"file:{backup}?mode=ro", uri=True), connect(fresh)
    try:
        source.backup(copy)
        prepare(copy, backup)
        revision = _begin_epoch(copy, witness.revision if witness else 0)
        cluster = meta(copy)["cluster"]
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, complete in itself; opening it turns the log on again
    finally:
        copy.close()
        source.close()
    return Witness(cluster=cluster, revision=revision)


def _begin_epoch(copy: sqlite3.Connection, seen: int) -> int:
    facts = meta(copy)
    last = copy.execute("SELECT ifnull(max(revision), 0) FROM log").fetchone()[0]
    revision = (max(last, int(facts["base"]), seen) // EPOCH + 1) * EPOCH
    copy.execute("BEGIN IMMEDIATE")
    copy.execute("DELETE FROM log")
    for key, value in (("base", revision), ("floor", revision), ("epoch", int(facts["epoch"]) + 1)):
        copy.execute("UPDATE meta SET value = ? WHERE key = ?", (str(value), key))
    copy.execute("COMMIT")
    return revision


def _set_aside(store: Path) -> None:
    """Move the old files away, the write-ahead log before the file it belongs to is replaced."""
    free = next(n for n in range(1, 10_000) if not store.with_name(f"{store.name}.before-{n}").exists())
    for suffix in ("", "-wal", "-shm"):
        old = store.with_name(store.name + suffix)
        if old.exists():
            old.rename(store.with_name(f"{store.name}.before-{free}{suffix}"))


def main(arguments: Sequence[str]) -> int:
    """The command; exits 2 on wrong arguments and 1 when the restore failed."""
    match arguments:
        case ["restore", backup, store]:
            try:
                revision = restore(Path(backup), Path(store))
            except StoreError as error:
                sys.stderr.write(f"{error}\n")
                return 1
            sys.stdout.write(f"restored {store} from {backup}; it continues at revision {revision}\n")
            return 0
        case _:
            sys.stderr.write("usage: python -m masche.registry.backup restore BACKUP STORE\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
