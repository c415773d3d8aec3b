"""Ring hash: each endpoint holds many points of a ring, and a key goes to the next point; bounded, if wanted.

D. Karger et al., "Consistent Hashing and Random Trees" (STOC 1997), in the manner of ketama, Envoy's RING_HASH and
gRFC A42; when one endpoint of n leaves, only its own keys move. ``bound``: V. Mirrokni, M. Thorup, M. Zadimoghaddam,
"Consistent Hashing with Bounded Loads" (SODA 2018); who has more than ``bound`` times its share under way is skipped.
"""

from bisect import bisect_left
from collections.abc import Container, Iterator

from masche.traffic.chance import Chance
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.hashing import points_of
from masche.traffic.pickers.picker import NOBODY, Ready


class RingHash:
    """``points``: of an endpoint of weight 1; others have in proportion, at least one. ``bound``: 0 for none, else
    above 1, such as 1.25.

    Points go by an endpoint's own weight alone: not by what the others weigh, or their coming and going would move
    keys that are not theirs; and not by shares that ramp, or slow start would.
    """

    __slots__ = ("_made_for", "_owners", "_points", "_ready", "bound", "points")

    def __init__(self, *, points: int = 400, bound: float = 0.0) -> None:
        if points < 1 or (bound and bound <= 1):
            raise ValueError("points from 1; bound above 1, or 0 for none")
        self.points, self.bound = points, bound
        self._ready: Ready | None = None
        self._made_for: tuple[tuple[str, float], ...] = ()
        self._points: list[int] = []
        self._owners: list[int] = []

    def __repr__(self) -> str:
        return f"<RingHash {len(self._points)} points of {len(self._made_for)}>"

    def pick(
        self,
        ready: Ready,
        *,
        now: float,  # noqa: ARG002 - of the Protocol
        rng: Chance,
        key: int | None = None,
        exclude: Container[str] = NOBODY,
    ) -> Endpoint | None:
        """Walk from the key's place to the first endpoint that was not tried and has room; without a key by chance."""
        if ready is not self._ready:
            self._arrange(ready)
        place = rng.getrandbits(64) if key is None else key
        first: Endpoint | None = None
        allowed = self._allowed(ready)
        for index in self._walk(place, len(ready.endpoints)):
            endpoint = ready.endpoints[index]
            if endpoint.id in exclude:
                continue
            if not allowed or ready.gauges[index].outstanding + 1 <= allowed * ready.shares[index] + 1e-9:
                return endpoint
            first = first or endpoint
        return first

    def _allowed(self, ready: Ready) -> float:
        """Calls under way that an endpoint with all of the share might have; at least one each is allowed."""
        if not self.bound or not ready.shares:
            return 0.0
        under_way = sum(gauge.outstanding for gauge in ready.gauges) + 1
        return max(self.bound * under_way, 1.0 / min(ready.shares))

    def _walk(self, place: int, count: int) -> Iterator[int]:
        """Each endpoint once, in the order in which the ring meets them."""
        size = len(self._points)
        start = bisect_left(self._points, place)
        seen: set[int] = set()
        for step in range(size):
            owner = self._owners[(start + step) % size]
            if owner not in seen:
                yield owner
                seen.add(owner)
                if len(seen) == count:
                    return

    def _arrange(self, ready: Ready) -> None:
        made_for = tuple((endpoint.id, endpoint.weight) for endpoint in ready.endpoints)
        self._ready = ready
        if made_for == self._made_for:
            return
        self._made_for = made_for
        ring = sorted(
            (point, index)
            for index, (name, weight) in enumerate(made_for)
            for point in points_of(name, max(1, round(weight * self.points)))
        )
        self._points, self._owners = [point for point, _ in ring], [index for _, index in ring]
