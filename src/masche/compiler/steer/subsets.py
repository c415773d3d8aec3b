"""What callers that call few of many instances choose, and the weights with which these have even load all the same.

Each such caller (``loadBalancing.subsetting``; the library) chooses by its name alone (``traffic.subsetting.nearest``),
so nobody hands out places, but some instances are chosen by twice as many callers as others. Who steers knows all names
and so all choices: a weight per instance evens it out, and no connection moves for it. Invariant: the work of one look
is bounded, however many callers and instances there are, and nothing is published while what is in force is even.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from math import inf

from masche.model.vantage import Placement
from masche.traffic.subsetting import Nearest, draw, even_out, unevenness

FAIR, LEAST, MOST = 100, 1, 1000
"""Weights in percent of a fair share."""

HELD = 60.0
"""Seconds after its last call for which a caller counts."""

MOST_CHOSEN, MOST_EVENED = 20_000, 50_000
"""Pairs of caller and instance that are compared in one look, and those that are evened out, each in a round."""

EVEN, UNEVEN = 0.003, 0.015
"""Loads that differ by less than the one part are even; what is in force stays until they differ by the other."""

BETTER, HARDLY = 0.7, 0.9
"""What is not even yet is published when loads differ by no more than the one part of what they do now; when another
look leaves more than the other part of the difference, it is given up.
"""

_SUBSETTING = f"{Placement.LIBRARY}~"
"""What the names of proxies begin with that carry subsets out (``link.workloads.proxy_id``); all others call all."""


Choice = tuple[int, frozenset[str], frozenset[tuple[str, str]]]
"""The size of a subset, the callers, and the instances with their addresses."""

NOBODY: Choice = (0, frozenset(), frozenset())


@dataclass(slots=True)
class Subsets:
    """Of one Desk. ``weights`` are in force, by Workload; those that are fair are missing."""

    weights: dict[str, int] = field(default_factory=dict[str, int])
    _heard: dict[str, float] = field(default_factory=dict[str, float])
    _nearest: dict[str, Nearest] = field(default_factory=dict[str, Nearest])
    _size: int = 0
    _present: dict[str, int] = field(default_factory=dict[str, int])
    _v: dict[str, float] = field(default_factory=dict[str, float])
    _tried: float = inf
    _weighed: Choice | None = NOBODY
    """For what it is as even as can be; None while it is being worked out."""

    @property
    def is_even(self) -> bool:
        """Whether what is in force is as even as what all that were heard of choose allows."""
        return self._weighed is not None

    def chosen_by(self, caller: str) -> tuple[str, ...]:
        """What a caller chose (addresses), if that was worked out yet."""
        found = self._nearest.get(caller)
        return found.names if found else ()

    def hear(self, callers: Iterable[str], *, at: float) -> None:
        """These called."""
        self._heard.update(dict.fromkeys(callers, at))

    def step(self, size: int, addresses: Mapping[str, str], *, now: float) -> None:
        """Go on for a look. ``addresses`` (``host:port``) are of the instances that may be chosen, by Workload."""
        self._heard = {name: at for name, at in self._heard.items() if now - at < HELD}
        if not size or len(addresses) <= size:
            self.weights, self._nearest, self._weighed = {}, {}, NOBODY
            return
        choosing = [name for name in self._heard if name.startswith(_SUBSETTING)]
        if not choosing:
            self.weights = {}
        now_is = (size, frozenset(self._heard), frozenset(addresses.items()))
        if now_is == self._weighed:
            return
        instances = frozenset(addresses.values())
        self._choose(choosing, size, instances)
        is_whole = len(self._nearest) == len(choosing) and self._present.keys() == instances
        is_even = is_whole and (not choosing or self._weigh(addresses, everywhere=len(self._heard) - len(choosing)))
        self._weighed = now_is if is_even else None

    def _choose(self, choosing: list[str], size: int, instances: Set[str]) -> None:
        """Bring what callers choose up to date, as far as one look may go."""
        if size != self._size:
            self._size, self._nearest, self._present = size, {}, {}
        gone, new = self._present.keys() - instances, sorted(instances - self._present.keys())
        new = new[: 1 + MOST_CHOSEN // len(self._nearest)] if self._nearest else new
        self._present = {name: drawn for name, drawn in self._present.items() if name not in gone}
        self._present |= {name: draw(name) for name in new}
        kept = {name: each for name in choosing if (each := self._nearest.get(name)) and not each.has_any(gone)}
        for each in kept.values():
            each.offer((name, self._present[name]) for name in new)
        for name in [name for name in choosing if name not in kept][: 1 + MOST_CHOSEN // len(instances)]:
            kept[name] = Nearest(name, size)
            kept[name].offer(self._present.items())
        self._nearest = kept

    def _weigh(self, addresses: Mapping[str, str], *, everywhere: int) -> bool:
        """Even out for a look, and return whether that is done. It is in force when it is better than what was: some
        choices leave too few callers for an instance to be made even at all.
        """
        chosen = [each.names for each in self._nearest.values()]
        in_force = {address: self.weights.get(name, FAIR) / FAIR for name, address in addresses.items()}
        before = unevenness(chosen, in_force, everywhere=everywhere)
        if before <= UNEVEN:
            return True
        rounds = max(1, MOST_EVENED // (len(chosen) * self._size + len(addresses)))
        self._v = even_out(chosen, self._v, tuple(addresses.values()), everywhere=everywhere, rounds=rounds, even=EVEN)
        made = {name: min(MOST, max(LEAST, round(FAIR * self._v[each]))) for name, each in addresses.items()}
        after = unevenness(
            chosen, {addresses[name]: weight / FAIR for name, weight in made.items()}, everywhere=everywhere
        )
        if after <= max(UNEVEN, before * BETTER):
            self.weights = {name: weight for name, weight in made.items() if weight != FAIR}
        is_done = after <= UNEVEN or after > self._tried * HARDLY
        self._tried = inf if is_done else after
        return is_done
