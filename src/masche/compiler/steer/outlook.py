"""What the callers of one zone can choose between for one port: for each zone its share by room, what it could take at
most, and what its calls cost directly and by each detour.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from masche.model.view import LocalityRules

MARGIN_US = 1000.0
"""Less time than this moves nothing between zones."""


NO_WAYS: Mapping[str, float] = MappingProxyType({})


class ZoneCost(NamedTuple):
    """One zone's calls in microseconds, 0.0 unknown: all told, the network's part (lately, in the last interval alone,
    and usually), the instances' part, and ``failing_us`` as the price of calls that fail.

    ``detours`` are those measured, ``predicted`` those that nobody tried, made of what their two parts cost.
    ``is_silent``: nobody called there directly of late, so that what is known is old.
    """

    direct_us: float = 0.0
    network_us: float = 0.0
    latest_us: float = 0.0
    usual_us: float = 0.0
    service_us: float = 0.0
    failing_us: float = 0.0
    lost: float = 0.0
    is_silent: bool = False
    detours: Mapping[str, float] = NO_WAYS
    predicted: Mapping[str, float] = NO_WAYS


NOTHING_KNOWN = ZoneCost()


class Outlook(NamedTuple):
    """``base`` and ``limits`` are per mille of this zone's calls; ``rate`` is in calls per second. ``taken_us`` is what
    the instances of each zone took in the last interval alone, where it was heard of.

    ``limits`` are worked out when somebody needs them, which is seldom.
    """

    subject: str
    zone: str
    base: Mapping[str, int]
    limits: Callable[[], Mapping[str, float]]
    costs: Mapping[str, ZoneCost]
    gateways: frozenset[str]
    rules: LocalityRules
    rate: float
    taken_us: Mapping[str, float] = NO_WAYS


def ratio(cost: float, reference: float) -> float:
    """How many times the reference a cost is; 1.0 when either is unknown or the difference is not worth a move."""
    if cost <= 0.0 or reference <= 0.0 or cost - reference < MARGIN_US:
        return 1.0
    return cost / reference
