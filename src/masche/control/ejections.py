"""Which instances callers have cut off by themselves, as their proxies report it: each caller for itself.

Invariant: an ejection is held by a proxy that is here and says so again and again; when the proxy leaves, or is silent
about it, it ends. An endpoint that is idle and let in again is in no Report, so silence is all there may be.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from masche.control.words import Word
from masche.model.refs import Name, PortRef

Target = tuple[PortRef, Name]
"""An instance of a port."""

HELD = 10.0
"""Seconds for which a proxy's word holds; it repeats it with every Report, once a second."""


@dataclass(slots=True)
class Ejections:
    """By instance, the proxies that keep off it, each with the cause it gave ("" when it gave none)."""

    _held: dict[Target, dict[str, Word]] = field(default_factory=dict[Target, dict[str, Word]])

    def note(self, target: Target, proxy: str, *, is_ejected: bool, at: float, cause: str = "") -> bool:
        """A proxy says whether it keeps off an instance at this moment; return whether that is news."""
        before = self._held.get(target, {}).get(proxy)
        if is_ejected:
            known = before.cause if before else ""
            self._held.setdefault(target, {})[proxy] = Word(cause or known, at)
        elif before is not None:
            del self._held[target][proxy]
            if not self._held[target]:
                del self._held[target]
        return (before is not None) is not is_ejected

    def of(self, port: PortRef) -> tuple[Name, ...]:
        """The instances of a port that some caller keeps off."""
        return tuple(workload for held, workload in self._held if held == port)

    def reason(self, port: PortRef, workload: Name) -> str:
        """Who keeps off it, and why, as a sentence; "" when nobody does."""
        holders = self._held.get((port, workload))
        if not holders:
            return ""
        causes = sorted({word.cause for word in holders.values() if word.cause})
        callers = "1 caller has" if len(holders) == 1 else f"{len(holders)} callers have"
        return f"{callers} cut it off" + (f": {', '.join(causes)}" if causes else "")

    def by_caller(self) -> Iterator[tuple[PortRef, frozenset[str]]]:
        """For each proxy and port, all that it keeps off."""
        found: dict[tuple[str, PortRef], set[str]] = {}
        for (port, workload), holders in self._held.items():
            for proxy in holders:
                found.setdefault((proxy, port), set()).add(str(workload))
        for (_, port), cut in found.items():
            yield port, frozenset(cut)

    def keep_only(self, proxies: Container[str], workloads: Container[Name], *, now: float) -> None:
        """Forget proxies and instances that are gone, and what was not said again."""
        kept = {
            target: {proxy: word for proxy, word in holders.items() if proxy in proxies and now - word.at <= HELD}
            for target, holders in self._held.items()
            if target[1] in workloads
        }
        self._held = {target: holders for target, holders in kept.items() if holders}

    def __len__(self) -> int:
        return len(self._held)
