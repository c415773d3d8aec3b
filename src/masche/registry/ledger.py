"""Decides what a commit changes, from what is stored and the edits asked for; it writes nothing itself.

Invariant: revisions rise by one with every Change; an edit that changes nothing is no Change.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from masche.model.mesh import Resource
from masche.model.ports import Change, ConflictError, Delete, Edit, Entry, Put, Snapshot
from masche.model.refs import Ref

Wall = Callable[[], datetime]
"""The time of day, with its zone: what goes into ``creationTimestamp``."""


def wall_clock() -> datetime:
    """The time of day in UTC, in whole seconds, as resources carry it."""
    return datetime.now(UTC).replace(microsecond=0)


class Ledger:
    """Every Entry at one revision, and the way back from what was applied since ``begin``."""

    def __init__(self, entries: Iterable[Entry] = (), *, revision: int = 0) -> None:
        self.revision = revision
        self._entries = {entry.ref: entry for entry in entries}
        self._undo: list[tuple[Ref, Entry | None]] = []
        self._begun_at = revision

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Ledger {len(self._entries)} resources at revision {self.revision}>"

    def snapshot(self) -> Snapshot:
        """Everything, as of the current revision."""
        return Snapshot(revision=self.revision, entries=tuple(self._entries.values()))

    def draft(self, edits: Sequence[Edit], *, expect: int | None, wall: Wall) -> Change:
        """Return what ``edits`` would change; the last edit of a resource wins.

        Raises ConflictError when ``expect`` is not the current revision.
        """
        if expect is not None and expect != self.revision:
            why = f"the store is at revision {self.revision}, not at {expect} as expected; read again and retry"
            raise ConflictError(why)
        wanted = _last_of_each(edits)
        entries = tuple(e for ref, resource in wanted.items() if resource and (e := self._entry(ref, resource, wall)))
        deleted = tuple(ref for ref, resource in wanted.items() if resource is None and ref in self._entries)
        changes = bool(entries or deleted)
        return Change(revision=self.revision + changes, entries=entries, deleted=deleted)

    def _entry(self, ref: Ref, resource: Resource, wall: Wall) -> Entry | None:
        old = self._entries.get(ref)
        created_at = old.resource.metadata.creation_timestamp if old else resource.metadata.creation_timestamp
        stamped = _stamp(resource, created_at or wall())
        if old and old.resource == stamped:
            return None
        revision = self.revision + 1
        return Entry(
            ref=ref, resource=stamped, revision=revision, created_revision=old.created_revision if old else revision
        )

    def apply(self, change: Change) -> None:
        """Make ``change`` the present."""
        for entry in change.entries:
            self._undo.append((entry.ref, self._entries.get(entry.ref)))
            self._entries[entry.ref] = entry
        for ref in change.deleted:
            self._undo.append((ref, self._entries.pop(ref, None)))
        self.revision = change.revision

    def begin(self) -> None:
        """Remember the present, so that ``rollback`` finds back to it."""
        self._undo.clear()
        self._begun_at = self.revision

    def rollback(self) -> None:
        """Forget everything applied since ``begin``."""
        while self._undo:
            ref, old = self._undo.pop()
            if old is None:
                self._entries.pop(ref, None)
            else:
                self._entries[ref] = old
        self.revision = self._begun_at


def _last_of_each(edits: Sequence[Edit]) -> dict[Ref, Resource | None]:
    wanted: dict[Ref, Resource | None] = {}
    for edit in edits:
        match edit:
            case Put(resource=resource):
                wanted.pop(resource.ref, None)
                wanted[resource.ref] = resource
            case Delete(ref=ref):
                wanted.pop(ref, None)
                wanted[ref] = None
    return wanted


def _stamp(resource: Resource, created_at: datetime) -> Resource:
    if resource.metadata.creation_timestamp == created_at:
        return resource
    metadata = resource.metadata.model_copy(update={"creation_timestamp": created_at})
    return resource.model_copy(update={"metadata": metadata})
