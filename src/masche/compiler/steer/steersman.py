"""From the latency that callers measured to weights: a slow instance gets less, but enough for recovery to be seen.

An instance's weight is 100 times (best / its own)^2, damped; squared, because with two random choices a weight in mere
proportion leaves a slow instance most of its queue. Weights stay between 1 and 100, so whatever is measured an instance
keeps a hundredth of a fair share, and one that is not asked at all drifts back towards the best. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from masche.compiler.steer.moves import Decision, Move, MoveKind
from masche.compiler.steer.seen import Key, Seen
from masche.compiler.steer.standing import Link, Standing
from masche.compiler.steer.terrain import Terrain
from masche.model.refs import PortRef
from masche.model.steering import Steer, Steering
from masche.model.view import SteeringMode

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

NOTICED = FAIR // 2
"""A weight that falls below this is worth an event, and one that comes back above it as well."""


@dataclass(slots=True)
class _Instance:
    latency_us: float
    heard_at: float


@dataclass(slots=True)
class Steersman:
    """Remembers latencies between reports. Times are monotonic seconds."""

    _instances: dict[Key, dict[str, _Instance]] = field(default_factory=dict[Key, dict[str, _Instance]])
    _published: dict[Key, Mapping[str, int]] = field(default_factory=dict[Key, Mapping[str, int]])
    _is_moved: bool = False

    def saw(self, key: Key, seens: Iterable[Seen], *, now: float) -> None:
        """Take what callers of one zone saw of one port in one interval."""
        known = self._instances.setdefault(key, {})
        for seen in seens:
            if seen.answers <= 0:
                continue
            instance = known.setdefault(seen.workload, _Instance(seen.latency_us, now))
            instance.latency_us += DAMPING * (seen.latency_us - instance.latency_us)
            instance.heard_at = now

    def ports(self) -> tuple[PortRef, ...]:
        """The ports that something is known of: what a Terrain must cover."""
        return tuple(sorted({port for port, _ in self._instances}))

    def steer(self, terrain: Terrain, *, now: float) -> Decision:
        """Look at all that was seen: what to publish, and the sentences that say why."""
        self._forget(terrain)
        moves: list[Move] = []
        for key, known in self._instances.items():
            weights = _weights(known, self._published.get(key, {}), now=now)
            if _differ(self._published.get(key, {}), weights):
                moves += _told(key, self._published.get(key, {}), weights)
                self._published[key] = weights
                self._is_moved = True
        if not self._is_moved:
            return Decision()
        self._is_moved = False
        return Decision(steering=self._steering(terrain), moves=tuple(moves))

    def _forget(self, terrain: Terrain) -> None:
        for key, known in list(self._instances.items()):
            ground = terrain.ports.get(key[0])
            present = {site.workload for site in ground.sites} if ground else set[str]()
            if not present or known.keys() - present:
                self._instances[key] = {name: each for name, each in known.items() if name in present}
            if ground is None:
                del self._instances[key]
                self._is_moved = self._is_moved or self._published.pop(key, None) is not None

    def _steering(self, terrain: Terrain) -> Steering:
        return Steering(
            steers={
                key: Steer(weights=tuple(sorted(weights.items())))
                for key, weights in self._published.items()
                if any(weight != FAIR for weight in weights.values())
                and terrain.ports[key[0]].traffic.steering is SteeringMode.ON
            }
        )

    def instances(self, port: PortRef) -> tuple[Standing, ...]:
        """How every instance of a port stands with the callers of each zone."""
        return tuple(
            Standing(
                workload=name,
                zone="",
                caller_zone=key[1],
                weight=self._published.get(key, {}).get(name, FAIR),
                latency_us=each.latency_us,
            )
            for key, known in sorted(self._instances.items())
            if key[0] == port
            for name, each in sorted(known.items())
        )

    def links(self) -> tuple[Link, ...]:
        """How the ways between zones stand."""
        return ()


def _told(key: Key, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Move]:
    port, zone = key
    callers = f" for callers of zone {zone}" if zone else ""
    for workload, weight in after.items():
        was = before.get(workload, FAIR)
        if weight < NOTICED <= was:
            sentence = f"{workload} answers {port} late: it gets {max(LEAST, weight)} % of a fair share{callers}"
            yield Move(kind=MoveKind.WEIGHT, severity="warning", about=workload, sentence=sentence)
        elif was < NOTICED <= weight:
            sentence = f"{workload} answers {port} as fast as the others again{callers}"
            yield Move(kind=MoveKind.WEIGHT, about=workload, sentence=sentence)


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
