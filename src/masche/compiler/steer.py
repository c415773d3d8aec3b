"""From the latency that callers measured to weights: a slow instance gets less, but enough for recovery to be seen.

An instance's weight is 100 times (best / its own)^2, damped; squared, because with two random choices a weight in mere
proportion leaves a slow instance most of its queue. Weights stay between 1 and 100, so whatever is measured an instance
keeps a hundredth of a fair share, and one that is not asked at all drifts back towards the best. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from masche.model.refs import PortRef
from masche.model.steering import Steer, Steering

Key = tuple[PortRef, str]
"""A (Service, port) and the zone of the callers."""

DAMPING = 0.3
"""The share of a new report in the moving average."""

ALIKE = 1.3
"""An instance that was steered counts as equal again within this factor of the best."""

NOTICEABLE = 2.0
"""One that was not is steered only above this factor: what lies between the two is noise, and moves nothing."""

STEP = 0.1
"""Weights are published when one moved by more than this share."""

SILENCE = 3.0
"""Seconds without an answer after which an instance drifts back towards the best."""

DRIFT = 0.15
"""How far it drifts in a second."""

FAIR, LEAST = 100, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What callers of one zone saw of one instance in one interval: answers, and their mean in microseconds."""

    workload: str
    answers: int
    mean_us: float


@dataclass(slots=True)
class _Instance:
    latency_us: float
    heard_at: float


@dataclass(slots=True)
class Steersman:
    """Remembers latencies between reports. Times are monotonic seconds."""

    _instances: dict[Key, dict[str, _Instance]] = field(default_factory=dict[Key, dict[str, _Instance]])
    _published: dict[Key, Mapping[str, int]] = field(default_factory=dict[Key, Mapping[str, int]])

    def measured(self, key: Key, samples: Iterable[Measured], *, now: float) -> None:
        """Take what was seen in one interval."""
        known = self._instances.setdefault(key, {})
        for sample in samples:
            if sample.answers <= 0:
                continue
            instance = known.setdefault(sample.workload, _Instance(sample.mean_us, now))
            instance.latency_us += DAMPING * (sample.mean_us - instance.latency_us)
            instance.heard_at = now

    def keep_only(self, present: Mapping[Key, frozenset[str]]) -> None:
        """Forget instances and ports that are gone."""
        self._instances = {
            key: {name: each for name, each in known.items() if name in present[key]}
            for key, known in self._instances.items()
            if key in present
        }
        self._published = {key: weights for key, weights in self._published.items() if key in present}

    def steer(self, *, now: float) -> Steering | None:
        """The Steering to publish, or None when nothing moved enough to be worth it."""
        moved = False
        for key, known in self._instances.items():
            weights = _weights(known, self._published.get(key, {}), now=now)
            if _differ(self._published.get(key, {}), weights):
                self._published[key] = weights
                moved = True
        if not moved:
            return None
        return Steering(
            steers={
                key: Steer(weights=tuple(sorted(weights.items())))
                for key, weights in self._published.items()
                if any(weight != FAIR for weight in weights.values())
            }
        )

    def known(self) -> tuple[Key, ...]:
        """The ports and zones that something is known of."""
        return tuple(self._instances)

    def weights(self, key: Key) -> Mapping[str, int]:
        """The weights in force for a port and a zone, in percent of a fair share."""
        published = self._published.get(key, {})
        return {name: published.get(name, FAIR) for name in self._instances.get(key, {})}


def _weights(known: Mapping[str, _Instance], before: Mapping[str, int], *, now: float) -> Mapping[str, int]:
    if not known:
        return {}
    best = min(instance.latency_us for instance in known.values())
    for instance in known.values():
        if now - instance.heard_at > SILENCE:
            instance.latency_us += DRIFT * (best - instance.latency_us)
    return {name: _weight(best, each.latency_us, was=before.get(name, FAIR)) for name, each in known.items()}


def _weight(best: float, own: float, *, was: int) -> int:
    if own <= best * (NOTICEABLE if was == FAIR else ALIKE):
        return FAIR
    return max(LEAST, round(FAIR * (best / own) ** 2))


def _differ(old: Mapping[str, int], new: Mapping[str, int]) -> bool:
    names = old.keys() | new.keys()
    return any(abs(new.get(n, FAIR) - old.get(n, FAIR)) > STEP * max(old.get(n, FAIR), LEAST) for n in names)
