"""Soft state made from load reports: how the endpoints of a Service are weighted for the callers of one zone.

It is never stored and has no revision; without it every endpoint has its own weight and zones are used by preference.
"""

from collections.abc import Mapping
from dataclasses import field

from masche.model.frozen import frozen
from masche.model.refs import PortRef


@frozen
class Detour:
    """Of the calls that go to instances of ``zone``, ``share`` percent (1 to 100) pass a gateway of zone ``via``."""

    zone: str
    via: str
    share: int


@frozen
class Steer:
    """For one (Service, port) and one caller zone: weights in percent of a fair share, and who is ejected.

    A weight is bounded: 1 (one percent) to 1000 (ten times the fair share). Keys are workload names. ``zones`` pairs
    zones of instances with their share of the calls, per mille (1 to 1000); empty: as the preference of zones says.
    """

    weights: tuple[tuple[str, int], ...] = ()
    ejected: frozenset[str] = frozenset()
    zones: tuple[tuple[str, int], ...] = ()
    detours: tuple[Detour, ...] = ()


@frozen
class Steering:
    """All Steers now in force, by (Service port, caller zone)."""

    steers: Mapping[tuple[PortRef, str], Steer] = field(default_factory=dict[tuple[PortRef, str], Steer])


NO_STEERING = Steering()
