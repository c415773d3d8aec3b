"""From the cost of each instance to its weight: a slow or failing one gets less, but enough for recovery to be seen.

The weight aimed at is 100 x (best / own)^2: squared, because with two random choices a weight in mere proportion leaves
a slow instance most of its queue. A difference must exceed what chance would make of so few answers, twice; weights
move by bounded steps, stay between 1 and 100, and whoever is not asked at all drifts back. Nobody gets more than ten
times an equal share: a few quick ones among many would not be quick for long. Pure.
"""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import NamedTuple

FAIR, LEAST = 100, 1
"""Weights in percent of a fair share."""

MOST = 10
"""Nobody gets more than so many times an equal share of the calls."""

PROBE = 5
"""The weight of an instance whose ejection ended just now."""


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

SPARED = 25
"""While the others are crowded nobody is pushed below this weight."""


class Reading(NamedTuple):
    """What is known of one instance: time per call, how many calls that is, their share of errors, and silence."""

    cost_us: float
    calls: int
    errors: float = 0.0
    is_silent: bool = False


def weights(
    readings: Mapping[str, Reading], before: Mapping[str, int], *, is_crowded: bool = False, is_busy: bool = False
) -> Mapping[str, int]:
    """Return the next weights of instances that are compared with each other."""
    apart = BUSY if is_busy else IDLE
    if _is_alike(readings, before, apart):
        return dict.fromkeys(readings, FAIR)
    heard = {name: each for name, each in readings.items() if each.calls and not each.is_silent}
    fault = _excess(heard)
    usual = typical([each.cost_us for name, each in heard.items() if fault[name] < FAULTY])
    costs = {name: _cost(each, fault[name], usual) for name, each in heard.items()}
    clean = [name for name in heard if fault[name] < FAULTY]
    best = min((costs[name] for name in clean), default=0.0)
    doubted = min((costs[name] * (1.0 + _doubt(heard[name])) for name in clean), default=0.0)
    made: dict[str, int] = {}
    for name in readings:
        was = before.get(name, FAIR)
        if name in costs:
            certain = costs[name] * _certainty(heard[name])
            wanted = _wanted(costs[name], certain, apart, best=best, doubted=doubted, was=was)
            down = PLAIN_DOWN if best and certain >= PLAIN * doubted else DOWN
            made[name] = _spared(was) if is_crowded and wanted <= was else _step(was, wanted, down)
        else:
            made[name] = min(FAIR, ceil(was * DRIFT))
    return _shared(made)


def _shared(made: Mapping[str, int]) -> Mapping[str, int]:
    """Lift the least weights as far as it takes for a weight of 100 to be at most ``MOST`` times the mean."""
    enough = FAIR * len(made) / MOST
    floors = range(LEAST, FAIR // MOST + 1)
    least = next(floor for floor in floors if sum(max(weight, floor) for weight in made.values()) >= enough)
    return {name: max(weight, least) for name, weight in made.items()}


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


def _certainty(reading: Reading) -> float:
    """The part of a cost that chance would hardly exceed."""
    doubt = _doubt(reading)
    return max(1.0 - doubt, (1.0 + doubt) ** -2)


def _wanted(own: float, certain: float, apart: Apart, *, best: float, doubted: float, was: int) -> int:
    if best <= 0.0:
        return FAIR
    is_fair = own <= best * apart.alike or own - best <= MARGIN_US / 2
    if was == FAIR:
        is_fair = certain <= doubted * apart.noticeable or own - best <= MARGIN_US
    return FAIR if is_fair else max(LEAST, min(FAIR, round(FAIR * (best / own) ** 2)))


def _step(was: int, wanted: int, down: int) -> int:
    if abs(wanted - was) <= STEP * was and wanted != FAIR:
        return was
    if wanted < was:
        return max(wanted, was // down, LEAST)
    return min(wanted, ceil(was * (UP if was < NEARLY else NEARLY_UP)))


def _spared(was: int) -> int:
    """While the others have too much already, who was relieved takes some of it back."""
    return was if was >= SPARED else min(SPARED, ceil(was * DRIFT))
