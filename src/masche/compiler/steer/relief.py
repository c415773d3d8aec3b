"""Whether to relieve who is slow: only who stays slow, by as much as the others can take, and as long as it helps.

Who is slow may be slow because it has much to do, and then what it is spared makes the next ones slow. From outside the
two look alike, so that a relief is a trial: it may put a third more on the others, and more by and by while they do not
get slower; where they do it ends, and is not tried again for half a minute, after every further failure for twice as
long. An instance that is slow for some seconds only has come and gone by the time that a weight is in force. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

STRETCH, LONGEST_STRETCH, GROWTH = 1.33, 10.0, 1.1
"""Others are given so many times an equal share at first, at most, and so many times more with every look."""

WORSE, MARGIN_US = 1.5, 1000.0
"""Others that take so many times what they took before, and so much longer, have too much ..."""

AS_BEFORE = 1.15
"""... and those who take no more than this can take more."""

SETTLING = 0.05
"""The share of what others take now in what they are taken to have taken before: a load that rises by and by is not for
the relief to answer for.
"""

HOLD, LONGEST_HOLD = 30.0, 480.0
"""Seconds without relief after it made others slow, for the first time and at most."""

LAPSE = 120.0
"""Seconds after which it is forgotten that it did."""

NEVER = float("-inf")


@dataclass(slots=True)
class Relief:
    """Who of those that are compared with each other is slow, since when, and what relieving them did to the others."""

    stretch: float = STRETCH
    since: dict[str, float] = field(default_factory=dict[str, float])
    _before_us: float = 0.0
    _hold: float = HOLD
    _held_until: float = NEVER

    @property
    def is_still(self) -> bool:
        """Whether nobody is slow."""
        return not self.since

    def is_held(self, *, now: float) -> bool:
        """Whether nobody is to be relieved now, because it has only made others slow."""
        return now < self._held_until

    def lasting(self, seconds: float, *, now: float) -> frozenset[str]:
        """Who has been slow for so long."""
        return frozenset(name for name, since in self.since.items() if now - since >= seconds)

    def note(self, slow: Iterable[str], *, now: float) -> None:
        """Take who is slow now; who was not before is slow from now on."""
        self.since = {name: self.since.get(name, now) for name in slow}

    def look(self, others_us: float, *, is_relieved: bool, now: float) -> None:
        """See what became of the others, who take ``others_us`` (microseconds; 0.0: nobody knows), typically.

        ``is_relieved``: somebody is, by what was decided before this look.
        """
        if not is_relieved or not others_us:
            self._before_us, self.stretch = others_us, STRETCH
            if now - self._held_until > LAPSE:
                self._hold = HOLD
        elif not self._before_us:
            self._before_us = others_us
        elif others_us > WORSE * self._before_us + MARGIN_US:
            self._held_until, self._hold = now + self._hold, min(2 * self._hold, LONGEST_HOLD)
            self.since = {}
        else:
            if others_us <= AS_BEFORE * self._before_us + MARGIN_US:
                self.stretch = min(LONGEST_STRETCH, self.stretch * GROWTH)
            self._before_us += SETTLING * (others_us - self._before_us)
