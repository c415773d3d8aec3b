"""What one proxy should hold: an immutable table of Blobs per type, shared by every proxy that is told the same.

A Table may offer a wildcard a part of it; the rest is there for whoever asks for it by name. It knows what makes it
different from the one before it, so that a change of one endpoint costs each of a thousand streams one look-up and not
a walk over everything they hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from masche.model.blob import Blob


class Table(Mapping[str, Blob]):
    """The Blobs of one type by name. Never changed after it was made; ``replaced`` makes the next one.

    ``offered`` are the names that a wildcard is answered with, None for all.
    """

    __slots__ = ("_blobs", "_compared", "offered")

    def __init__(self, blobs: Iterable[Blob] = (), *, offered: frozenset[str] | None = None) -> None:
        self._blobs = {blob.name: blob for blob in blobs}
        self.offered = offered
        self._compared: tuple[Table, frozenset[str]] | None = None

    @classmethod
    def joined(cls, tables: Iterable["Table"], *, offered: frozenset[str] | None = None) -> "Table":
        """All Blobs of these tables; of one name that of the last."""
        made = cls(offered=offered)
        for table in tables:
            made._blobs.update(table._blobs)
        return made

    def offers(self, name: str) -> bool:
        """Whether a proxy that asks for everything is given this name."""
        return name in self._blobs and (self.offered is None or name in self.offered)

    def replaced(self, *, put: Iterable[Blob] = (), removed: Iterable[str] = ()) -> "Table":
        """Return the next table. When nothing differs it is this one, so that nothing below runs."""
        after = dict(self._blobs)
        for name in removed:
            after.pop(name, None)
        after.update((blob.name, blob) for blob in put)
        table = Table(after.values(), offered=self.offered)
        return table if table.changed_since(self) else self

    def changed_since(self, before: "Table") -> frozenset[str]:
        """Return the names whose version differs from ``before``, or that only one of the two has or offers."""
        if before is self:
            return frozenset()
        if self._compared is None or self._compared[0] is not before:
            self._compared = (before, self._differences(before))
        return self._compared[1]

    def _differences(self, before: "Table") -> frozenset[str]:
        old, new = before._blobs, self._blobs
        gone = old.keys() - new.keys()
        changed = gone | {name for name, blob in new.items() if _differs(old.get(name), blob)}
        if self.offered != before.offered:
            changed |= {name for name in old.keys() & new.keys() if before.offers(name) != self.offers(name)}
        return frozenset(changed)

    def __getitem__(self, name: str) -> Blob:
        return self._blobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        return f"<Table {len(self)} resources>"


def _differs(old: Blob | None, new: Blob) -> bool:
    return old is not new and (old is None or old.version != new.version)


EMPTY = Table()


class Wanted(Mapping[str, Table]):
    """Everything one proxy should hold: a Table per type URL. A type that is not in it has no resources."""

    __slots__ = ("_tables",)

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = dict(tables)

    @classmethod
    def of(cls, blobs: Iterable[Blob]) -> "Wanted":
        """Sort Blobs of any type into their tables."""
        ordered = sorted(blobs, key=lambda blob: blob.type_url)
        return cls({kind: Table(group) for kind, group in groupby(ordered, key=lambda blob: blob.type_url)})

    def table(self, type_url: str) -> Table:
        """Return the Table of a type, empty when there is none."""
        return self._tables.get(type_url, EMPTY)

    def is_same(self, other: "Wanted") -> bool:
        """Whether a proxy that holds the one holds the other."""
        kinds = self._tables.keys() | other._tables.keys()
        return other is self or not any(self.table(kind).changed_since(other.table(kind)) for kind in kinds)

    def __getitem__(self, type_url: str) -> Table:
        return self._tables[type_url]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        kinds = (f"{len(table)} {kind.rpartition('.')[2]}" for kind, table in self._tables.items())
        return f"<Wanted {', '.join(kinds) or 'nothing'}>"
