"""Between which bounds everything lies that callers of one zone measured of a port, zone by zone.

A mean or a median lies between the least and the greatest of what it was made of. So where these are close together it
is known, without working anything out, that all instances are alike and no zone is worse than another. Invariant: the
bounds hold every row that a track still has; they may hold some that it has dropped.
"""

from collections import deque
from collections.abc import Iterator

LONGEST = 6
"""Of more intervals than this nothing is said: calls are so few that their times scatter anyway."""

LONG_AGO = float("-inf")


class Band:
    """The least and the greatest of some rows: ``own`` and ``extra`` times, and the greatest ``latency``, in us.

    ``total`` is the sum of own and extra times of ``count`` rows, ``own`` that of own times, and ``calls`` made them.
    """

    __slots__ = ("calls", "count", "extra_high", "extra_low", "latency", "own", "own_high", "own_low", "total")

    def __init__(self, calls: int, latency: float, own: float, extra: float) -> None:
        self.calls = calls
        self.latency = latency
        self.own_low = self.own_high = own
        self.extra_low = self.extra_high = extra
        self.own = own
        self.total = own + extra
        self.count = 1

    def add(self, calls: int, latency: float, own: float, extra: float) -> None:
        """Make it hold another row."""
        if own < self.own_low:
            self.own_low = own
        elif own > self.own_high:
            self.own_high = own
        if extra < self.extra_low:
            self.extra_low = extra
        elif extra > self.extra_high:
            self.extra_high = extra
        self.latency = max(self.latency, latency)
        self.calls += calls
        self.own += own
        self.total += own + extra
        self.count += 1


NOTHING = dict[str, Band]()


class Bounds:
    """What several Bands have in common."""

    __slots__ = ("extra_high", "extra_low", "latency", "own_high", "own_low")

    def __init__(self, bands: list[Band]) -> None:
        self.own_low = min([each.own_low for each in bands])
        self.own_high = max([each.own_high for each in bands])
        self.extra_low = min([each.extra_low for each in bands])
        self.extra_high = max([each.extra_high for each in bands])
        self.latency = max([each.latency for each in bands])

    def widen(self, band: Band) -> None:
        """Hold another Band."""
        self.own_low = min(self.own_low, band.own_low)
        self.own_high = max(self.own_high, band.own_high)
        self.extra_low = min(self.extra_low, band.extra_low)
        self.extra_high = max(self.extra_high, band.extra_high)
        self.latency = max(self.latency, band.latency)

    def costs(self, network_us: float, own_us: tuple[float, float] | None) -> tuple[float, float]:
        """Between what the mean cost of an instance lies where the network costs so much, and its own part is so."""
        low, high = own_us or (self.own_low, self.own_high)
        return low + self.extra_low + network_us, high + self.extra_high + network_us


class Bands:
    """Those of the last intervals, by zone. ``odd_at`` is when something came last that they do not hold.

    The bounds of all are widened by each interval, and drawn anew when they got too wide.
    """

    __slots__ = ("_bounds", "_entries", "odd_at", "oldest")

    def __init__(self) -> None:
        self._entries = deque[tuple[float, dict[str, Band]]]()
        self._bounds: dict[str, Bounds] = {}
        self.odd_at = self.oldest = LONG_AGO

    def add(self, bands: dict[str, Band], *, at: float) -> None:
        """Take an interval."""
        self._entries.append((at, bands))
        for zone, band in bands.items():
            if (bounds := self._bounds.get(zone)) is None:
                self._bounds[zone] = Bounds([band])
            else:
                bounds.widen(band)

    def trim(self, oldest: float) -> None:
        """Let go of what was taken before the ``oldest`` row that is left."""
        self.oldest = oldest
        entries = self._entries
        while entries and entries[0][0] < oldest:
            entries.popleft()

    def latest(self, *, now: float) -> dict[str, Band]:
        """Those of the interval that ended ``now``, if calls were heard of."""
        return self._entries[-1][1] if self._entries and self._entries[-1][0] == now else NOTHING

    @property
    def are_whole(self) -> bool:
        """Whether they hold everything, and enough was heard for them to be close."""
        return self.odd_at < self.oldest and 0 < len(self._entries) <= LONGEST

    @property
    def wide(self) -> dict[str, Bounds]:
        """The bounds by zone, of what was dropped lately as well."""
        return self._bounds

    @property
    def close(self) -> dict[str, Bounds]:
        """The bounds by zone, as close as they can be drawn."""
        zones = {zone for _, bands in self._entries for zone in bands}
        self._bounds = {zone: Bounds([*self._of(zone)]) for zone in zones}
        return self._bounds

    def _of(self, zone: str) -> Iterator[Band]:
        return (bands[zone] for _, bands in self._entries if zone in bands)
