"""Which few of many instances each caller connects to, so that load stays even and changes reconnect almost nobody.

Grown from Ringsteady Subsetting (P. Ward, P. Wankadia, K. Guliani, "Reinventing Backend Subsetting at Google", ACM
Queue 20(5), 2022): callers and instances stand on a ring at the van der Corput sequence of their slots, even at every
length, and a caller takes the instances that come next. Here there is a ring for every place of the subset and a caller
takes one instance of each. On each ring instances are permuted by an odd factor, which maps evenly spaced places to
evenly spaced places. So neighbours on one ring are strangers on the next: no two callers depend on the same few
instances, and holes that left instances tear do not lie beside each other. Who comes or goes changes only who stands
just before it. Where there are fewer callers' places than about five per instance, some instances have no caller, and
only a larger size helps.

Connections are whole numbers, so their count alone cannot be even. As in Twitter's deterministic aperture (Finagle,
"Aperture Load Balancers") a caller therefore has a share for each instance. The shares are the product u(caller) x
v(instance) for which all callers send the same and all instances get what their weights ask (R. Sinkhorn, P. Knopp,
"Concerning nonnegative matrices and doubly stochastic matrices", Pacific J. Math. 21(2), 1967). No connection moves for
it. ``bench/subsetting.py`` compares it with what others do.
"""

from bisect import bisect_left
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from hashlib import blake2b
from heapq import nsmallest

from masche.model.frozen import frozen

BITS = 32
"""Slots are from 0 to 2**BITS - 1."""
ROUNDS = 50
"""Rounds of evening out, at most."""
EVEN = 0.005
"""Loads that differ from what is asked by less than this part are even."""
WIDEST = 10.0
"""Where nothing can make it even, no share grows beyond so many times, or to less than that part of, what is fair."""


@frozen(kw_only=False)
class Slots:
    """Numbers that instances (or callers) keep as long as they live: small, each once. The same for all who subset.

    Somebody who sees everyone hands them out (a control plane). A replacement takes the slot of who left, so that a
    restart reconnects only those who were connected to it.
    """

    taken: Mapping[str, int] = field(default_factory=dict[str, int])

    def updated(self, ids: Iterable[str]) -> "Slots":
        """Return the slots of ``ids``: who stays keeps it, who is new takes the lowest free one, in the order given."""
        wanted = list(dict.fromkeys(ids))
        kept = {each: self.taken[each] for each in wanted if each in self.taken}
        used = set(kept.values())
        free = (slot for slot in range(len(wanted)) if slot not in used)
        return Slots({each: kept[each] if each in kept else next(free) for each in wanted})


@frozen(kw_only=False)
class Subset:
    """What one caller connects to: ids, and the part of its calls that each should get, above 0, summing up to 1."""

    ids: tuple[str, ...]
    shares: tuple[float, ...]


def position(slot: int) -> int:
    """Return the place of a slot on the ring of 2**32: its bits in reverse (van der Corput's sequence, base 2)."""
    return int(f"{slot:0{BITS}b}"[::-1], 2)


class Assignment:
    """The subsets of all callers, computed together: they depend on each other only in their shares.

    ``instances``: slots by id. ``callers``: slots. ``size``: instances per caller, at least 1; when there are no more
    than that, everyone gets all. ``weights``: capacity by id, above 0, 1 where missing; a weight is met as far as the
    callers that an instance has can bear it. Takes about 50 ms for 1000 callers of 20 in 1000.
    """

    __slots__ = ("_ids", "_subsets", "_v", "size")

    def __init__(
        self, instances: Slots, callers: Iterable[int], *, size: int, weights: Mapping[str, float] | None = None
    ) -> None:
        if size < 1:
            raise ValueError(f"a subset has at least one instance, not {size}")
        self._ids = sorted(instances.taken)
        self.size = min(size, len(self._ids))
        self._subsets = _subsets([instances.taken[each] for each in self._ids], callers, self.size)
        given = weights or {}
        self._v = _evened(list(self._subsets.values()), [given.get(each, 1.0) for each in self._ids])

    def __repr__(self) -> str:
        return f"<Assignment of {self.size} in {len(self._ids)} to each of {len(self._subsets)}>"

    def of(self, caller: int) -> Subset:
        """Return the subset of the caller with that slot; raises KeyError when it is no caller."""
        chosen = self._subsets[caller]
        total = sum(self._v[each] for each in chosen)
        return Subset(tuple(self._ids[each] for each in chosen), tuple(self._v[each] / total for each in chosen))


def _subsets(slots: Sequence[int], callers: Iterable[int], size: int) -> dict[int, list[int]]:
    """For each caller one instance (an index) of each ring: the next one that it has not yet."""
    found: dict[int, list[int]] = {caller: [] for caller in callers}
    places = [(caller, position(caller)) for caller in found]
    homes = [position(slot) for slot in slots]
    for ring in range(size):
        factor, shift = _motion(ring)
        standing = sorted((home * factor % (1 << BITS), index) for index, home in enumerate(homes))
        keys = [place for place, _ in standing]
        for caller, place in places:
            chosen = found[caller]
            at = bisect_left(keys, (place + shift) % (1 << BITS)) % len(keys)
            while (index := standing[at][1]) in chosen:
                at = (at + 1) % len(keys)
            chosen.append(index)
    return found


def _motion(ring: int) -> tuple[int, int]:
    """The odd factor that permutes the instances of a ring, and how far its callers are turned against them: a factor
    leaves the places 0 and 1/2 where they are.
    """
    drawn = blake2b(b"ring %d" % ring, digest_size=2 * BITS // 8).digest()
    return int.from_bytes(drawn[: BITS // 8], "big") | 1, int.from_bytes(drawn[BITS // 8 :], "big")


def _evened(subsets: Sequence[Sequence[int]], weights: Sequence[float]) -> list[float]:
    """Return v, for which the loads that instances get are proportional to their weights."""
    v = list(weights)
    scale = len(subsets) / (sum(weights) or 1.0)
    for _ in range(ROUNDS):
        load = _load(subsets, v)
        off = [got / (weight * scale) if got else 1.0 for got, weight in zip(load, weights, strict=True)]
        if not off or max(abs(each - 1) for each in off) < EVEN:
            break
        v = [old / each for old, each in zip(v, off, strict=True)]
    return v


def _load(subsets: Sequence[Sequence[int]], v: Sequence[float]) -> list[float]:
    """What each instance gets when every caller sends 1."""
    load = [0.0] * len(v)
    for chosen in subsets:
        u = 1.0 / sum([v[each] for each in chosen])
        for each in chosen:
            load[each] += u * v[each]
    return load


# -- without slots --------------------------------------------------------------------------------------------------

_MASK = (1 << 64) - 1


@lru_cache(maxsize=8192)
def draw(name: str) -> int:
    """A number of 64 bits, the same for a name wherever it is drawn."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def _distance(caller: int, instance: int) -> int:
    """How far apart two drawn numbers are: mixed by two odd factors, so that it is chance for every pair."""
    mixed = (caller ^ instance) * 0x9E3779B97F4A7C15 & _MASK
    return (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _MASK


class Nearest:
    """The ``size`` instances that one caller chooses of all that it was offered, the same in whatever order."""

    __slots__ = ("_caller", "_chosen", "_size")

    def __init__(self, caller: str, size: int) -> None:
        self._caller = draw(caller)
        self._size = size
        self._chosen: list[tuple[int, str]] = []

    def __repr__(self) -> str:
        return f"<Nearest {len(self._chosen)} of {self._size}>"

    def offer(self, instances: Iterable[tuple[str, int]]) -> None:
        """Choose among these, too: each with what was drawn for its name."""
        caller = self._caller
        found = [(_distance(caller, drawn), name) for name, drawn in instances]
        if found:
            self._chosen = nsmallest(self._size, self._chosen + found)

    def has_any(self, names: Container[str]) -> bool:
        """Whether it chose one of these, so that it must choose among all again."""
        return any(name in names for _, name in self._chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """Whom it chose, the nearest first."""
        return tuple(name for _, name in self._chosen)


def nearest(caller: str, instances: Iterable[str], size: int) -> tuple[str, ...]:
    """The instances that a caller of that name chooses."""
    found = Nearest(caller, size)
    found.offer((name, draw(name)) for name in instances)
    return found.names


def even_out(
    chosen: Sequence[Sequence[str]],
    v: Mapping[str, float],
    every: Sequence[str],
    *,
    everywhere: int = 0,
    rounds: int = ROUNDS,
    even: float = EVEN,
) -> dict[str, float]:
    """Return the shares v, 1 on average, with which all of ``every`` get the same load, begun at ``v``.

    ``chosen`` is what each caller chose, and ``everywhere`` so many more call all. Whom nobody chose keeps its share.
    """
    made = {name: v.get(name, 1.0) for name in every}
    for _ in range(rounds):
        off = _off(chosen, made, everywhere)
        if max((abs(each - 1) for each in off.values()), default=0.0) < even:
            break
        made = {name: min(WIDEST, max(1 / WIDEST, share / off.get(name, 1.0))) for name, share in made.items()}
    mean = sum(made.values()) / len(made)
    return {name: share / mean for name, share in made.items()}


def unevenness(chosen: Sequence[Sequence[str]], v: Mapping[str, float], *, everywhere: int = 0) -> float:
    """By what part the load of an instance differs from the mean, at most, of those that anybody calls."""
    return max((abs(each - 1) for each in _off(chosen, v, everywhere).values()), default=0.0)


def _off(chosen: Sequence[Sequence[str]], v: Mapping[str, float], everywhere: int) -> dict[str, float]:
    """The load of each that anybody calls, in means."""
    loads = {name: load for name, load in _loads(chosen, v, everywhere).items() if load}
    fair = (len(chosen) + everywhere) / (len(loads) or 1)
    return {name: load / fair for name, load in loads.items()}


def _loads(chosen: Sequence[Sequence[str]], v: Mapping[str, float], everywhere: int) -> dict[str, float]:
    """What each instance gets when every caller sends 1, spread over those that it chose by their shares."""
    part = everywhere / sum(v.values())
    load = {name: share * part for name, share in v.items()}
    for names in chosen:
        u = 1.0 / sum([v[name] for name in names])
        for name in names:
            load[name] += u * v[name]
    return load
