"""A folder of YAML as a Source: what its files say is the truth, and a broken file counts as it last was.

One scan of the folder is one revision. It is polled: a folder is small, a look costs microseconds per file, and unlike
inotify it also sees what arrives by a network mount, a bind mount or the exchanged symlink of a Kubernetes ConfigMap.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from masche.model.diagnostic import Diagnostic
from masche.model.mesh import Resource
from masche.model.ports import Change, CompactedError, Delete, Edit, Put, Snapshot, StoreError
from masche.model.refs import Ref
from masche.model.yaml import load
from masche.registry.ledger import Ledger, Wall, wall_clock

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
LOG = 1000

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What a file said when it was last right, and what is to be said about it as it is now."""

    stamp: Stamp
    resources: tuple[Resource, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


class StaticSource:
    """The resources in ``folder`` and the folders below it, hidden ones left out; it only reads.

    The folder is looked at every ``interval`` seconds while somebody watches. A file that changed less than ``settle``
    seconds ago may be half written and is read at the next look.
    """

    def __init__(self, folder: Path, *, interval: float = 0.5, settle: float = 0.1, wall: Wall = wall_clock) -> None:
        self.folder = folder
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self._interval = interval
        self._settle = settle
        self._wall = wall
        self._files: dict[Path, _File] = {}
        self._ledger = Ledger()
        self._log = deque[Change](maxlen=LOG)
        self._scanning = asyncio.Lock()
        self._scanned_at = float("-inf")
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<StaticSource {self.folder}: {len(self._ledger)} resources in {len(self._files)} files>"

    async def snapshot(self) -> Snapshot:
        """Everything that the folder says now. Raises StoreError when there is no such folder to read."""
        await self.refresh()
        return self._ledger.snapshot()

    async def watch(self, *, after: int) -> AsyncIterator[Change]:
        """Yield every Change above ``after``, as Source.watch says; ends when the source is closed."""
        while True:
            for change in self._since(after):
                yield change
                after = change.revision
            if self._closed.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._closed.wait()
            with suppress(StoreError):  # a folder that went away leaves its last good content; diagnostics say so
                await self.refresh(younger_than=self._interval)

    async def close(self) -> None:
        """End every watch."""
        self._closed.set()

    async def refresh(self, *, younger_than: float = 0.0) -> None:
        """Look at the folder now, unless somebody did less than ``younger_than`` seconds ago.

        Raises StoreError when the folder cannot be read; what it said last stays.
        """
        async with self._scanning:
            if time.monotonic() - self._scanned_at < younger_than:
                return
            try:
                files = await asyncio.to_thread(self._scan)
            except OSError as error:
                self.diagnostics = (_unreadable(self.folder, error),)
                raise StoreError(f"cannot read the folder {self.folder}: {error}") from error
            self._scanned_at = time.monotonic()
            self._accept(files)

    def _since(self, after: int) -> tuple[Change, ...]:
        if after > self._ledger.revision or (self._log and after < self._log[0].revision - 1):
            raise CompactedError(
                f"this source does not remember revision {after}; read a snapshot and watch from there"
            )
        return tuple(change for change in self._log if change.revision > after)

    def _scan(self) -> dict[Path, _File]:
        os.listdir(self.folder)  # noqa: PTH208 - raises when the folder is gone; rglob would call it empty
        now = time.time()
        return {path: file for path in _paths(self.folder) if (file := self._read(path, now))}

    def _read(self, path: Path, now: float) -> _File | None:
        last = self._files.get(path)
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if last and (last.stamp == stamp or abs(now - status.st_mtime) < self._settle):
                return last
            loaded = load(path.read_bytes(), file=str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            kept = last.resources if last else ()
            return _File(stamp=(0, 0, 0), resources=kept, diagnostics=(_unreadable(path, error),))
        resources = loaded.resources if not loaded.errors else last.resources if last else ()
        return _File(stamp=stamp, resources=resources, diagnostics=loaded.diagnostics)

    def _accept(self, files: dict[Path, _File]) -> None:
        self._files = files
        wanted, doubles = _united(files)
        self.diagnostics = (*chain.from_iterable(file.diagnostics for file in files.values()), *doubles)
        present = {entry.ref for entry in self._ledger.snapshot().entries}
        edits: list[Edit] = [Put(resource=resource) for resource in wanted.values()]
        edits += [Delete(ref=ref) for ref in sorted(present - wanted.keys())]
        change = self._ledger.draft(edits, expect=None, wall=self._wall)
        if change.revision > self._ledger.revision:
            self._ledger.apply(change)
            self._ledger.begin()
            self._log.append(change)


def _paths(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and not is_hidden and path.is_file():
            yield path


def _united(files: Mapping[Path, _File]) -> tuple[dict[Ref, Resource], list[Diagnostic]]:
    """The resources of all files; of a resource that stands in two, the first file's."""
    wanted: dict[Ref, Resource] = {}
    where: dict[Ref, Path] = {}
    doubles: list[Diagnostic] = []
    for path, file in files.items():
        for resource in file.resources:
            ref = resource.ref
            if ref in wanted:
                why = f"it stands in {where[ref]} and in {path}; the first one counts"
                doubles.append(
                    Diagnostic(code="invalid-duplicate", where=str(ref), why=why, fix="remove one of them", ref=ref)
                )
            else:
                wanted[ref], where[ref] = resource, path
    return wanted, doubles


def _unreadable(path: Path, error: OSError) -> Diagnostic:
    why = f"it cannot be read ({error.strerror}); what it said last counts"
    return Diagnostic(code="unreadable-file", where=str(path), why=why, fix="give the control plane leave to read it")
