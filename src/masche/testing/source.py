"""What every Source, Writer and Records must promise, as checks that raise AssertionError with a sentence.

``await check_source(make)`` runs all that apply; ``make()`` is an async context manager that gives a fresh, empty Rig.
The watch guarantees are etcd's: ordered, unique, reliable, atomic, resumable, and a bookmark (the revision) for each.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from masche.model.ports import (
    Change,
    CompactedError,
    ConflictError,
    Delete,
    Edit,
    Entry,
    Put,
    Records,
    Snapshot,
    Source,
    Writer,
)
from masche.model.refs import Ref
from masche.model.resources.core import Service, ServicePort, ServiceSpec
from masche.model.resources.meta import FrozenMap, ObjectMeta

PATIENCE = 20.0
"""Seconds after which a Change that was written and does not arrive counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """One Source under test and the ways to provoke it.

    ``commit`` writes edits, by whatever means the Source has, and returns once they are visible. ``writer`` and
    ``records`` are None for a Source that only reads. ``reopen`` closes the Source and opens it again on the same data;
    None when nothing outlives it. ``keep`` is the number of revisions that its log is set to keep, 0 when that cannot
    be set.
    """

    source: Source
    commit: Callable[[Sequence[Edit]], Awaitable[object]]
    writer: Writer | None = None
    records: Records | None = None
    reopen: Callable[[], Awaitable["Rig"]] | None = None
    keep: int = 0


Make = Callable[[], AbstractAsyncContextManager[Rig]]


def service(name: str, *, label: str = "", port: int = 80) -> Service:
    """A small resource; a different ``label`` makes a different content."""
    return Service(
        metadata=ObjectMeta(name=name, namespace="checked", labels=FrozenMap({"label": label} if label else {})),
        spec=ServiceSpec(selector=FrozenMap({"app": name}), ports=(ServicePort(port=port),)),
    )


async def check_source(make: Make) -> None:
    """Run every check that applies to what ``make`` gives."""
    for check in (*SOURCE_CHECKS, *WRITER_CHECKS, *RECORDS_CHECKS):
        async with make() as rig:
            if (check in WRITER_CHECKS and not rig.writer) or (check in RECORDS_CHECKS and not rig.records):
                continue
            await check(rig)


async def _take(changes: AsyncIterator[Change], *, until: int) -> list[Change]:
    taken: list[Change] = []
    async with asyncio.timeout(PATIENCE):
        while not taken or taken[-1].revision < until:
            taken.append(await anext(changes))
    return taken


@asynccontextmanager
async def _watching(source: Source, *, after: int) -> AsyncGenerator[AsyncIterator[Change]]:
    changes = source.watch(after=after)
    if isinstance(changes, AsyncGenerator):
        async with aclosing(cast("AsyncGenerator[Change]", changes)):
            yield changes
    else:
        yield changes


async def _now(source: Source) -> int:
    return (await source.snapshot()).revision


def _world(entries: Sequence[Entry]) -> dict[Ref, Service]:
    return {entry.ref: cast("Service", entry.resource) for entry in entries}


def _replay(snapshot: Snapshot, changes: Sequence[Change]) -> dict[Ref, Service]:
    world = _world(snapshot.entries)
    for change in changes:
        world.update(_world(change.entries))
        for ref in change.deleted:
            world.pop(ref, None)
    return world


async def watches_are_ordered_unique_and_reliable(rig: Rig) -> None:
    """Every Change comes once, in rising revisions, to a watcher from the start and to one from the middle."""
    for n in range(20):
        await rig.commit([Put(resource=service(f"s{n % 5}", label=f"v{n}"))])
    middle = await _now(rig.source)
    async with _watching(rig.source, after=0) as early, _watching(rig.source, after=middle) as late:
        for n in range(20, 40):
            await rig.commit([Put(resource=service(f"s{n % 5}", label=f"v{n}"))])
        last = await _now(rig.source)
        all_of_them, second_half = await _take(early, until=last), await _take(late, until=last)
    revisions = [change.revision for change in all_of_them]
    assert revisions == sorted(set(revisions)), "revisions must rise, each once"
    labels = [entry.resource.metadata.labels["label"] for change in all_of_them for entry in change.entries]
    assert labels == [f"v{n}" for n in range(40)], f"a watcher from the start must see every write once, saw {labels}"
    assert second_half == [change for change in all_of_them if change.revision > middle], "both must see the same"


async def a_change_is_atomic(rig: Rig) -> None:
    """What was written together arrives together, and never half of it is in a snapshot."""
    await rig.commit([Put(resource=service(name, label="v0")) for name in ("a", "b", "c")])
    start = await rig.source.snapshot()
    assert {entry.ref.name for entry in start.entries} == {"a", "b", "c"}, "a snapshot holds all of a commit"
    async with _watching(rig.source, after=start.revision) as changes:
        edits = [Put(resource=service("a", label="v1")), Delete(ref=service("b").ref), Put(resource=service("d"))]
        await rig.commit(edits)
        (change,) = await _take(changes, until=start.revision + 1)
    assert {entry.ref.name for entry in change.entries} == {"a", "d"}, "one commit is one Change"
    assert [ref.name for ref in change.deleted] == ["b"], "deletions belong to the same Change"
    assert {entry.revision for entry in change.entries} == {change.revision}, "an Entry carries its Change's revision"


async def a_watch_resumes_from_any_revision(rig: Rig) -> None:
    """A snapshot of any revision plus the Changes after it is the present."""
    snapshots = [await rig.source.snapshot()]
    for n in range(12):
        edits: list[Edit] = [Put(resource=service(f"s{n % 4}", label=f"v{n}"))]
        if n % 3 == 2:
            edits.append(Delete(ref=service(f"s{(n + 1) % 4}").ref))
        await rig.commit(edits)
        snapshots.append(await rig.source.snapshot())
    present = _world(snapshots[-1].entries)
    for snapshot in snapshots[:-1]:
        async with _watching(rig.source, after=snapshot.revision) as changes:
            replayed = _replay(snapshot, await _take(changes, until=snapshots[-1].revision))
        assert replayed == present, f"resuming after {snapshot.revision} must lead to the present"


async def writing_the_same_again_is_no_change(rig: Rig) -> None:
    """An identical write makes no revision and wakes no watcher."""
    await rig.commit([Put(resource=service("a", label="v0"))])
    before = await rig.source.snapshot()
    await rig.commit([Put(resource=service("a", label="v0"))])
    assert await rig.source.snapshot() == before, "an identical write must not change anything"


async def many_watchers_see_the_same(rig: Rig) -> None:
    """Slow and quick watchers get the same Changes."""
    start = await _now(rig.source)

    async def watch(*, slowly: bool) -> list[Change]:
        seen: list[Change] = []
        async with _watching(rig.source, after=start) as changes:
            async for change in changes:
                seen.append(change)
                if slowly:
                    await asyncio.sleep(0)
                if any(entry.ref.name == "last" for entry in change.entries):
                    return seen
        return seen

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        watchers = [group.create_task(watch(slowly=bool(n % 2))) for n in range(8)]
        for n in range(30):
            await rig.commit([Put(resource=service("a", label=f"v{n}"))])
        await rig.commit([Put(resource=service("last"))])
    first, *others = [watcher.result() for watcher in watchers]
    assert all(other == first for other in others), "every watcher must see the same Changes"


async def a_watch_from_the_future_is_refused(rig: Rig) -> None:
    """Who saw more than the Source has must read a snapshot: the Source went back in time."""
    await rig.commit([Put(resource=service("a"))])
    ahead = await _now(rig.source) + 1000
    async with _watching(rig.source, after=ahead) as changes:
        try:
            async with asyncio.timeout(PATIENCE):
                await anext(changes)
        except CompactedError:
            return
    raise AssertionError("a watch after a revision that was never given out must raise CompactedError")


async def a_watch_resumes_after_reopening(rig: Rig) -> None:
    """A watcher that comes back after the Source was closed and opened misses nothing and sees nothing twice."""
    if rig.reopen is None:
        return
    before = await rig.source.snapshot()
    for n in range(5):
        await rig.commit([Put(resource=service("a", label=f"v{n}"))])
    written = await _now(rig.source)
    again = await rig.reopen()
    await again.commit([Put(resource=service("b"))])
    present = await again.source.snapshot()
    assert present.revision > written, "revisions must go on rising after reopening"
    async with _watching(again.source, after=before.revision) as changes:
        seen = await _take(changes, until=present.revision)
    assert [change.revision for change in seen] == sorted({change.revision for change in seen}), "in order, each once"
    assert _replay(before, seen) == _world(present.entries), "a resumed watch must lead to the present"


async def a_compacted_log_says_so(rig: Rig) -> None:
    """Resuming from before the log raises CompactedError; resuming within it works."""
    if not rig.keep:
        return
    start = await _now(rig.source)
    for n in range(rig.keep * 3):
        await rig.commit([Put(resource=service("a", label=f"v{n}"))])
    last = await _now(rig.source)
    async with _watching(rig.source, after=last - rig.keep) as changes:
        assert len(await _take(changes, until=last)) == rig.keep, "the log keeps what it was told to keep"
    async with _watching(rig.source, after=start) as changes:
        try:
            async with asyncio.timeout(PATIENCE):
                await anext(changes)
        except CompactedError:
            return
    raise AssertionError("a watch from before the log must raise CompactedError, not skip Changes")


def _writer(rig: Rig) -> Writer:
    assert rig.writer, "this check needs a Writer"
    return rig.writer


async def a_commit_with_a_stale_expectation_writes_nothing(rig: Rig) -> None:
    """Compare-and-set: the wrong revision raises ConflictError and changes nothing."""
    first = await _writer(rig).commit([Put(resource=service("a", label="v0"))])
    await _writer(rig).commit([Put(resource=service("a", label="v1"))], expect=first.revision)
    before = await rig.source.snapshot()
    try:
        await _writer(rig).commit([Put(resource=service("b")), Delete(ref=service("a").ref)], expect=first.revision)
    except ConflictError:
        assert await rig.source.snapshot() == before, "a refused commit must change nothing"
        return
    raise AssertionError("a stale expectation must raise ConflictError")


async def of_many_rivals_one_wins(rig: Rig) -> None:
    """Fifty writers that expect the same revision: one is accepted, in every round."""
    for round_ in range(5):
        expect = await _now(rig.source)

        async def rival(n: int, *, expect: int = expect, round_: int = round_) -> bool:
            try:
                await _writer(rig).commit([Put(resource=service("prize", label=f"r{round_}-{n}"))], expect=expect)
            except ConflictError:
                return False
            return True

        won = await asyncio.gather(*(rival(n) for n in range(50)))
        assert sum(won) == 1, f"{sum(won)} of 50 rivals were told that they had won"
        (prize,) = (await rig.source.snapshot()).entries
        assert prize.resource.metadata.labels["label"] == f"r{round_}-{won.index(True)}", "the winner's write stays"


async def concurrent_commits_each_have_their_revision(rig: Rig) -> None:
    """Commits that share a group are still separate, whole Changes, and an acknowledged one is in the next snapshot."""
    start = await _now(rig.source)
    made = await asyncio.gather(
        *(_writer(rig).commit([Put(resource=service(f"{n}-{half}")) for half in "ab"]) for n in range(200))
    )
    revisions = sorted(change.revision for change in made)
    assert revisions == list(range(start + 1, start + 201)), "each commit has its own revision, without gaps"
    assert len((await rig.source.snapshot()).entries) == 400, "all of them are stored"
    async with _watching(rig.source, after=start) as changes:
        seen = await _take(changes, until=revisions[-1])
    assert seen == sorted(made, key=lambda change: change.revision), "a watch yields what the commits returned"


async def the_time_of_creation_stays(rig: Rig) -> None:
    """The first write fills in creationTimestamp; an update keeps it, whatever it says."""
    first = await _writer(rig).commit([Put(resource=service("a", label="v0"))])
    created_at = first.entries[0].resource.metadata.creation_timestamp
    assert created_at, "the first write fills in the time of creation"
    other = service("a", label="v1").metadata.model_copy(update={"creation_timestamp": created_at + timedelta(days=1)})
    update = service("a").model_copy(update={"metadata": other})
    second = await _writer(rig).commit([Put(resource=update)])
    assert second.entries[0].resource.metadata.creation_timestamp == created_at, "an update keeps the time of creation"
    assert second.entries[0].created_revision == first.revision, "and the revision of creation"


async def the_last_edit_of_a_commit_wins(rig: Rig) -> None:
    """Putting and deleting the same resource in one commit leaves what the last edit says."""
    await _writer(rig).commit([Put(resource=service("a", label="v0"))])
    gone = service("a").ref
    change = await _writer(rig).commit([Delete(ref=gone), Put(resource=service("a", label="v1"))])
    assert [entry.ref for entry in change.entries] == [gone], "the last edit was a put"
    assert not change.deleted, "a resource is either put or deleted"
    change = await _writer(rig).commit([Put(resource=service("a", label="v2")), Delete(ref=gone)])
    assert change.deleted == (gone,), "the last edit was a deletion"
    assert not change.entries, "a resource is either put or deleted"
    nothing = await _writer(rig).commit([Delete(ref=gone)])
    assert nothing == Change(revision=change.revision), "deleting what is not there changes nothing"


def _records(rig: Rig) -> Records:
    assert rig.records, "this check needs Records"
    return rig.records


async def a_record_is_taken_exactly_once(rig: Rig) -> None:
    """Of 100 concurrent takers one gets the record; of 100 creators one makes it."""
    records = _records(rig)
    made = await asyncio.gather(*(records.create("tokens", "t", b"%d" % n) for n in range(100)))
    assert sum(made) == 1, f"{sum(made)} of 100 were told that they had created it"
    taken = await asyncio.gather(*(records.take("tokens", "t") for _ in range(100)))
    assert [value for value in taken if value is not None] == [b"%d" % made.index(True)], "exactly one gets it"
    assert await records.get("tokens", "t") is None, "it is gone"


async def records_are_private(rig: Rig) -> None:
    """Records never appear among the resources, make no revision, and buckets do not mix."""
    records, before = _records(rig), await rig.source.snapshot()
    await records.put("machines", "m1", b"\x00\xff")
    await records.put("machines", "m1", b"two")
    await records.put("serials", "m1", b"other")
    assert await records.list("machines") == {"m1": b"two"}, "a bucket holds its own records"
    assert await records.get("serials", "m1") == b"other", "a record is found by bucket and key"
    assert await records.list("none") == {}, "an unknown bucket is empty"
    assert await rig.source.snapshot() == before, "records are not resources"
    if rig.reopen:
        again = await rig.reopen()
        assert await _records(again).list("machines") == {"m1": b"two"}, "records outlive the process"


Check = Callable[[Rig], Awaitable[None]]

SOURCE_CHECKS: tuple[Check, ...] = (
    watches_are_ordered_unique_and_reliable,
    a_change_is_atomic,
    a_watch_resumes_from_any_revision,
    writing_the_same_again_is_no_change,
    many_watchers_see_the_same,
    a_watch_from_the_future_is_refused,
    a_watch_resumes_after_reopening,
    a_compacted_log_says_so,
)
WRITER_CHECKS: tuple[Check, ...] = (
    a_commit_with_a_stale_expectation_writes_nothing,
    of_many_rivals_one_wins,
    concurrent_commits_each_have_their_revision,
    the_time_of_creation_stays,
    the_last_edit_of_a_commit_wins,
)
RECORDS_CHECKS: tuple[Check, ...] = (a_record_is_taken_exactly_once, records_are_private)
