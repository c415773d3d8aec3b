"""What was acknowledged is there after kill -9; what was not is whole or absent."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from masche.registry.sqlite import SqliteStore
from masche.registry.writer import Keep

WRITER = """
import asyncio, sys
from pathlib import Path
from masche.model.ports import Put
from masche.registry.sqlite import SqliteStore
from masche.registry.writer import Keep
from masche.testing.source import service

async def main(path, round_):
    store = await SqliteStore.open(Path(path), keep=Keep(revisions=1_000_000))

    async def caller(k):
        n = 0
        while True:
            label = f"{round_}.{n}"
            change = await store.commit([Put(resource=service(f"{half}{k}", label=label)) for half in "ab"])
            sys.stdout.write(f"{k} {label} {change.revision}\\n")
            sys.stdout.flush()
            n += 1

    await asyncio.gather(*(caller(k) for k in range(20)))

asyncio.run(main(*sys.argv[1:]))
"""


def write_until_killed(path: Path, round_: int, rng: random.Random) -> dict[str, tuple[str, int]]:
    """Run a writer, kill it at a random moment, and return what it acknowledged last for each key."""
    command = [sys.executable, "-c", WRITER, str(path), str(round_)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        lines = [child.stdout.readline()]  # it is up once it has acknowledged something
        time.sleep(rng.uniform(0, 0.08))  # the moment of the kill is the input of this test
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {key: (label, int(revision)) for key, label, revision in whole}


async def check_survivors(path: Path, acknowledged: dict[str, tuple[str, int]], *, above: int) -> int:
    """Everything acknowledged is there, no commit is half there, and the log leads to the present."""
    store = await SqliteStore.open(path, keep=Keep(revisions=1_000_000))
    snapshot = await store.snapshot()
    stored = {entry.ref.name: entry for entry in snapshot.entries}
    for key, (label, revision) in acknowledged.items():
        entry = stored[f"a{key}"]
        assert entry.revision >= revision, f"key {key}: revision {revision} was acknowledged, {entry.revision} is there"
        if entry.revision == revision:
            assert entry.resource.metadata.labels["label"] == label
    halves = {(name[1:], entry.revision, entry.resource.metadata.labels["label"]) for name, entry in stored.items()}
    assert len(halves) * 2 == len(stored), "both halves of every commit are there, or neither"
    last = above
    async for change in store.watch(after=above):
        assert change.revision == last + 1, "revisions rise by one, without a gap"
        assert len(change.entries) == 2
        last = change.revision
        if last == snapshot.revision:
            break
    await store.close()
    return last


async def survive(path: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    last = 0
    for round_ in range(kills):
        acknowledged = write_until_killed(path, round_, rng)
        last = await check_survivors(path, acknowledged, above=last)
    assert last > kills


@pytest.mark.timeout(300)
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path):
    await survive(tmp_path / "registry.db", kills=12, seed=time.time_ns() % 10_000)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_thousand_kills_lose_nothing_that_was_acknowledged(tmp_path: Path):
    await survive(tmp_path / "registry.db", kills=1000, seed=1)


def test_a_store_that_was_killed_while_it_was_made_can_be_made_again(tmp_path: Path):
    """The first statements of a new file are killed one by one; the next start finishes the work."""
    script = """
import os, signal, sqlite3, sys
from pathlib import Path
from masche.registry import schema

class Killer(sqlite3.Connection):
    left = 0
    def execute(self, *arguments):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(*arguments)

def make(path, statements):
    connection = sqlite3.connect(path, isolation_level=None, factory=Killer)
    connection.left = statements
    schema.prepare(connection, path)
    os._exit(0 if schema.meta(connection).keys() == {"epoch", "base", "floor", "cluster"} else 1)

for statements in range(40):
    child = os.fork()
    if not child:
        make(Path(sys.argv[1]), statements)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "registry.db")], capture_output=True, check=True
    )
    outcomes = [int(line) for line in done.stdout.split()]
    assert set(outcomes) == {-signal.SIGKILL, 0}
    assert outcomes == sorted(outcomes), "it is killed until it is left enough statements, and then it works for ever"
