"""The files of a store: private, owned by one process, refused when they cannot be trusted, restored from a backup."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from masche.model.ports import CompactedError, Put, StoreError
from masche.registry.backup import EPOCH, main, restore
from masche.registry.files import filesystem
from masche.registry.sqlite import SqliteStore
from masche.registry.writer import Keep
from masche.testing.source import service


async def filled(path: Path, count: int = 5) -> SqliteStore:
    store = await SqliteStore.open(path)
    for n in range(count):
        await store.commit([Put(resource=service(f"s{n}", label="v0"))])
    return store


async def test_every_file_is_private_whatever_the_umask_says(tmp_path: Path):
    before = os.umask(0)
    try:
        store = await filled(tmp_path / "data" / "registry.db")
        await store.backup(tmp_path / "data" / "copy.db")
        files = list((tmp_path / "data").iterdir())
        await store.close()
    finally:
        os.umask(before)
    assert {file.name for file in files} >= {"registry.db", "registry.db-wal", "registry.db-shm", "registry.db.lock"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files if file.exists()} == {0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_a_second_control_plane_on_the_same_file_is_refused(tmp_path: Path):
    store = await filled(tmp_path / "registry.db")
    script = (
        "import asyncio, sys; from pathlib import Path; from masche.registry.sqlite import SqliteStore\n"
        "asyncio.run(SqliteStore.open(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(store.path)]
    other = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert other.returncode
    assert "in use by another control plane" in other.stderr
    await store.commit([Put(resource=service("still-mine"))])
    await store.close()
    await (await SqliteStore.open(store.path)).close()


async def test_a_newer_schema_is_refused_and_not_touched(tmp_path: Path):
    path = tmp_path / "registry.db"
    await (await filled(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(StoreError, match="schema 99, written by a newer masche"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_a_file_of_another_program_is_refused(tmp_path: Path):
    path = tmp_path / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        await SqliteStore.open(path)


@pytest.mark.parametrize("how", ["overwritten", "truncated", "flipped"])
async def test_a_damaged_file_is_refused_with_the_way_to_repair_it(tmp_path: Path, how: str):
    path = tmp_path / "registry.db"
    await (await filled(path, 300)).close()
    content = bytearray(path.read_bytes())
    match how:
        case "overwritten":
            content[:4096] = os.urandom(4096)
        case "truncated":
            del content[len(content) // 2 :]
        case _:
            assert b'"s42"' in content
            content = content.replace(b'"s42"', b'"t42"')  # rows that are still well formed, and wrong
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged.*masche\.registry\.backup restore"):
        await SqliteStore.open(path)


async def test_a_store_that_is_older_than_what_was_acknowledged_is_refused(tmp_path: Path):
    path = tmp_path / "registry.db"
    store = await filled(path)
    await store.backup(tmp_path / "old.db")
    await store.commit([Put(resource=service("later"))])
    await store.close()
    path.write_bytes((tmp_path / "old.db").read_bytes())
    with pytest.raises(StoreError, match=r"revision 5, but revision 6 was acknowledged"):
        await SqliteStore.open(path)
    path.unlink()
    with pytest.raises(StoreError, match="is missing, but revision 6"):
        await SqliteStore.open(path)
    (tmp_path / "registry.db.lock").unlink()
    fresh = await SqliteStore.open(path)
    assert fresh.revision == 0
    await fresh.close()


async def test_a_backup_is_consistent_while_writes_go_on_and_restores_into_a_new_epoch(tmp_path: Path):
    path = tmp_path / "registry.db"
    store = await filled(path, 50)
    await store.put("machines", "m1", b"credential")

    async def write() -> None:
        for n in range(200):
            await store.commit([Put(resource=service(f"{half}{n}")) for half in ("left", "right")])

    writing = asyncio.create_task(write())
    await store.backup(tmp_path / "copy.db")
    await writing
    last = store.revision
    await store.close()

    assert main(["restore", str(tmp_path / "copy.db"), str(path)]) == 0
    restored = await SqliteStore.open(path)
    snapshot = await restored.snapshot()
    names = {entry.ref.name for entry in snapshot.entries}
    assert {name[4:] for name in names if name.startswith("left")} == {
        name[5:] for name in names if name.startswith("right")
    }
    assert {f"s{n}" for n in range(50)} <= names
    assert await restored.get("machines", "m1") == b"credential"
    assert snapshot.revision == EPOCH > last
    assert restored.epoch == 1
    change = await restored.commit([Put(resource=service("after"))])
    assert change.revision == EPOCH + 1
    with pytest.raises(CompactedError):
        await anext(restored.watch(after=last))
    await restored.close()
    assert (tmp_path / "registry.db.before-1").exists()
    with pytest.raises(StoreError, match="exists already"):
        await restored.backup(tmp_path / "copy.db")


async def test_a_restore_under_a_running_control_plane_is_refused(tmp_path: Path):
    store = await filled(tmp_path / "registry.db")
    await store.backup(tmp_path / "copy.db")
    with pytest.raises(StoreError, match="in use"):
        restore(tmp_path / "copy.db", store.path)
    await store.close()
    assert main(["restore", str(tmp_path / "none.db"), str(store.path)]) == 1
    assert main([]) == 2


async def test_the_log_and_the_files_stay_bounded(tmp_path: Path):
    path = tmp_path / "registry.db"
    store = await SqliteStore.open(path, keep=Keep(revisions=100))
    for n in range(40):
        await asyncio.gather(*(store.commit([Put(resource=service(f"s{k}", label=f"v{n}"))]) for k in range(100)))
    await store.close()
    assert path.stat().st_size < 200_000
    again = await SqliteStore.open(path)
    assert again.revision == 4000
    assert len((await again.snapshot()).entries) == 100
    await again.close()


async def test_a_closed_store_says_so(tmp_path: Path):
    store = await filled(tmp_path / "registry.db", 1)
    watch = store.watch(after=0)
    assert (await anext(watch)).revision == 1
    waiting = asyncio.ensure_future(anext(watch, None))
    await store.close()
    assert await waiting is None
    with pytest.raises(StoreError, match="closed"):
        await store.commit([Put(resource=service("a"))])


def test_the_file_system_is_that_of_the_deepest_mount():
    mounts = "/dev/sda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\ntmpfs /home/me/my\\040data tmpfs rw 0 0\n"
    assert filesystem(Path("/var/lib"), mounts) == "ext4"
    assert filesystem(Path("/home/me"), mounts) == "nfs4"
    assert filesystem(Path("/home/me/my data/masche"), mounts) == "tmpfs"
