"""Whether something is bad, decided so that it cannot flap: two thresholds, a time for each, and a longer one after
every relapse. Pure: the ratio and the time come from outside.
"""

from dataclasses import dataclass

BAD = 2.0
"""From this ratio on it is bad, if it lasts."""

STRONG = 3.0
"""From this ratio on nobody waits."""

BAD_FOR = 3.0
"""Seconds for which a weaker ratio must hold before it counts: as long as what costs are measured over, so that nothing
of what raised the suspicion is left."""

PLAIN = 6.0
"""From this ratio on it was bad beyond doubt ..."""

GOOD_FOR, GOOD_FOR_LONG = 2.0, 10.0
"""... so that two seconds of being well are enough, and ten otherwise, as for all that hovers at the threshold."""

RELAPSE, WELL = 60.0, 120.0
"""Seconds within which turning bad again is a relapse, and after which relapses are forgotten."""

WORST = 4
"""A return waits at most its time times two to this power."""


@dataclass(slots=True)
class Mark:
    """Bad from the ratio ``enter`` on, good again at ``leave`` or below; what lies between changes nothing.

    From the ratio ``plain`` on it was bad beyond doubt. ``is_patient`` is for what may feed back on itself, as a load
    does: then no ratio is so strong that nobody waits.
    """

    enter: float = BAD
    leave: float = 1.3
    plain: float = PLAIN
    is_bad: bool = False
    since: float = 0.0
    is_patient: bool = False
    _worst: float = 1.0
    _contrary_since: float | None = None
    _relapses: int = 0

    @property
    def is_still(self) -> bool:
        """Whether it is well, and nothing speaks against that."""
        return not self.is_bad and self._contrary_since is None

    def is_healed(self, *, now: float) -> bool:
        """Whether it was bad within the last minute."""
        return not self.is_bad and self.since > 0.0 and now - self.since <= RELAPSE

    def heard(self, ratio: float, *, now: float) -> bool:
        """Take a ratio, and say whether it changed the mark."""
        self._worst = max(self._worst, ratio)
        is_contrary = ratio <= self.leave if self.is_bad else ratio >= self.enter
        if not is_contrary:
            self._contrary_since = None
            return False
        if self._contrary_since is None:
            self._contrary_since = now
        if now - self._contrary_since < self._wait(ratio):
            return False
        self._turn(now=now)
        return True

    def _wait(self, ratio: float) -> float:
        if self.is_bad:
            return (GOOD_FOR if self._worst >= self.plain else GOOD_FOR_LONG) * 2**self._relapses
        return 0.0 if ratio >= STRONG and not self.is_patient else BAD_FOR

    def _turn(self, *, now: float) -> None:
        if not self.is_bad and self.since:
            good_for = now - self.since
            if good_for <= RELAPSE:
                self._relapses = min(WORST, self._relapses + 1)
            elif good_for > WELL:
                self._relapses = 0
        self.is_bad = not self.is_bad
        self._worst = 1.0
        self.since = now if self._contrary_since is None else self._contrary_since
        self._contrary_since = None
