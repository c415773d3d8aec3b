"""What a proxy must hold that serves several workloads: the tables that each of them needs, joined.

Most of these tables are the same object, because most workloads may call the same. Invariant: joining costs what is
distinct, and a table that comes out as it was is the very same object as before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import is_

from masche.xds.wanted import Table, Wanted


@dataclass(frozen=True, slots=True)
class Union:
    """What a proxy must hold, and the tables that it was joined from, by type. The empty one holds nothing."""

    wanted: Wanted = field(default_factory=lambda: Wanted({}))
    sources: Mapping[str, tuple[Table, ...]] = field(default_factory=dict[str, tuple[Table, ...]])

    def joining(self, parts: Iterable[Wanted]) -> "Union":
        """The next one. Of one name the last part's Blob counts."""
        sources = _by_type(parts)
        tables = {kind: self._joined(kind, some) for kind, some in sorted(sources.items())}
        before = self.wanted
        is_same = tables.keys() == before.keys() and all(table is before.table(kind) for kind, table in tables.items())
        return Union(before if is_same else Wanted(tables), sources)

    def _joined(self, kind: str, tables: tuple[Table, ...]) -> Table:
        before = self.sources.get(kind, ())
        if len(before) == len(tables) and all(map(is_, before, tables)):
            return self.wanted.table(kind)
        filled = [table for table in tables if table]
        if len(filled) == 1:
            return filled[0]
        return same(Table.joined(filled, offered=_offered(filled)), self.wanted.table(kind))


def same(table: Table, before: Table) -> Table:
    """The table before if this one holds and offers the same, else this one."""
    return table if table.changed_since(before) or len(table) != len(before) else before


def _by_type(parts: Iterable[Wanted]) -> dict[str, tuple[Table, ...]]:
    """The distinct tables of each type, in the order in which they first come."""
    found: dict[str, dict[int, Table]] = {}
    for part in parts:
        for kind, table in part.items():
            found.setdefault(kind, {})[id(table)] = table
    return {kind: tuple(tables.values()) for kind, tables in found.items()}


def _offered(tables: list[Table]) -> frozenset[str] | None:
    """What all of these tables offer together: a name for which only some wait is offered."""
    if all(table.offered is None for table in tables):
        return None
    return frozenset[str]().union(*(table.keys() if table.offered is None else table.offered for table in tables))
