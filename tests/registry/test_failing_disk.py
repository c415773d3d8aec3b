"""A full disk refuses writes with a clear sentence, keeps answering reads, and heals by itself."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from masche.model.ports import ConflictError, Put, StoreError
from masche.registry.sqlite import SqliteStore
from masche.testing.source import service


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.root
async def test_a_full_disk_refuses_writes_and_heals_by_itself(small_disk: Path):
    store = await SqliteStore.open(small_disk / "registry.db")
    await store.commit([Put(resource=service("first"))])
    await store.put("machines", "m1", b"here")
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(2 << 20))
    acknowledged, refusals, reasons = {"first"}, 0, set[str]()
    for n in range(300):
        try:
            await store.commit([Put(resource=service(f"s{n}"))])
            acknowledged.add(f"s{n}")
        except StoreError as error:
            refusals += 1
            reasons.add(str(error).split(": ")[1].split(";")[0])
            assert {entry.ref.name for entry in (await store.snapshot()).entries} == acknowledged
            assert await store.get("machines", "m1") == b"here"
            if refusals == 3:
                break
    assert refusals == 3, "the fault did not bite"
    assert reasons <= {"the disk is full", "disk I/O error"}
    ballast.unlink()
    change = await store.commit([Put(resource=service("after"))])
    assert change.revision == len(acknowledged) + 1
    await store.close()
    again = await SqliteStore.open(small_disk / "registry.db")
    assert {entry.ref.name for entry in (await again.snapshot()).entries} == acknowledged | {"after"}
    await again.close()


@pytest.mark.root
async def test_a_store_on_a_full_disk_is_not_called_damaged(small_disk: Path):
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - (16 << 10)))
    with pytest.raises(StoreError, match="disk is full") as caught:
        await SqliteStore.open(small_disk / "registry.db")
    assert "damaged" not in str(caught.value)


async def test_a_commit_that_reported_a_failure_and_yet_became_durable_is_seen_by_watchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A failed fsync says nothing about what is on the disk; the store asks the file before it goes on."""
    store = await SqliteStore.open(tmp_path / "registry.db")
    writer = store._writer  # pyright: ignore[reportPrivateUsage] # the fault is put below everything public
    real = writer._transact  # pyright: ignore[reportPrivateUsage] # see above

    def durable_but_failed(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type] # passed through as it came
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(writer, "_transact", durable_but_failed)
    with pytest.raises(StoreError, match="nothing was acknowledged"):
        await store.commit([Put(resource=service("in-doubt"))])
    monkeypatch.undo()
    assert store.revision == 0
    with pytest.raises(ConflictError):
        await store.commit([Put(resource=service("rival"))], expect=0)
    await store.commit([Put(resource=service("next"))])
    watch = store.watch(after=0)
    assert [(await anext(watch)).entries[0].ref.name for _ in range(2)] == ["in-doubt", "next"]
    await store.close()


async def test_one_impossible_commit_fails_alone(tmp_path: Path):
    store = await SqliteStore.open(tmp_path / "registry.db")
    broken = service("broken").model_copy(update={"spec": object()})
    good = [store.commit([Put(resource=service(f"s{n}"))]) for n in range(3)]
    results = await asyncio.gather(
        *good, store.commit([Put(resource=broken)]), store.commit([Put(resource=service("s9"))]), return_exceptions=True
    )
    assert [isinstance(result, Exception) for result in results] == [False, False, False, True, False]
    assert [entry.ref.name for entry in (await store.snapshot()).entries] == ["s0", "s1", "s2", "s9"]
    await store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from masche.model.ports import Put, StoreError
from masche.registry.sqlite import SqliteStore
from masche.testing.source import service

async def main(path):
    store = await SqliteStore.open(Path(path))
    for n in range(25):
        try:
            await store.commit([Put(resource=service(f"s{n}"))])
        except StoreError:
            print("refused", flush=True)
        else:
            print(f"s{n}", flush=True)
    await store.close()

try:
    asyncio.run(main(sys.argv[1]))
except StoreError as error:
    print("refused", flush=True)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "ftruncate", "openat"])
async def test_whatever_call_fails_nothing_acknowledged_is_lost_and_it_heals(tmp_path: Path, call: str, error: str):
    """Every third occurrence of a system call on the store fails, one run each; strace puts the fault in."""
    bitten = 0
    for first in range(1, 40, 3):
        path = tmp_path / str(first) / "registry.db"
        path.parent.mkdir()
        fault = f"inject={call}:error={error}:when={first}..{first + 2}"
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-P", f"{path}-wal", "-e", f"trace={call}"]
        done = await asyncio.to_thread(
            subprocess.run,
            [*trace, "-e", fault, sys.executable, "-c", WRITER, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout.split()
        bitten += "refused" in said
        store = await SqliteStore.open(path)
        stored = {entry.ref.name for entry in (await store.snapshot()).entries}
        assert set(said) - {"refused"} <= stored
        await store.commit([Put(resource=service("after"))])
        await store.close()
    assert bitten or call == "ftruncate", "the fault did not bite"
