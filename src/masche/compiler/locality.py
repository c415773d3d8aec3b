"""How the calls of one zone are shared between the zones where instances stand, as long as nothing was measured.

A zone has room when its share of the instances is at least its share of the callers: then it serves its own. What it
cannot take goes to the zones that have room to spare, in proportion. The invariant: shares are per mille, sum to 1000,
and every zone with an instance keeps a floor, so that its latency is known before it is needed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from zlib import crc32

from masche.compiler.east_west import EAST_WEST, LABEL
from masche.compiler.remember import by_identity
from masche.model.refs import Name
from masche.model.resources.workload import Workload

WHOLE = 1000
"""All calls, in per mille."""

FLOOR = 10
"""What a zone keeps that nobody would choose, in per mille ..."""

FLOORS = 50
"""... and all such zones together."""


def shares(instances: Mapping[str, int], callers: Mapping[str, int], zone: str) -> dict[str, int]:
    """Share the calls of ``zone`` out by room. ``instances`` and ``callers`` count by zone; counts are positive."""
    total, asking = sum(instances.values()), max(1, sum(callers.values()))
    if not total:
        return {}
    spare = {each: count / total - callers.get(each, 0) / asking for each, count in instances.items()}
    own = _own(instances.get(zone, 0) / total, callers.get(zone, 0) / asking)
    others = {each: max(0.0, room) for each, room in spare.items() if each != zone}
    if not sum(others.values()):
        others = {each: float(count) for each, count in instances.items() if each != zone}
    rest = sum(others.values())
    wanted = {each: (1.0 - own) * WHOLE * room / rest for each, room in others.items()} if rest else {}
    if zone in instances:
        wanted[zone] = own * WHOLE if rest else float(WHOLE)
    return whole(lifted(wanted, lambda _zone: FLOOR))


def _own(instances: float, callers: float) -> float:
    """The share of its own calls that a zone can take."""
    return min(1.0, instances / callers) if callers else float(instances > 0)


def lifted(wanted: Mapping[str, float], floor_of: Callable[[str], float]) -> dict[str, float]:
    """Give each zone at least its floor, at the cost of the zones that have more."""
    floors = {zone: min(float(floor_of(zone)), FLOORS / max(1, len(wanted))) for zone in wanted}
    missing = sum(max(0.0, floors[zone] - share) for zone, share in wanted.items())
    above = sum(max(0.0, share - floors[zone]) for zone, share in wanted.items())
    keep = 1.0 - missing / above if above else 1.0
    return {zone: floors[zone] + keep * max(0.0, share - floors[zone]) for zone, share in wanted.items()}


def whole(wanted: Mapping[str, float]) -> dict[str, int]:
    """Round to a sum of 1000, each zone at least 1; what rounding leaves goes to the largest."""
    if not wanted:
        return {}
    scale = WHOLE / sum(wanted.values())
    rounded = {zone: max(1, round(share * scale)) for zone, share in sorted(wanted.items())}
    largest = max(rounded, key=lambda zone: (rounded[zone], zone))
    rounded[largest] += WHOLE - sum(rounded.values())
    return rounded


@by_identity
def callers(workloads: Mapping[Name, Workload]) -> Mapping[str, int]:
    """How many Workloads stand in each zone; gateways between zones call nobody of themselves."""
    calling = (each for each in workloads.values() if each.metadata.labels.get(LABEL) != EAST_WEST)
    return MappingProxyType(Counter(each.spec.zone for each in calling))


def chosen(gateways: Iterable[str], instance: str) -> str:
    """Choose the gateway of an instance: highest random weight (Thaler and Ravishankar, 1998), so that few change when
    a gateway comes or goes.
    """
    return max(gateways, key=lambda each: (crc32(f"{each}|{instance}".encode()), each))
