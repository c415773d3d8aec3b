"""What workloads called in the last day, which is what their like are given unasked when they may call very much.

Learned from Reports, by service account, so that all replicas share it; kept in one small file beside the registry.
Soft state: what is lost costs one first call that waits a few milliseconds. Nothing secret is in it, and it is bounded.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from masche.control.compilation import Habits
from masche.control.world import World
from masche.identity.files import write_private
from masche.link.messages import EdgeReport
from masche.model.refs import Name

FILE = "habits.json"
DAY = 86_400.0

PAIRS = 50_000
"""Of caller and callee, that are remembered: the latest."""

LOOK = 600.0
"""Seconds after which what is old is forgotten, and what is known written down, though nothing new was learned."""

SETTLING = 1.0
"""Seconds within which news are told and written together."""

_log = logging.getLogger("masche.control")

Pair = tuple[Name, Name]
_File = dict[str, dict[str, float]]
"""Unix seconds of the last call, by account and Service, both as ``namespace/name``."""


class Memory:
    """Who called whom, and when last. Pure but for what it is told of time (``at``, ``now``: Unix seconds)."""

    def __init__(self) -> None:
        self._last: dict[Pair, float] = {}
        self._habits: dict[Name, frozenset[Name]] = {}

    def __len__(self) -> int:
        return len(self._last)

    def note(self, account: Name, service: Name, *, at: float) -> bool:
        """Note a call; return whether it is news that this account calls this Service."""
        pair = (account, service)
        is_news = pair not in self._last
        self._last[pair] = max(at, self._last.get(pair, at))
        return is_news

    def forget(self, *, now: float) -> None:
        """Let go of what is a day old, and of the oldest beyond the bound."""
        kept = {pair: at for pair, at in self._last.items() if now - DAY < at}
        if len(kept) > PAIRS:
            newest = sorted(kept, key=kept.__getitem__)[-PAIRS:]
            kept = {pair: kept[pair] for pair in newest}
        self._last = kept

    def habits(self) -> Habits:
        """The Services by account. What is equal to before is the same object."""
        found: dict[Name, set[Name]] = {}
        for account, service in self._last:
            found.setdefault(account, set()).add(service)
        before = self._habits
        if found.keys() != before.keys() or any(before[account] != frozenset(some) for account, some in found.items()):
            self._habits = {account: _same(before.get(account), some) for account, some in found.items()}
        return self._habits

    def encode(self) -> bytes:
        """The whole, as it is kept on disk."""
        body: _File = {}
        for (account, service), at in self._last.items():
            body.setdefault(str(account), {})[str(service)] = round(at)
        return msgspec.json.encode(body)

    @classmethod
    def decode(cls, data: bytes) -> "Memory":
        """Read what ``encode`` wrote. Raises msgspec.DecodeError."""
        memory = cls()
        for account, services in msgspec.json.decode(data, type=_File).items():
            for service, at in services.items():
                memory.note(_name(account), _name(service), at=at)
        return memory


class HabitKeeper:
    """Keeps the Memory of one control plane, in a file, and gives the world what follows. ``wall`` is Unix seconds."""

    def __init__(self, world: World, file: Path, *, wall: Callable[[], float]) -> None:
        self._world = world
        self._file = file
        self._wall = wall
        self._memory = _read(file)
        self._memory.forget(now=wall())
        self._news = asyncio.Event()
        world.recall(self._memory.habits())

    def note(self, account: Name, edge: EdgeReport) -> None:
        """Hear what a workload of this account reports of one edge."""
        if edge.direction != "outbound" or edge.service is None or not (edge.codes or edge.connections):
            return
        if edge.service.owner not in self._world.mesh.services:
            return
        if self._memory.note(account, edge.service.owner, at=self._wall()):
            self._news.set()

    async def keep(self) -> None:
        """For ever: tell what is learned, forget what is old, and write both down."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._news.wait()
            await asyncio.sleep(SETTLING)
            self._news.clear()
            self._memory.forget(now=self._wall())
            try:
                self._world.recall(self._memory.habits())
            except Exception:  # noqa: BLE001 - what is only a convenience must not end what serves
                _log.exception("what workloads called lately is not given to them unasked")
            await asyncio.to_thread(self._write, self._memory.encode())

    def _write(self, data: bytes) -> None:
        try:
            write_private(self._file, data)
        except OSError as error:
            _log.warning("what is called by whom cannot be kept in %s: %s", self._file, error)


def _same(before: frozenset[Name] | None, after: Iterable[Name]) -> frozenset[Name]:
    found = frozenset(after)
    return before if before is not None and before == found else found


def _read(file: Path) -> Memory:
    """What was kept; nothing when there is no file, or none that can be read."""
    try:
        return Memory.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError):
        return Memory()


def _name(text: str) -> Name:
    namespace, _, name = text.rpartition("/")
    return Name(namespace, name)
