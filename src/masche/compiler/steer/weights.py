"""From the cost of each instance to its weight: a slow or failing one gets less, but enough for recovery to be seen.

The weight aimed at is 100 x (best / own)^2: squared, because with two random choices a weight in mere proportion leaves
a slow instance most of its queue. A difference must exceed what chance would make of so few answers, twice, and last
for a while, unless it is plain. Weights move by bounded steps, stay between 1 and 100, and whoever is not asked at all
drifts back. For the sake of slow ones nobody gets more than ``most`` times an equal share (``relief``), and never more
than ten times: a few quick ones among many would not be quick for long. Pure.
"""

from collections.abc import Mapping, Sequence, Set
from math import ceil, sqrt
from typing import NamedTuple

FAIR, LEAST = 100, 1
"""Weights in percent of a fair share."""

MOST = 10
"""Nobody gets more than so many times an equal share of the calls."""

PROBE = 5
"""The weight, at most, of an instance whose ejection ended just now."""


class Apart(NamedTuple):
    """Who has a fair share loses it above ``noticeable`` times the best, and gets it back within ``alike`` times."""

    noticeable: float
    alike: float


IDLE, BUSY = Apart(1.6, 1.3), Apart(3.0, 1.8)
"""Where callers have calls under way with most instances, choosing by their number sees a slower one at once, and needs
no weight for it, which is late by seconds and would fill those that are quick now. Where calls are few it sees nothing.
"""

MARGIN_US = 300.0
"""Nobody loses it for less time than this."""

SURE = 2.0
"""Standard errors by which a difference must exceed chance, if values scatter as much as their mean."""

DOWN, PLAIN_DOWN, PLAIN = 2, 10, 5.0
"""A weight falls at most to a half in one step, and to a tenth when the cost is plainly so many times the best."""

GENTLY = 0.8
"""A weight falls at most to this part in one step while it is not plain: what became of it must be seen in time."""

UP, NEARLY, NEARLY_UP = 2.0, 25, 1.25
"""It at most doubles in one step, and grows by a quarter from there on: a load that comes back at once may hurt."""

DRIFT = 1.25
"""An unasked instance's weight grows by this factor in a step."""

STEP = 0.1
"""A weight that would move by no more than this share stays."""

FAULT = 20.0
"""An instance all of whose calls fail costs so many times more than one that answers."""

FAULTY = 0.05
"""An instance that fails more than the others by this share is not the best, however fast it fails."""

LASTING = 12.0
"""Seconds for which who is slow, but not plainly so, keeps what it has."""

NOBODY: Set[str] = frozenset()


class Reading(NamedTuple):
    """What is known of one instance: time per call, how many calls that is, their share of errors, and silence."""

    cost_us: float
    calls: int
    errors: float = 0.0
    is_silent: bool = False


class Weighed(NamedTuple):
    """The next weights, who takes so much longer than the best that it is worth one, and what those take, typically,
    that had a fair share (microseconds; 0.0 unknown).
    """

    weights: Mapping[str, int]
    slow: Set[str] = NOBODY
    others_us: float = 0.0


def weights(
    readings: Mapping[str, Reading],
    before: Mapping[str, int],
    *,
    lasting: Set[str] = NOBODY,
    most: float = MOST,
    is_held: bool = False,
    is_busy: bool = False,
) -> Weighed:
    """Return the next weights of instances that are compared with each other.

    ``lasting`` are those that have been slow for long enough to be relieved, ``most`` how many times an equal share
    others may get by that (1.0 and more). While it ``is_held`` nobody is relieved for being slow.
    """
    apart = BUSY if is_busy else IDLE
    if _is_alike(readings, before, apart):
        return Weighed(dict.fromkeys(readings, FAIR))
    known = _known(readings)
    made: dict[str, int] = {}
    slow: set[str] = set()
    for name in readings:
        was = before.get(name, FAIR)
        if name not in known.heard:
            made[name] = min(FAIR, ceil(was * DRIFT))
            continue
        wanted, is_plain = known.wanted(name, apart, was=was), known.is_plain(name)
        if wanted < FAIR and name in known.clean:
            slow.add(name)
            if is_held:
                wanted = FAIR
            elif not is_plain:
                wanted = max(wanted, int(was * GENTLY) if name in lasting else was)
        made[name] = _step(was, wanted, PLAIN_DOWN if is_plain else DOWN, UP if is_held else NEARLY_UP)
    spared = NOBODY if any(name in before for name in slow) else slow
    others = [known.costs[name] for name in known.clean if name not in before and name not in spared]
    return Weighed(_shared(made, slow, most), slow, typical(others))


class _Known(NamedTuple):
    """Those who were ``heard``, and what a call costs with each (microseconds); ``clean`` are those of them that fail
    no more than is usual. ``best`` is the least cost of these, ``doubted`` the least that it surely does not exceed.
    """

    heard: Mapping[str, Reading]
    costs: Mapping[str, float]
    clean: Mapping[str, Reading]
    best: float
    doubted: float

    def certain(self, name: str) -> float:
        """The part of a cost that chance would hardly exceed."""
        doubt = _doubt(self.heard[name])
        return self.costs[name] * max(1.0 - doubt, (1.0 + doubt) ** -2)

    def is_plain(self, name: str) -> bool:
        """Whether it costs plainly more than the best."""
        return self.best > 0.0 and self.certain(name) >= PLAIN * self.doubted

    def wanted(self, name: str, apart: Apart, *, was: int) -> int:
        """The weight to aim at."""
        own, best = self.costs[name], self.best
        if best <= 0.0:
            return FAIR
        is_fair = own <= best * apart.alike or own - best <= MARGIN_US / 2
        if was == FAIR:
            is_fair = self.certain(name) <= self.doubted * apart.noticeable or own - best <= MARGIN_US
        return FAIR if is_fair else max(LEAST, min(FAIR, round(FAIR * (best / own) ** 2)))


def _known(readings: Mapping[str, Reading]) -> _Known:
    heard = {name: each for name, each in readings.items() if each.calls and not each.is_silent}
    fault = _excess(heard)
    clean = {name: each for name, each in heard.items() if fault[name] < FAULTY}
    usual = typical([each.cost_us for each in clean.values()])
    return _Known(
        heard=heard,
        costs={name: _cost(each, fault[name], usual) for name, each in heard.items()},
        clean=clean,
        best=min((each.cost_us for each in clean.values()), default=0.0),
        doubted=min((each.cost_us * (1.0 + _doubt(each)) for each in clean.values()), default=0.0),
    )


def _shared(made: Mapping[str, int], slow: Set[str], most: float) -> Mapping[str, int]:
    """Lift the least weights as far as it takes for a weight of 100 to be at most ``most`` times the mean for the sake
    of slow ones, and ``MOST`` times in any case.
    """
    return _lifted(_lifted(made, slow, most), made.keys(), MOST)


def _lifted(made: Mapping[str, int], names: Set[str], most: float) -> Mapping[str, int]:
    enough = FAIR * len(made) / most
    if not names or sum(made.values()) >= enough:
        return made
    rest = sum(weight for name, weight in made.items() if name not in names)
    low = [made[name] for name in names]
    floors = range(LEAST, FAIR)
    least = next((floor for floor in floors if rest + sum(max(each, floor) for each in low) >= enough), FAIR)
    return {name: max(weight, least) if name in names else weight for name, weight in made.items()}


def _is_alike(readings: Mapping[str, Reading], before: Mapping[str, int], apart: Apart) -> bool:
    """Whether it is plain that everybody has a fair share and keeps it: most instances, most of the time."""
    if before and not readings.keys().isdisjoint(before):
        return False
    costs = [cost for cost, calls, _, is_silent in readings.values() if calls and not is_silent]
    if not costs or any(each[2] for each in readings.values()):
        return not costs
    return max(costs) <= apart.noticeable * min(costs) or max(costs) - min(costs) <= MARGIN_US


def typical(values: Sequence[float]) -> float:
    """The lower median; 0.0 of nothing."""
    return sorted(values)[(len(values) - 1) // 2] if values else 0.0


def _excess(heard: Mapping[str, Reading]) -> dict[str, float]:
    """How much more of its calls each instance fails than is usual among them."""
    usual = typical([each.errors for each in heard.values()])
    return {
        name: max(0.0, each.errors - usual) * min(1.0, each.errors * each.calls / SURE) for name, each in heard.items()
    }


def _cost(reading: Reading, fault: float, usual: float) -> float:
    if fault < FAULTY:
        return reading.cost_us
    return max(reading.cost_us, usual, 1.0) * (1.0 + FAULT * fault)


def _doubt(reading: Reading) -> float:
    return SURE / sqrt(reading.calls)


def _step(was: int, wanted: int, down: int, nearly_up: float) -> int:
    if abs(wanted - was) <= STEP * was and wanted != FAIR:
        return was
    if wanted < was:
        return max(wanted, was // down, LEAST)
    return min(wanted, ceil(was * (UP if was < NEARLY else nearly_up)))
