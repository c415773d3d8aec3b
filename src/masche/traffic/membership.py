"""Who may be called, and with what share: endpoints with zones, weights and health become ``Candidates``.

Pure and immutable: the same membership, rules and instant give the same candidates. Never empty while there is an
endpoint: with too few available everyone is eligible, and the result says so (``is_panicking``).
"""

from collections.abc import Iterable
from dataclasses import field, replace
from enum import Enum, unique

from masche.model.frozen import frozen
from masche.traffic.zones import Zones


@unique
class Health(Enum):
    """What is known of an endpoint's availability, named after what traffic does."""

    ADMITTED = "admitted"
    EJECTED = "ejected"
    """Cut off for now, by a breaker, an outlier detector or a verdict of other callers."""
    UNHEALTHY = "unhealthy"
    """Its health check says no."""
    DRAINING = "draining"
    """It is leaving: no new call, also in panic, unless nobody else is left."""


@frozen
class Endpoint:
    """One instance. ``weight``: its capacity relative to the others, above 0. ``admitted_at``: since when it may be
    called, monotonic seconds; slow start counts from there.
    """

    id: str
    address: str = ""
    zone: str = ""
    weight: float = 1.0
    health: Health = Health.ADMITTED
    admitted_at: float = -1e9

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"the weight of {self.id} must be above 0, not {self.weight}")


@frozen
class SlowStart:
    """A new endpoint's weight grows in ``window`` seconds (0: at once) linearly from ``minimum`` of it (above 0, to 1).

    Envoy's slow start mode with aggression 1 and ``min_weight_percent`` 10.
    """

    window: float = 0.0
    minimum: float = 0.1

    def __post_init__(self) -> None:
        if self.window < 0 or not 0 < self.minimum <= 1:
            raise ValueError("slow start: window from 0, minimum above 0 and not above 1")

    def share(self, age: float) -> float:
        """The part of its weight, ``minimum`` to 1, that an endpoint of ``age`` seconds has."""
        if not self.window or age >= self.window:
            return 1.0
        return max(self.minimum, age / self.window)


@frozen
class Rules:
    """How a membership becomes candidates. ``panic_threshold``: with fewer than this part (0 to 1) of the endpoints
    available everyone is eligible (Envoy's default is 0.5; 0 panics only when nobody is available).
    """

    slow_start: SlowStart = field(default_factory=SlowStart)
    panic_threshold: float = 0.5
    zones: Zones | None = None


@frozen
class Candidates:
    """Who may be called now. ``shares`` go with ``endpoints`` and sum up to 1. ``valid_until``: monotonic seconds at
    which shares have moved enough (a tenth of a second of slow start) to ask again; infinite when nothing ramps.
    """

    endpoints: tuple[Endpoint, ...]
    shares: tuple[float, ...]
    is_panicking: bool
    valid_until: float

    def __len__(self) -> int:
        return len(self.endpoints)


@frozen(kw_only=False)
class Membership:
    """The endpoints of one service, sorted by id, each id once."""

    endpoints: tuple[Endpoint, ...] = ()

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> "Membership":
        """Sort them; raises ValueError when an id comes twice."""
        found = tuple(sorted(endpoints, key=lambda each: each.id))
        if len({each.id for each in found}) != len(found):
            raise ValueError("an endpoint's id comes twice")
        return cls(found)

    def __len__(self) -> int:
        return len(self.endpoints)

    def __repr__(self) -> str:
        admitted = sum(each.health is Health.ADMITTED for each in self.endpoints)
        return f"<Membership {admitted} admitted of {len(self.endpoints)}>"

    def get(self, id: str) -> Endpoint | None:  # noqa: A002 - the id of an endpoint is called id
        """Return the endpoint of that id."""
        return next((each for each in self.endpoints if each.id == id), None)

    def updated(self, endpoints: Iterable[Endpoint], *, now: float) -> "Membership":
        """Return the membership of these endpoints: who was admitted before keeps ``admitted_at``, who is new or comes
        back begins ``now``. Nothing changed: the same object.
        """
        before = {each.id: each for each in self.endpoints}
        after = Membership.of(_since(before.get(each.id), each, now) for each in endpoints)
        return self if after == self else after

    def candidates(self, rules: Rules, *, now: float) -> Candidates:
        """Return who may be called ``now``: who is admitted, or everyone who is not leaving when these are too few."""
        staying = [each for each in self.endpoints if each.health is not Health.DRAINING] or list(self.endpoints)
        admitted = [each for each in staying if each.health is Health.ADMITTED]
        if staying and (not admitted or len(admitted) < rules.panic_threshold * len(staying)):
            return _candidates(staying, [each.weight for each in staying], is_panicking=True)
        ages = [now - each.admitted_at for each in admitted]
        ramps = [rules.slow_start.share(age) for age in ages]
        weights = [each.weight * ramp for each, ramp in zip(admitted, ramps, strict=True)]
        if rules.zones is not None:
            weights = rules.zones.weighted([each.zone for each in admitted], weights)
        until = now + max(0.1, rules.slow_start.window / 100) if any(ramp < 1 for ramp in ramps) else float("inf")
        return _candidates(admitted, weights, valid_until=until)


def _since(before: Endpoint | None, endpoint: Endpoint, now: float) -> Endpoint:
    was_admitted = before is not None and before.health is Health.ADMITTED
    is_admitted = endpoint.health is Health.ADMITTED
    since = before.admitted_at if before is not None and (was_admitted or not is_admitted) else now
    return endpoint if endpoint.admitted_at == since else replace(endpoint, admitted_at=since)


def _candidates(
    endpoints: list[Endpoint], weights: list[float], *, is_panicking: bool = False, valid_until: float = float("inf")
) -> Candidates:
    """Who has no weight at all (a zone that gets nothing) is no candidate."""
    kept = [(each, weight) for each, weight in zip(endpoints, weights, strict=True) if weight > 0]
    total = sum(weight for _, weight in kept)
    return Candidates(
        endpoints=tuple(each for each, _ in kept),
        shares=tuple(weight / total for _, weight in kept),
        is_panicking=is_panicking,
        valid_until=valid_until,
    )
