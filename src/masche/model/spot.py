"""A place in the data of one resource, and what a rule found there.

Rules read the data as it was written, through Spots that answer for what is absent or of the wrong type, so that every
rule can speak in the same pass in which the types are checked.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from masche.model.diagnostic import Severity
from masche.model.frozen import frozen

Path = tuple[str | int, ...]


@frozen
class Finding:
    """What is wrong at ``path``; codes that begin with ``invalid-`` mean that the standard itself refuses it."""

    path: Path
    code: str
    why: str
    fix: str
    severity: Severity = Severity.ERROR
    at_key: bool = False


Findings = Iterator[Finding]


@frozen(kw_only=False)
class Spot:
    """A value and its path. What is not there has the value None."""

    value: Any
    path: Path = ()

    def _fields(self) -> dict[str, Any]:
        value: object = self.value
        return cast("dict[str, Any]", value) if isinstance(value, dict) else {}

    def _items(self) -> list[Any]:
        value: object = self.value
        return cast("list[Any]", value) if isinstance(value, list) else []

    def __getitem__(self, key: str) -> "Spot":
        """The field ``key`` of a map."""
        return Spot(self._fields().get(key), (*self.path, key))

    def __iter__(self) -> Iterator["Spot"]:
        """The items of a list, or nothing."""
        return (Spot(item, (*self.path, index)) for index, item in enumerate(self._items()))

    def entries(self) -> Iterator[tuple[str, "Spot"]]:
        """The fields of a map, or nothing."""
        return ((key, Spot(item, (*self.path, key))) for key, item in self._fields().items())

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self[key].value is not None

    @property
    def is_there(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def is_map(self) -> bool:
        """Whether the value is a map."""
        return isinstance(self.value, dict)

    @property
    def is_empty(self) -> bool:
        """Whether it is an empty list or map."""
        return self.value in ([], {})

    @property
    def length(self) -> int:
        """How many items a list has; 0 when it is none."""
        return len(self._items())

    def text(self, default: str = "") -> str:
        """The value as text, or the default when it is absent or no text."""
        return self.value if isinstance(self.value, str) else default

    def number(self) -> int | None:
        """The value as an integer, or None."""
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None

    def invalid(self, why: str, fix: str, *, code: str = "invalid-combination") -> Finding:
        """The standard refuses this."""
        return Finding(path=self.path, code=code, why=why, fix=fix)

    def not_carried_out(self, what: str, fix: str) -> Finding:
        """The standard allows this and masche does not do it yet, so it is refused and never ignored."""
        return Finding(
            path=self.path, code="not-carried-out", why=f"{what} is not carried out yet", fix=fix, at_key=True
        )

    def ignored(self, why: str, fix: str) -> Finding:
        """It means nothing here and does no harm."""
        return Finding(path=self.path, code="ignored", why=why, fix=fix, severity=Severity.WARNING, at_key=True)


Rules = Callable[[Spot], Findings]
Judge = Callable[[Spot], Finding | None]
Beyond = Mapping[tuple[str, ...], Judge]
"""What a standard defines and our types leave out: a path (``*`` for every item) and what to say when it is there."""


def duplicates(spots: Iterator[Spot], key: Callable[[Spot], object]) -> Iterator[tuple[Spot, object]]:
    """Yield each Spot whose key was seen before, with that key. Keys that are None or ``""`` never count."""
    seen: set[object] = set()
    for spot in spots:
        name = key(spot)
        if name is None or name == "":
            continue
        if name in seen:
            yield spot, name
        seen.add(name)


def distinct(items: Spot, *fields: str) -> Findings:
    """Items of a list that Kubernetes keys by ``fields`` (by their value without any) must differ."""

    def key(item: Spot) -> object:
        if not fields:
            return item.value if isinstance(item.value, str | int) else None
        parts = tuple(part if isinstance(part := item[field].value, str | int) else None for field in fields)
        return None if None in parts else parts

    for item, found in duplicates(iter(items), key):
        parts = cast("tuple[object, ...]", found) if isinstance(found, tuple) else (found,)
        shown = ", ".join(str(part)[:80] for part in parts)
        yield item.invalid(f"Duplicate value: {shown!r}", "keep one of them", code="invalid-duplicate")
