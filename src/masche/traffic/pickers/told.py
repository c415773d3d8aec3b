"""The instance that has least to do by its own word, which came with an earlier answer; where none came, two choices.

A caller that is one of many sees little of an instance's load: its own calls. So instances say with their answers how
many requests they have under way (``orca``), as in Prequal (Wydrowski et al., "Load is not what you should balance",
NSDI 2024), and the lately heard are a pool from which the next call goes to the one with the least. Differences, each
measured in the simulation of antagonists: nobody is probed, for a caller of a few calls a second hears enough with its
answers, and probes would double the requests; each use of a word counts one more in it, instead of a limit of uses;
the best of the pool stands against one drawn by chance, which also wins when they are equal, so that the others stay
known and idle ones get equal shares, and it is dropped when it loses;
and what is said is multiplied by what this caller knows itself, the gauge's cost, instead of a latency that the
instance says: who fails fast, and so has nothing to do, attracts nobody. Latencies by the instances' word, per request
under way, made calls run to and fro.
Who says how much it bears and not how much it has to do (gRFC A58) is weighted so.
Invariant: nothing here waits or asks; without words it picks as its fallback does, at the same cost.
"""

from bisect import bisect_right
from collections.abc import Container
from operator import attrgetter

from masche.traffic.chance import Chance
from masche.traffic.membership import Endpoint
from masche.traffic.orca import LoadReport
from masche.traffic.pickers.borne import Borne
from masche.traffic.pickers.picker import NOBODY, Picker, Ready
from masche.traffic.pickers.two_choices import TwoChoices

_MEAN_STEP = 1 / 16
"""How far one word moves what is thought of those who did not say anything lately."""


class _Word:
    """What one instance said: its ``load`` in requests per capacity, of which one more is a ``step``."""

    __slots__ = ("at", "load", "place", "step")

    def __init__(self, place: int, step: float) -> None:
        self.place, self.step = place, step
        self.load = self.at = 0.0


_LOAD = attrgetter("load")


class Told:
    """``pool``: so many words are kept, of the latest heard; ``max_age``: for so many seconds one is of use."""

    __slots__ = ("_bear", "_fallback", "_max_age", "_mean", "_places", "_pool", "_ready", "_words")

    def __init__(self, fallback: Picker | None = None, *, pool: int = 16, max_age: float = 1.0) -> None:
        if pool < 1 or max_age <= 0:
            raise ValueError("room for one word at least, and max_age above 0")
        self._fallback: Picker = TwoChoices() if fallback is None else fallback
        self._pool, self._max_age = pool, max_age
        self._words: dict[str, _Word] = {}
        self._mean = -1.0
        self._ready = Ready((), (), ())
        self._places: dict[str, int] = {}
        self._bear: Borne | None = None

    def __repr__(self) -> str:
        weighted = f", {self._bear!r}" if self._bear else ""
        return f"<Told {len(self._words)} words at hand{weighted}>"

    def told(self, id: str, report: LoadReport, *, now: float) -> None:  # noqa: A002 - the id of an endpoint is called id
        """Take note of what an instance said with an answer. Only who was picked before can have said something."""
        if report.under_way >= 0:
            self._say(id, report.under_way, now)
        elif report.weight > 0:
            if self._bear is None:
                self._bear = Borne()
            self._bear.told(id, report.weight, now=now)

    def pick(
        self, ready: Ready, *, now: float, rng: Chance, key: int | None = None, exclude: Container[str] = NOBODY
    ) -> Endpoint | None:
        """Return who has least to do of those that said so lately, or of one drawn by chance; else the fallback's."""
        if self._bear is not None:
            ready = self._bear.weighted(ready, now=now)
        if ready is not self._ready:
            self._look(ready)
        words = self._words
        best = None
        if words and self._are_fresh(now):
            said = [each for id_, each in words.items() if id_ not in exclude] if exclude else words.values()
            best = min(said, key=_LOAD, default=None)
        if best is None:
            return self._fallback.pick(ready, now=now, rng=rng, key=key, exclude=exclude)
        place, drawn = best.place, _drawn(ready, rng)
        endpoints = ready.endpoints
        if drawn != place and endpoints[drawn].id not in exclude:
            gauges, capacities = ready.gauges, ready.capacities
            word = words.get(endpoints[drawn].id)
            load = self._mean if word is None else word.load
            ours = (best.load + 1.0) * gauges[place].cost(now=now, capacity=capacities[place])
            theirs = (load + 1.0) * gauges[drawn].cost(now=now, capacity=capacities[drawn])
            if theirs <= ours:
                if theirs < ours:
                    del words[endpoints[place].id]
                if word is not None:
                    word.load += word.step
                return endpoints[drawn]
        best.load += best.step
        return endpoints[place]

    def _say(self, id: str, under_way: float, now: float) -> None:  # noqa: A002 - as above
        word = self._words.pop(id, None)
        if word is None:
            place = self._places.get(id)
            if place is None:
                return
            word = _Word(place, 1.0 / self._ready.capacities[place])
            if len(self._words) >= self._pool:
                del self._words[next(iter(self._words))]
        word.load, word.at = under_way * word.step, now
        self._words[id] = word
        self._mean = word.load if self._mean < 0 else self._mean + (word.load - self._mean) * _MEAN_STEP

    def _are_fresh(self, now: float) -> bool:
        """Forget words that are too old; is one left?"""
        words, oldest = self._words, now - self._max_age
        while words:
            first = next(iter(words))
            if words[first].at > oldest:
                return True
            del words[first]
        return False

    def _look(self, ready: Ready) -> None:
        """Others may be called now, or with other shares: words of those who stay are of use for them as they were."""
        before, self._ready = self._words, ready
        self._places = {each.id: at for at, each in enumerate(ready.endpoints)}
        self._words = {}
        for id_, said in before.items():
            place = self._places.get(id_)
            if place is not None:
                step = 1.0 / ready.capacities[place]
                word = self._words[id_] = _Word(place, step)
                word.load, word.at = said.load / said.step * step, said.at


def _drawn(ready: Ready, rng: Chance) -> int:
    """The place of one by chance, by the shares."""
    if ready.cumulative:
        return min(bisect_right(ready.cumulative, rng.random()), len(ready.endpoints) - 1)
    return int(rng.random() * len(ready.endpoints))
