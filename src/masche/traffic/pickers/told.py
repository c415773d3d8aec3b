"""The instance that has least to do by its own word: some are asked beside each call, the next call goes by that.

A caller that is one of many sees little of an instance's load: its own calls. So instances are asked how many calls
they have under way, as in Prequal (Wydrowski et al., "Load is not what you should balance", NSDI 2024): beside the
calls, so that no call waits for an answer, and more than one per call, so that there is a choice (Mitzenmacher 2001).
Differences, each measured in the simulation of antagonists: an answer serves for one call, which makes thresholds of
hot and cold and removal of the worst needless; and it is multiplied by what this caller knows itself, the gauge's cost,
so that an instance which fails fast, and so has nothing to do, attracts nobody.
Invariant: with fewer than two usable answers it picks as its fallback does; nothing here ever waits.
"""

from collections.abc import Container, Sequence

from masche.traffic.chance import Chance
from masche.traffic.load import Gauge
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.picker import NOBODY, Picker, Ready
from masche.traffic.pickers.two_choices import TwoChoices


class _Word:
    """What one instance said."""

    __slots__ = ("at", "id", "under_way")

    def __init__(self, id: str, under_way: float, at: float) -> None:  # noqa: A002 - the id of an endpoint is called id
        self.id, self.under_way, self.at = id, under_way, at


class Told:
    """``per_call``: how many to ask beside each call, 2 or more; ``pool``: so many answers are kept, the newest;
    ``max_age``: for so many seconds one is of use.
    """

    __slots__ = ("_fallback", "_max_age", "_places", "_pool", "_ready", "_words", "per_call")

    def __init__(
        self, fallback: Picker | None = None, *, per_call: int = 2, pool: int = 8, max_age: float = 0.5
    ) -> None:
        if per_call < 2 or pool < 2 or max_age <= 0:
            raise ValueError("a choice needs at least two answers per call and in the pool, and max_age above 0")
        self._fallback: Picker = TwoChoices() if fallback is None else fallback
        self.per_call, self._pool, self._max_age = per_call, pool, max_age
        self._words: list[_Word] = []
        self._ready: Ready | None = None
        self._places: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Told {len(self._words)} answers at hand>"

    def ask(self, endpoints: Sequence[Endpoint], *, rng: Chance) -> tuple[str, ...]:
        """Whom to ask beside the call at hand, by chance, each once: their ids."""
        left = [each.id for each in endpoints]
        drawn: list[str] = []
        for _ in range(min(self.per_call, len(left))):
            at = int(rng.random() * len(left))
            drawn.append(left[at])
            left[at] = left[-1]
            left.pop()
        return tuple(drawn)

    def told(self, id: str, under_way: float, *, now: float) -> None:  # noqa: A002 - the id of an endpoint is called id
        """An instance has said how many calls it has under way, waiting ones included; below 0 counts as 0."""
        self._words.append(_Word(id, max(0.0, under_way), now))
        del self._words[: -self._pool]

    def pick(
        self, ready: Ready, *, now: float, rng: Chance, key: int | None = None, exclude: Container[str] = NOBODY
    ) -> Endpoint | None:
        """Return who has least to do of those that said so lately, else whom the fallback picks."""
        if ready is not self._ready:
            self._ready, self._places = ready, {each.id: at for at, each in enumerate(ready.endpoints)}
        self._words = [each for each in self._words if now - each.at < self._max_age and each.id in self._places]
        usable = [each for each in self._words if each.id not in exclude]
        if len(usable) < 2:
            return self._fallback.pick(ready, now=now, rng=rng, key=key, exclude=exclude)
        best = min(usable, key=lambda each: self._cost(each, ready, now))
        self._words.remove(best)
        for each in self._words:
            each.under_way += each.id == best.id
        return ready.endpoints[self._places[best.id]]

    def _cost(self, word: _Word, ready: Ready, now: float) -> float:
        at = self._places[word.id]
        gauge: Gauge = ready.gauges[at]
        capacity = ready.capacities[at]
        return (word.under_way / capacity + 1.0) * gauge.cost(now=now, capacity=capacity)
