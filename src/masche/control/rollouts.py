"""How far each revision has come: which proxies it changed, and which of them serve it.

A revision is compiled together with others that were written in the same burst; its rollout is that of the
compilation that it went into. Pure: what a proxy acknowledged is told to it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from masche.xds.verdict import Rejection

KEPT = 4096
"""Compilations that are remembered; an older revision is answered as forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A resource that a proxy refuses, and the compilation that brought it."""

    rejection: Rejection
    revision: int


@dataclass(slots=True)
class Progress:
    """How far one proxy is.

    ``target`` is the last compilation that changed what it should hold, ``live`` the last one that it serves whole
    (but for what it refuses, which is in ``refusals`` by type and name).
    """

    target: int = 0
    live: int = -1
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict[tuple[str, str], Refusal])

    def heard(self, rejections: Iterable[Rejection]) -> tuple[Rejection, ...]:
        """Take what the proxy refuses now, whole; return what is new of it."""
        now: dict[tuple[str, str], Refusal] = {}
        fresh: list[Rejection] = []
        for rejection in rejections:
            key = (rejection.type_url, rejection.name)
            known = now.get(key) or self.refusals.get(key)
            if known is None or known.rejection.version != rejection.version:
                fresh.append(rejection)
                known = Refusal(rejection=rejection, revision=self.target)
            now[key] = known
        self.refusals = now
        return tuple(fresh)

    def refused_since(self, revision: int) -> tuple[Rejection, ...]:
        """What it refuses of this revision or a later one."""
        return tuple(each.rejection for each in self.refusals.values() if each.revision >= revision)


@dataclass(slots=True)
class Rollouts:
    """All compilations that are remembered, and the proxies that each changed."""

    compiled: int = -1
    _affected: "OrderedDict[int, frozenset[str]]" = field(default_factory=OrderedDict[int, frozenset[str]])

    def record(self, revision: int, affected: Iterable[str]) -> None:
        """A compilation up to and including ``revision`` changed what these proxies should hold."""
        self.compiled = max(self.compiled, revision)
        proxies = frozenset(affected) | self._affected.get(revision, frozenset())
        self._affected[revision] = proxies
        while len(self._affected) > KEPT:
            self._affected.popitem(last=False)

    def forgotten_up_to(self) -> int:
        """The last revision that nothing is known about any more (-1 when all are known)."""
        return next(iter(self._affected), 0) - 1 if len(self._affected) >= KEPT else -1

    def compilation_of(self, revision: int) -> int | None:
        """The compilation that ``revision`` went into, or None while it is not compiled."""
        if revision > self.compiled:
            return None
        return next((each for each in self._affected if each >= revision), self.compiled)

    def affected(self, compilation: int) -> frozenset[str]:
        """The proxies that a compilation changed."""
        return self._affected.get(compilation, frozenset())

    def forget_proxy(self, proxy: str) -> None:
        """A proxy left for good: no rollout waits for it or lists it as absent."""
        for revision, proxies in self._affected.items():
            if proxy in proxies:
                self._affected[revision] = proxies - {proxy}
