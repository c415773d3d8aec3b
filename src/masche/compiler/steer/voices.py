"""What callers say of the instances of a port: whom they cut off, who answers them, and whom they accuse together.

A dead link between two zones looks from one of them like dead instances in the other. So zones have votes, not callers
alone: the callers of one zone speak with one voice, and nobody is accused who answers callers of his own zone, for
between these there is no link. A caller that is answered by any way, a detour for instance, accuses nobody.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from masche.compiler.steer.seen import Seen
from masche.compiler.steer.terrain import Site

HELD = 3.0
"""Seconds for which what a caller said counts."""

LONG_AGO = float("-inf")

BELIEVED = 0.5
"""A caller that has cut off more than this share of the instances it calls has a bad way itself."""

OUTVOTED = 3
"""So many callers of a zone against each one there that still succeeds make the zone accuse all the same, and so many
zones against each one whose callers succeed make a verdict."""


@dataclass(slots=True)
class _Voice:
    """What one caller of a zone said last of one instance: by each way whether it is cut off, and when."""

    zone: str
    at: float = float("-inf")
    answered_at: float = float("-inf")
    _ways: dict[str, tuple[float, bool]] = field(default_factory=dict[str, tuple[float, bool]])

    def hear(self, seen: Seen, *, at: float) -> None:
        said_at, was_cut_off = self._ways.get(seen.via, (at, False))
        self._ways[seen.via] = (at, seen.is_ejected or (said_at == at and was_cut_off))
        self.at = at
        if seen.answers > seen.errors:
            self.answered_at = at

    @property
    def is_cut_off(self) -> bool:
        """Whether this caller keeps off the instance by every way that it spoke of lately."""
        return all(is_cut_off for at, is_cut_off in self._ways.values() if self.at - at < HELD)


@dataclass(slots=True)
class Voices:
    """By instance, then by caller. While nobody accuses anybody, what is said is only kept, and looked into when the
    first accusation comes.
    """

    _voices: dict[str, dict[str, _Voice]] = field(default_factory=dict[str, dict[str, _Voice]])
    _said: deque[tuple[float, str, Sequence[Seen]]] = field(default_factory=deque[tuple[float, str, Sequence[Seen]]])
    _forgotten: dict[str, float] = field(default_factory=dict[str, float])
    _accused_at: float = float("-inf")

    def hear(self, seens: Sequence[Seen], *, zone: str, at: float) -> None:
        """Take what callers in ``zone`` saw in the interval that ended ``at``."""
        was_accusing = self.are_accusing(now=at)
        self._said.append((at, zone, seens))
        if any(seen.is_ejected for seen in seens):
            self._accused_at = at
        if was_accusing:
            self._take(seens, zone, at)
        elif self._accused_at == at:
            self._begin(at)

    def _begin(self, now: float) -> None:
        """Look into what was said of late."""
        self._voices = {}
        for at, zone, seens in self._said:
            if now - at < HELD:
                self._take([seen for seen in seens if at > self._forgotten.get(seen.workload, LONG_AGO)], zone, at)

    def _take(self, seens: Iterable[Seen], zone: str, at: float) -> None:
        for seen in seens:
            if (voices := self._voices.get(seen.workload)) is None:
                voices = self._voices[seen.workload] = {}
            if (voice := voices.get(seen.caller)) is None:
                voice = voices[seen.caller] = _Voice(zone)
            voice.hear(seen, at=at)

    def are_accusing(self, *, now: float) -> bool:
        """Whether any caller has cut anything off of late."""
        return now - self._accused_at < HELD

    def keep(self, present: frozenset[str], *, now: float) -> None:
        """Forget instances that are gone, and what was said too long ago."""
        while self._said and now - self._said[0][0] >= HELD:
            self._said.popleft()
        if not self.are_accusing(now=now):
            self._voices = {}
        if self._forgotten:
            self._forgotten = {name: at for name, at in self._forgotten.items() if now - at < HELD}
        if self._voices:
            fresh = (
                (name, {caller: voice for caller, voice in voices.items() if now - voice.at < HELD})
                for name, voices in self._voices.items()
                if name in present
            )
            self._voices = {name: voices for name, voices in fresh if voices}

    def forget(self, workload: str, *, now: float) -> None:
        """Forget what was said of an instance, because something else holds for it from now on."""
        self._voices.pop(workload, None)
        self._forgotten[workload] = now

    def against(self, workload: str) -> int:
        """How many callers have cut an instance off."""
        return sum(voice.is_cut_off for voice in self._voices.get(workload, {}).values())

    def accused(self, sites: Iterable[Site]) -> Iterator[tuple[str, str]]:
        """Yield the instances that callers of enough zones have cut off, each with a clause that says so."""
        believed = self._believed()
        for site in sites:
            voices = self._voices.get(site.workload, {})
            since = max((voice.at for voice in voices.values()), default=0.0) - HELD
            cut = Counter(each.zone for caller, each in voices.items() if each.is_cut_off and caller in believed)
            pleas = Counter(each.zone for each in voices.values() if not each.is_cut_off and each.answered_at > since)
            accusing = {zone for zone, count in cut.items() if count >= OUTVOTED * pleas[zone]}
            pleading = {zone for zone, count in pleas.items() if count and zone not in accusing}
            if accusing and site.zone not in pleading and len(accusing) >= OUTVOTED * len(pleading):
                yield site.workload, _clause(sum(cut[zone] for zone in accusing), pleas.total())

    def _believed(self) -> frozenset[str]:
        """The callers that have not cut off most of what they call; who calls one instance alone is believed."""
        called: dict[str, list[bool]] = {}
        for voices in self._voices.values():
            for caller, voice in voices.items():
                called.setdefault(caller, []).append(voice.is_cut_off)
        return frozenset(
            caller for caller, all_of in called.items() if len(all_of) == 1 or sum(all_of) <= BELIEVED * len(all_of)
        )


def _clause(against: int, pleading: int) -> str:
    callers = "a caller" if against == 1 else f"{against} callers"
    others = f"against {pleading} with answers from it" if pleading else "and nobody else has answers from it"
    return f"{callers} cut it off{',' if pleading else ''} {others}"
