"""The events of a YAML parser into plain data with the place of every value, under hard bounds.

It goes event by event, so that a document is refused at the first step over a bound, before anything is built: nothing
that a document contains can make the work grow faster than its length.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from masche.model.diagnostic import Diagnostic, Place
from masche.model.resolver import Scalar, ScalarError, checked, plain, tagged

MAX_DEPTH = 64
MAX_NODES = 50_000
MAX_REFUSALS = 100

_INTEGER_KEY = re.compile("0|[1-9][0-9]{0,18}", re.ASCII)
_COLLECTION_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(slots=True)
class Marks:
    """Where a value stands and where the values inside it stand; lines and columns count from 1."""

    line: int
    column: int
    key: tuple[int, int] | None = None
    inside: dict[str | int, "Marks"] | None = None


@dataclass(slots=True, kw_only=True)
class Document:
    """One document: its data, the place of each value, and whether the reading found nothing wrong."""

    file: str
    data: Any
    marks: Marks
    is_sound: bool

    def place(self, path: tuple[str | int, ...], *, at_key: bool = False) -> Place:
        """The place of the value at ``path``, or of the nearest value around it; ``at_key`` points at its name."""
        marks = self.marks
        for step in path:
            found = marks.inside.get(step) if marks.inside else None
            if found is None:
                break
            marks = found
        is_container = marks.inside is not None
        line, column = marks.key if marks.key and (at_key or is_container) else (marks.line, marks.column)
        return Place(file=self.file, line=line, column=column)


class BoundError(Exception):
    """A bound was passed: reading stops here for good."""

    def __init__(self, why: str, fix: str, place: Place) -> None:
        super().__init__(why)
        self.why, self.fix, self.place = why, fix, place


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that has begun and not ended."""

    data: dict[str, Any] | list[Any]
    marks: Marks
    anchor: str | None
    began_at: int
    key: str | None = None
    key_at: tuple[int, int] | None = None
    wants_value: bool = False


@dataclass(slots=True)
class Builder:
    """Builds the documents of one chunk of text that begins at ``first_line``; ``diagnostics`` says what it refuses."""

    file: str
    first_line: int
    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])
    stack: list[_Open] = field(default_factory=list[_Open])
    anchors: dict[str, tuple[Any, Marks, int]] = field(default_factory=dict[str, tuple[Any, Marks, int]])
    nodes: int = 0
    refusals: int = 0
    root: tuple[Any, Marks] | None = None

    def documents(self, events: Iterator[Event]) -> Iterator[Document]:
        """Yield each document as it ends. Raises BoundError, after which nothing more may be read."""
        found_before = 0
        for event in events:
            if isinstance(event, NodeEvent):
                self._node(event)
            elif isinstance(event, CollectionEndEvent):
                self._close()
            elif isinstance(event, DocumentStartEvent):
                self.stack, self.anchors, self.nodes, self.root = [], {}, 0, None
                found_before = len(self.diagnostics)
            elif isinstance(event, DocumentEndEvent) and self.root is not None:
                is_sound = len(self.diagnostics) == found_before
                yield Document(file=self.file, data=self.root[0], marks=self.root[1], is_sound=is_sound)

    def _node(self, event: NodeEvent) -> None:
        self._count(1, event)
        marks = Marks(*self._at(event))
        if isinstance(event, ScalarEvent):
            self._scalar(event, marks)
        elif isinstance(event, AliasEvent):
            self._alias(event, marks)
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            self._open(event, marks)

    def _count(self, nodes: int, event: Event) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise BoundError(
                f"the document has more than {MAX_NODES} values once its aliases are expanded",
                "split it into several documents and write repeated parts out less often",
                self._place(event),
            )

    def _scalar(self, event: ScalarEvent, marks: Marks) -> None:
        top = self.stack[-1] if self.stack else None
        if top and isinstance(top.data, dict) and not top.wants_value:
            self._key(event, top)
            return
        try:
            value = _resolve(event)
        except ScalarError as refused:
            self._refuse("invalid-scalar", refused.why, refused.fix, event)
            value = None
        self._put(value, marks)
        if event.anchor:
            self.anchors[event.anchor] = (value, marks, 1)

    def _key(self, event: ScalarEvent, top: _Open) -> None:
        top.wants_value, top.key_at = True, self._at(event)
        top.key = self._key_text(event)
        if top.key is not None and top.key in top.data:
            first = top.marks.inside[top.key] if top.marks.inside else None
            since = f" (first in line {first.key[0]})" if first and first.key else ""
            self._refuse(
                "invalid-duplicate-key", f"the key {top.key[:80]!r} stands twice{since}", "keep one of them", event
            )
            top.key = None

    def _key_text(self, event: ScalarEvent) -> str | None:
        if event.value == "<<" and not event.style:
            self._refuse("invalid-merge-key", "merge keys (<<) are refused", "write the fields out", event)
            return None
        if not event.style and _INTEGER_KEY.fullmatch(event.value):
            return event.value
        try:
            key = _resolve(event)
        except ScalarError as refused:
            self._refuse("invalid-scalar", refused.why, refused.fix, event)
            return None
        if isinstance(key, str):
            return key
        self._refuse(
            "invalid-key", f"the key {event.value[:80] or '(empty)'} is not text", "put it in quotation marks", event
        )
        return None

    def _alias(self, event: AliasEvent, marks: Marks) -> None:
        name = event.anchor or ""
        known = self.anchors.get(name)
        if known is None:
            why = "contains itself" if any(frame.anchor == name for frame in self.stack) else "was not defined before"
            self._refuse("invalid-alias", f"the alias *{name[:80]} {why}", "write the value out", event)
            known = (None, marks, 0)
        value, target, size = known
        self._count(size, event)
        top = self.stack[-1] if self.stack else None
        if top and isinstance(top.data, dict) and not top.wants_value:
            self._refuse("invalid-key", "an alias cannot be a key", "write the key out", event)
            top.wants_value, top.key = True, None
            return
        self._put(value, Marks(target.line, target.column, None, target.inside))

    def _open(self, event: MappingStartEvent | SequenceStartEvent, marks: Marks) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise BoundError(
                f"values are nested more than {MAX_DEPTH} deep", "flatten the document", self._place(event)
            )
        if event.tag and event.tag not in _COLLECTION_TAGS:
            self._refuse("invalid-tag", f"the tag {event.tag[:80]} is refused", "remove the tag", event)
        marks.inside = {}
        data: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
        top = self.stack[-1] if self.stack else None
        if top and isinstance(top.data, dict) and not top.wants_value:
            self._refuse("invalid-key", "a list or a map cannot be a key", "use text as the key", event)
            top.wants_value, top.key = True, None
        else:
            self._put(data, marks)
        self.stack.append(_Open(data, marks, event.anchor, self.nodes))

    def _close(self) -> None:
        done = self.stack.pop()
        if done.anchor:
            self.anchors[done.anchor] = (done.data, done.marks, self.nodes - done.began_at)

    def _put(self, value: Any, marks: Marks) -> None:
        if not self.stack:
            self.root = (value, marks)
            return
        top = self.stack[-1]
        inside = top.marks.inside if top.marks.inside is not None else {}
        if isinstance(top.data, list):
            inside[len(top.data)] = marks
            top.data.append(value)
            return
        if top.key is not None:
            marks.key = top.key_at
            inside[top.key] = marks
            top.data[top.key] = value
        top.key, top.wants_value = None, False

    def _at(self, event: Event) -> tuple[int, int]:
        mark = event.start_mark
        return (self.first_line + mark.line, mark.column + 1) if mark else (self.first_line, 1)

    def _place(self, event: Event) -> Place:
        line, column = self._at(event)
        return Place(file=self.file, line=line, column=column)

    def _refuse(self, code: str, why: str, fix: str, event: Event) -> None:
        self.refusals += 1
        if self.refusals > MAX_REFUSALS:
            raise BoundError(
                f"more than {MAX_REFUSALS} errors; reading stops", "correct those first", self._place(event)
            )
        self.diagnostics.append(Diagnostic(code=code, where=self.file, why=why, fix=fix, place=self._place(event)))


def _resolve(event: ScalarEvent) -> Scalar:
    if event.tag and event.tag != "!":
        return tagged(event.value, event.tag)
    return plain(event.value) if event.implicit[0] else checked(event.value)
