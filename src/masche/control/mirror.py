"""Keeps the store equal to a read-only Source: with ``masche up --static DIR`` the folder is the truth and the store
remembers it, so that everything else reads from one place.

Only what the folder once held is ever deleted; which that was is a private record, so a restart knows it too.
"""

import asyncio

import msgspec

from masche.model.ports import CompactedError, Delete, Edit, Put, Records, Source, StoreError, Writer
from masche.model.refs import Kind, Ref

BUCKET = "mirror"
KEY = "refs"
RETRY = 1.0


async def mirror(source: Source, writer: Writer, records: Records) -> None:
    """Copy ``source`` into ``writer`` for ever."""
    while True:
        try:
            snapshot = await source.snapshot()
            held = await _held(records)
            present = {entry.ref for entry in snapshot.entries}
            edits: list[Edit] = [Put(resource=entry.resource) for entry in snapshot.entries]
            await _commit(writer, records, edits + [Delete(ref=ref) for ref in held - present], held | present, present)
            async for change in source.watch(after=snapshot.revision):
                present = (present | {entry.ref for entry in change.entries}) - set(change.deleted)
                edits = [
                    *(Put(resource=entry.resource) for entry in change.entries),
                    *(Delete(ref=ref) for ref in change.deleted),
                ]
                await _commit(writer, records, edits, present | set(change.deleted), present)
        except (CompactedError, StoreError):
            await asyncio.sleep(RETRY)


async def _commit(writer: Writer, records: Records, edits: list[Edit], during: set[Ref], after: set[Ref]) -> None:
    """The record names what may be ours before it is written, and what is ours afterwards."""
    if not edits:
        return
    await _remember(records, during)
    await writer.commit(edits)
    await _remember(records, after)


async def _held(records: Records) -> set[Ref]:
    raw = await records.get(BUCKET, KEY)
    found = msgspec.json.decode(raw, type=list[tuple[str, str, str]]) if raw else []
    return {Ref(Kind(kind), namespace, name) for kind, namespace, name in found}


async def _remember(records: Records, refs: set[Ref]) -> None:
    rows = sorted((ref.kind.value, ref.namespace, ref.name) for ref in refs)
    await records.put(BUCKET, KEY, msgspec.json.encode(rows))
