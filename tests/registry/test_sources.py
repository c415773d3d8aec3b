"""Every store that we ship passes the checks that we ship."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from masche.registry.memory import MemoryStore
from masche.registry.sqlite import SqliteStore
from masche.registry.writer import Keep
from masche.testing.source import RECORDS_CHECKS, SOURCE_CHECKS, WRITER_CHECKS, Check, Rig, check_source

KEEP = 20


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncGenerator[Rig]:
    stores: list[SqliteStore] = []

    async def reopen() -> Rig:
        if stores:
            await stores[-1].close()
        stores.append(store := await SqliteStore.open(folder / "registry.db", keep=Keep(revisions=KEEP * 20)))
        return Rig(source=store, commit=store.commit, writer=store, records=store, reopen=reopen)

    yield await reopen()
    await stores[-1].close()


@asynccontextmanager
async def short_sqlite(folder: Path) -> AsyncGenerator[Rig]:
    store = await SqliteStore.open(folder / "registry.db", keep=Keep(revisions=KEEP))
    yield Rig(source=store, commit=store.commit, keep=KEEP)
    await store.close()


@asynccontextmanager
async def memory(folder: Path) -> AsyncGenerator[Rig]:
    store = MemoryStore(keep=200)
    yield Rig(source=store, commit=store.commit, writer=store, records=store)
    await store.close()


Maker = Callable[[Path], AbstractAsyncContextManager[Rig]]


@pytest.mark.parametrize("make", [sqlite, memory])
@pytest.mark.parametrize("check", [*SOURCE_CHECKS, *WRITER_CHECKS, *RECORDS_CHECKS])
async def test_a_store_keeps_every_promise(make: Maker, check: Check, tmp_path: Path):
    async with make(tmp_path) as rig:
        await check(rig)


async def test_a_store_with_a_short_log_says_what_it_forgot(tmp_path: Path):
    async with short_sqlite(tmp_path) as rig:
        await SOURCE_CHECKS[-1](rig)


async def test_check_source_runs_all_that_applies():
    made: list[Rig] = []

    @asynccontextmanager
    async def make() -> AsyncGenerator[Rig]:
        store = MemoryStore()
        made.append(Rig(source=store, commit=store.commit))
        yield made[-1]
        await store.close()

    await check_source(make)
    assert len(made) == len(SOURCE_CHECKS) + len(WRITER_CHECKS) + len(RECORDS_CHECKS)


async def test_check_source_finds_a_source_that_swallows_a_change():
    class Forgetful(MemoryStore):
        async def watch(self, *, after: int):
            async for change in super().watch(after=after):
                if change.revision != 7:
                    yield change

    @asynccontextmanager
    async def make() -> AsyncGenerator[Rig]:
        store = Forgetful()
        yield Rig(source=store, commit=store.commit)
        await store.close()

    with pytest.raises(AssertionError, match="every write once"):
        await check_source(make)
