"""Which instances callers have cut off by themselves, as their proxies report it: each caller for itself.

Invariant: an ejection is held by a proxy that is here; when the proxy leaves, its ejections leave with it.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from masche.model.refs import Name, PortRef

Target = tuple[PortRef, Name]
"""An instance of a port."""


@dataclass(slots=True)
class Ejections:
    """By instance, the proxies that keep off it, each with the cause it gave ("" when it gave none)."""

    _held: dict[Target, dict[str, str]] = field(default_factory=dict[Target, dict[str, str]])

    def note(self, target: Target, proxy: str, *, is_ejected: bool, cause: str = "") -> bool:
        """A proxy says whether it keeps off an instance now; return whether that is news."""
        holders = self._held.get(target, {})
        was_ejected = proxy in holders
        if is_ejected:
            self._held[target] = holders | {proxy: cause or holders.get(proxy, "")}
        elif was_ejected:
            self._held[target] = {other: why for other, why in holders.items() if other != proxy}
            if not self._held[target]:
                del self._held[target]
        return was_ejected is not is_ejected

    def of(self, port: PortRef) -> tuple[Name, ...]:
        """The instances of a port that some caller keeps off."""
        return tuple(workload for held, workload in self._held if held == port)

    def reason(self, port: PortRef, workload: Name) -> str:
        """Who keeps off it, and why, as a sentence; "" when nobody does."""
        holders = self._held.get((port, workload))
        if not holders:
            return ""
        causes = sorted({cause for cause in holders.values() if cause})
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

    def keep_only(self, proxies: Container[str], workloads: Container[Name]) -> None:
        """Forget proxies and instances that are gone."""
        kept = {
            target: {proxy: cause for proxy, cause in holders.items() if proxy in proxies}
            for target, holders in self._held.items()
            if target[1] in workloads
        }
        self._held = {target: holders for target, holders in kept.items() if holders}

    def __len__(self) -> int:
        return len(self._held)
