"""A folder of YAML: one scan is one revision, and a broken file counts as it last was."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from masche.model.ports import Delete, Edit, Put, StoreError
from masche.model.refs import Ref
from masche.model.yaml import dump
from masche.registry.static import StaticSource
from masche.testing.source import SOURCE_CHECKS, Check, Rig, service


@asynccontextmanager
async def folder_rig(folder: Path) -> AsyncGenerator[Rig]:
    source = StaticSource(folder, interval=0.01, settle=0)
    texts: dict[Ref, str] = {}

    async def commit(edits: Sequence[Edit]) -> None:
        for edit in edits:
            match edit:
                case Put(resource=resource):
                    texts[resource.ref] = dump(resource)
                case Delete(ref=ref):
                    texts.pop(ref, None)
        fresh = folder / ".all.yaml.new"
        fresh.write_text("---\n".join(texts.values()))
        fresh.rename(folder / "all.yaml")
        await source.refresh()

    await source.refresh()
    yield Rig(source=source, commit=commit)
    await source.close()


@pytest.mark.parametrize("check", SOURCE_CHECKS)
async def test_a_folder_is_a_source(check: Check, tmp_path: Path):
    async with folder_rig(tmp_path) as rig:
        await check(rig)


def write(folder: Path, name: str, *services: str, tail: str = "") -> None:
    """Write a file that is old enough to count as whole."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("---\n".join(dump(service(each)) for each in services) + tail)
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10_000_000_000))


async def names(source: StaticSource) -> set[str]:
    return {entry.ref.name for entry in (await source.snapshot()).entries}


async def test_files_come_change_and_go_without_being_asked(tmp_path: Path):
    source = StaticSource(tmp_path, interval=0.01)
    write(tmp_path, "a.yaml", "one", "two")
    snapshot = await source.snapshot()
    watch = source.watch(after=snapshot.revision)
    async with asyncio.timeout(10):
        write(tmp_path, "below/b.yml", "three")
        assert [entry.ref.name for entry in (await anext(watch)).entries] == ["three"]
        write(tmp_path, "a.yaml", "two")
        assert [ref.name for ref in (await anext(watch)).deleted] == ["one"]
        (tmp_path / "below" / "b.yml").unlink()
        assert [ref.name for ref in (await anext(watch)).deleted] == ["three"]
        await source.close()
        assert await anext(watch, None) is None


async def test_a_broken_file_keeps_its_last_good_content_and_says_what_is_wrong(tmp_path: Path):
    source = StaticSource(tmp_path)
    write(tmp_path, "a.yaml", "one", "two")
    write(tmp_path, "b.yaml", "three")
    assert await names(source) == {"one", "two", "three"}
    assert source.diagnostics == ()
    write(tmp_path, "a.yaml", "one", tail="---\napiVersion: v1\nkind: Service\nmetadata: {name: 5}\n")
    write(tmp_path, "b.yaml", "four")
    assert await names(source) == {"one", "two", "four"}
    assert source.diagnostics[0].place is not None
    assert source.diagnostics[0].place.file == str(tmp_path / "a.yaml")
    write(tmp_path, "a.yaml", "one")
    assert await names(source) == {"one", "four"}
    assert source.diagnostics == ()


async def test_a_file_that_is_broken_from_the_start_gives_nothing(tmp_path: Path):
    source = StaticSource(tmp_path)
    write(tmp_path, "a.yaml", "one", tail="---\n{")
    assert await names(source) == set()
    assert source.diagnostics


async def test_a_file_that_is_being_written_is_read_later(tmp_path: Path):
    source = StaticSource(tmp_path, settle=3600)
    write(tmp_path, "a.yaml", "one", "two")
    os.utime(tmp_path / "a.yaml")
    assert await names(source) == {"one", "two"}, "the first look takes what is there"
    (tmp_path / "a.yaml").write_text("")
    assert await names(source) == {"one", "two"}
    write(tmp_path, "a.yaml", "one")
    os.utime(tmp_path / "a.yaml", (0, 0))
    assert await names(source) == {"one"}


async def test_a_resource_in_two_files_counts_once_and_is_reported(tmp_path: Path):
    source = StaticSource(tmp_path)
    write(tmp_path, "a.yaml", "one")
    write(tmp_path, "b.yaml", "one", "two")
    assert await names(source) == {"one", "two"}
    (double,) = source.diagnostics
    assert double.code == "invalid-duplicate"
    assert double.where == "Service/checked/one"


async def test_a_folder_that_goes_away_does_not_empty_the_mesh(tmp_path: Path):
    folder = tmp_path / "mesh"
    write(folder, "a.yaml", "one")
    source = StaticSource(folder, interval=0.01)
    snapshot = await source.snapshot()
    watch = asyncio.ensure_future(anext(source.watch(after=snapshot.revision)))
    folder.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="cannot read the folder"):
        await source.snapshot()
    assert source.diagnostics[0].code == "unreadable-file"
    write(folder, "a.yaml", "one")
    write(folder, "b.yaml", "two")
    async with asyncio.timeout(10):
        change = await watch
    assert [entry.ref.name for entry in change.entries] == ["two"]
    assert change.deleted == ()


async def test_hidden_and_foreign_files_are_left_out(tmp_path: Path):
    for name in (".hidden.yaml", ".git/a.yaml", "notes.txt"):
        write(tmp_path, name, "no")
    assert await names(StaticSource(tmp_path)) == set()
