"""Maglev hashing: a table in which every endpoint owns its share of the entries almost exactly; a key is an index.

D. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4; weights as in
Envoy's MAGLEV. Evener than a ring and one step to look up; a change of endpoints moves a few keys more than it must.
"""

from collections.abc import Container

from masche.traffic.chance import Chance
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.hashing import key_of
from masche.traffic.pickers.picker import NOBODY, Ready


class Maglev:
    """``size``: entries of the table, a prime well above the number of endpoints (Envoy's default: 65537)."""

    __slots__ = ("_made_for", "_ready", "_table", "size")

    def __init__(self, *, size: int = 65537) -> None:
        if size < 2 or any(size % each == 0 for each in range(2, int(size**0.5) + 1)):
            raise ValueError(f"the size of a Maglev table must be prime, not {size}")
        self.size = size
        self._ready: Ready | None = None
        self._made_for: tuple[tuple[str, float], ...] = ()
        self._table: list[int] = []

    def __repr__(self) -> str:
        return f"<Maglev {self.size} entries of {len(self._made_for)}>"

    def pick(
        self,
        ready: Ready,
        *,
        now: float,  # noqa: ARG002 - of the Protocol
        rng: Chance,
        key: int | None = None,
        exclude: Container[str] = NOBODY,
    ) -> Endpoint | None:
        """Look the key up, or any entry without one; from an endpoint that was tried go on to the next entry."""
        if ready is not self._ready:
            self._arrange(ready)
        if not ready.endpoints:
            return None
        start = (rng.getrandbits(64) if key is None else key) % self.size
        chosen = ready.endpoints[self._table[start]]
        if chosen.id not in exclude:
            return chosen
        if all(each.id in exclude for each in ready.endpoints):
            return None
        ahead = (ready.endpoints[self._table[(start + step) % self.size]] for step in range(1, self.size))
        return next((each for each in ahead if each.id not in exclude), None)

    def _arrange(self, ready: Ready) -> None:
        made_for = tuple((endpoint.id, endpoint.weight) for endpoint in ready.endpoints)
        self._ready = ready
        if made_for != self._made_for:
            self._made_for, self._table = made_for, table(made_for, self.size)


def table(members: tuple[tuple[str, float], ...], size: int) -> list[int]:
    """Return for each entry the index of its owner: each in turn takes the next free entry of its own permutation.

    ``members`` are ids and weights; a lighter one sits out turns until its weight has caught up with the heaviest.
    """
    if not members:
        return []
    offsets = [key_of(name, "offset") % size for name, _ in members]
    skips = [key_of(name, "skip") % (size - 1) + 1 for name, _ in members]
    heaviest = max(weight for _, weight in members)
    paces = [weight / heaviest for _, weight in members]
    owed = [0.0] * len(members)
    owners = [-1] * size
    free = size
    while free:
        for index, pace in enumerate(paces):
            owed[index] += pace
            if owed[index] < 1.0 - 1e-9:
                continue
            owed[index] -= 1.0
            at = offsets[index]
            while owners[at] >= 0:
                at = (at + skips[index]) % size
            owners[at] = index
            offsets[index] = (at + skips[index]) % size
            free -= 1
            if not free:
                break
    return owners
