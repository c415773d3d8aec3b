"""Shared verdicts: an instance that one caller cut off is kept from the others, so that each need not find out itself.

A verdict is offered, not imposed: recent successes of other callers veto it, a caller that cuts off most of what it
calls is not believed, and at most the policy's share of a port's instances is ejected at once, never the last. It ends
by itself, with a few probing calls before readmission. Who was cut off for its slowness is let back in by quick answers
alone. Who *suffers*, that is, fails whatever it is asked by the word of its own agent, which asks it again and again,
needs neither accuser nor probing calls: it is off while that lasts, within the same bounds. One state machine per
instance: ADMITTED -> EJECTED (until) -> PROBING -> ADMITTED, or EJECTED again for longer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from masche.compiler.steer.laggards import Lag
from masche.compiler.steer.moves import Move, MoveKind
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.standing import Admission
from masche.compiler.steer.terrain import Ground
from masche.compiler.steer.voices import Voices
from masche.compiler.steer.words import duration
from masche.model.refs import PortRef

PROBED = 3
"""So many good answers readmit."""

FAILED = 2
"""So many failures, when good answers are no more, end the probing and make the next ejection longer."""

PATIENCE = 5.0
"""Seconds after which an instance that nobody probed is readmitted."""

SLOW_PERCENT = 10
"""So many of the healthy instances at most, and one in any case, are off at once for being slow: they carry a load."""

NOBODY: Mapping[str, str] = {}

LONGEST = 10
"""An ejection lasts at most so many times the policy's base time."""

DEAF = 2.0
"""For so many seconds after an instance's own agent had it back, callers who still keep off it do not accuse it."""

LAPSE = 60.0
"""Seconds without ejection after which the next one is as short as the first."""


@dataclass(slots=True)
class Verdict:
    """How one instance stands; ``until`` is the end of its ejection, and of the patience while it is probed.

    ``limit_us`` is the own time from which on an answer to a probe is bad (0.0: none is, however late). ``suffers``:
    it is off by the word of its own agent, ``since`` when.
    """

    state: Admission = Admission.ADMITTED
    until: float = 0.0
    times: int = 0
    reason: str = ""
    good: int = 0
    bad: int = 0
    limit_us: float = 0.0
    late_us: float = 0.0
    suffers: bool = False
    since: float = 0.0
    deaf_until: float = 0.0

    def is_well_again(self, base: float, *, now: float) -> bool:
        """Whether its agent's word is enough to have it back, whose ejections last ``base`` seconds at first: the first
        time at once, and later the more, so that who fails under load only does not come and go.
        """
        return now - self.since >= base * (min(2 ** (self.times - 1), LONGEST) - 1)

    def probed(self, seen: Seen, *, zone: str) -> None:
        """Count what callers of ``zone`` saw of it while it is probed."""
        own_us = seen.service_us or (seen.latency_us if seen.zone == zone and not seen.via else 0.0)
        is_late = 0.0 < self.limit_us <= own_us
        self.good += 0 if is_late else seen.answers
        self.bad += seen.errors + (seen.answers if is_late else 0)
        self.late_us = own_us if is_late else self.late_us

    @property
    def has_answered(self) -> bool:
        """Whether it was readmitted because its answers were good, and not because nobody asked it."""
        return self.suffers or self.good >= PROBED

    @property
    def is_bad(self) -> bool:
        """Whether the probes that came back say that it is not well again."""
        return self.bad >= FAILED and self.bad >= self.good

    @property
    def charge(self) -> str:
        """What they say of it."""
        return f"it still takes {duration(self.late_us)}" if self.late_us else "it still fails"


@dataclass(slots=True)
class Bench:
    """The verdicts on the instances of one port."""

    verdicts: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    _voices: Voices = field(default_factory=Voices)

    @property
    def is_still(self) -> bool:
        """Whether nobody is judged, or was of late."""
        return not self.verdicts

    # -- what is heard ----------------------------------------------------------------------------------------------

    def heard(self, seens: Sequence[Seen], *, zone: str, at: float) -> None:
        """Take what the callers of one zone saw in one interval."""
        self._voices.hear(seens, zone=zone, at=at)
        for seen in seens if self.verdicts else ():
            verdict = self.verdicts.get(seen.workload)
            if verdict and verdict.state is Admission.PROBING:
                verdict.probed(seen, zone=zone)

    def keep(self, present: frozenset[str], *, now: float) -> None:
        """Forget who is gone and what was said too long ago."""
        self._voices.keep(present, now=now)
        if self.verdicts:
            self.verdicts = {name: each for name, each in self.verdicts.items() if name in present}

    def is_calm(self, *, now: float) -> bool:
        """Whether nobody is judged, and no caller has cut anybody off of late."""
        return not self.verdicts and not self._voices.are_accusing(now=now)

    # -- what is decided --------------------------------------------------------------------------------------------

    def judge(
        self,
        port: PortRef,
        ground: Ground,
        slow: Mapping[str, Lag],
        *,
        suffering: Mapping[str, str] = NOBODY,
        limit_us: float = 0.0,
        now: float,
    ) -> tuple[Move, ...]:
        """Return the moves. ``slow`` are the instances that answer far later than the others, from ``limit_us`` on;
        ``suffering`` those that their own agents say to fail everybody, each with a clause.
        """
        if not self.verdicts and not slow and not suffering and not self._voices.are_accusing(now=now):
            return ()
        self._lapse(now=now)
        if not ground.traffic.outlier.consecutive_errors or suffering.keys() >= ground.healthy:
            suffering = NOBODY  # where all suffer it is the service that fails, and nobody gains by keeping off one
        reasons = self._reasons(port, ground, slow, suffering, now=now)
        for verdict in self.verdicts.values():
            verdict.limit_us = max(verdict.limit_us, limit_us) if verdict.limit_us else 0.0
        moves = [*self._settled(port, ground, reasons, suffering, now=now)]
        room, slow_room = self._room(ground), self._slow_room(ground)
        for name in self._worst_first(ground, reasons):
            is_slow = name in slow and name not in suffering
            if not room or (is_slow and not slow_room):
                continue
            room, slow_room = room - 1, slow_room - is_slow
            moves.append(self._eject(name, reasons[name], ground, suffers=name in suffering, now=now))
            self.verdicts[name].limit_us = slow[name].limit_us if name in slow else 0.0
        return tuple(moves)

    def _reasons(
        self, port: PortRef, ground: Ground, slow: Mapping[str, Lag], suffering: Mapping[str, str], *, now: float
    ) -> dict[str, str]:
        """Who should be off, each with a clause that says why. Where more suffer than may be off, the service fails,
        and not they.
        """
        reasons = {name: f"it answers {port} {lag.why}" for name, lag in slow.items()}
        for name, why in self._voices.accused(ground.sites) if ground.traffic.outlier.consecutive_errors else ():
            if (verdict := self.verdicts.get(name)) is None or now >= verdict.deaf_until:
                reasons[name] = why
        return {**reasons, **suffering} if len(suffering) <= _allowed(ground) else reasons

    def _lapse(self, *, now: float) -> None:
        """An instance that was well for long has no record."""
        done = [
            name
            for name, each in self.verdicts.items()
            if each.state is Admission.ADMITTED and now - each.until > LAPSE
        ]
        for name in done:
            del self.verdicts[name]

    def _settled(
        self, port: PortRef, ground: Ground, reasons: Mapping[str, str], suffering: Mapping[str, str], *, now: float
    ) -> Iterator[Move]:
        """Move on the verdicts whose time has come."""
        for name, verdict in sorted(self.verdicts.items()):
            match verdict.state:
                case Admission.ADMITTED:
                    continue
                case Admission.EJECTED:
                    verdict.suffers |= name in suffering
                    if name in suffering:
                        verdict.until, verdict.reason = (
                            max(verdict.until, now + ground.traffic.outlier.base_ejection),
                            suffering[name],
                        )
                    elif verdict.suffers:
                        if verdict.is_well_again(ground.traffic.outlier.base_ejection, now=now):
                            self._voices.forget(name, now=now)
                            verdict.deaf_until = now + DEAF
                            yield _readmit(name, verdict, port, now=now)
                    elif now >= verdict.until:
                        yield self._probe(name, verdict, port, now=now)
                case Admission.PROBING:
                    is_over = now >= verdict.until and verdict.bad > verdict.good
                    if name in reasons or verdict.is_bad or is_over:
                        why = reasons.get(name, verdict.charge)
                        yield self._eject(name, why, ground, suffers=name in suffering, now=now)
                    elif verdict.good >= PROBED or now >= verdict.until:
                        yield _readmit(name, verdict, port, now=now)
                case _:
                    assert_never(verdict.state)

    def _probe(self, name: str, verdict: Verdict, port: PortRef, *, now: float) -> Move:
        verdict.state, verdict.until, verdict.good, verdict.bad = Admission.PROBING, now + PATIENCE, 0, 0
        verdict.late_us = 0.0
        self._voices.forget(name, now=now)
        return Move(kind=MoveKind.PROBING, about=name, sentence=f"{name} is probed: its time off {port} is served")

    def _room(self, ground: Ground) -> int:
        """How many more may be ejected. Who is probed may be off again at any moment, and keeps its place."""
        off = sum(each.state is not Admission.ADMITTED for each in self.verdicts.values())
        return max(0, _allowed(ground) - off)

    def _slow_room(self, ground: Ground) -> int:
        """How many more may be ejected for being slow."""
        healthy = sum(site.is_healthy for site in ground.sites)
        return max(0, max(1, healthy * SLOW_PERCENT // 100) - len(self.slow))

    def _worst_first(self, ground: Ground, reasons: Mapping[str, str]) -> list[str]:
        """Those that may be ejected now, most accused first."""
        candidates = [
            site.workload
            for site in ground.sites
            if site.is_healthy and site.workload in reasons and self.state(site.workload) is Admission.ADMITTED
        ]
        return sorted(candidates, key=lambda name: (-self._voices.against(name), name))

    def _eject(self, name: str, why: str, ground: Ground, *, suffers: bool, now: float) -> Move:
        verdict = self.verdicts.setdefault(name, Verdict())
        verdict.suffers, verdict.since = suffers, now
        verdict.times = min(verdict.times + 1, LONGEST)
        seconds = ground.traffic.outlier.base_ejection * verdict.times
        verdict.state, verdict.until, verdict.reason = Admission.EJECTED, now + seconds, why
        self._voices.forget(name, now=now)
        how_long = "until it answers again" if suffers else f"for {seconds:g} s"
        sentence = f"{name} is taken off {how_long}, because {why}"
        return Move(kind=MoveKind.EJECTED, severity="warning", about=name, sentence=sentence)

    # -- what is asked ----------------------------------------------------------------------------------------------

    def state(self, name: str) -> Admission:
        """How an instance stands."""
        verdict = self.verdicts.get(name)
        return verdict.state if verdict else Admission.ADMITTED

    @property
    def ejected(self) -> frozenset[str]:
        """Who takes no calls now."""
        return frozenset(name for name, each in self.verdicts.items() if each.state is Admission.EJECTED)

    @property
    def slow(self) -> frozenset[str]:
        """Who takes no calls, or few, because it was slow."""
        return frozenset(
            name for name, each in self.verdicts.items() if each.limit_us and each.state is not Admission.ADMITTED
        )

    @property
    def probing(self) -> frozenset[str]:
        """Who takes a few calls now."""
        return frozenset(name for name, each in self.verdicts.items() if each.state is Admission.PROBING)


def _allowed(ground: Ground) -> int:
    """How many may be off at once: the policy's share of who is healthy, and never the last."""
    healthy = sum(site.is_healthy for site in ground.sites)
    return min(healthy * ground.traffic.outlier.max_ejected_percent // 100, healthy - 1)


def _readmit(name: str, verdict: Verdict, port: PortRef, *, now: float) -> Move:
    verdict.state, verdict.until, verdict.reason = Admission.ADMITTED, now, ""
    return Move(kind=MoveKind.READMITTED, about=name, sentence=f"{name} is back among the instances of {port}")
