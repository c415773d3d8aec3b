"""What a look at the reports decided: the Steering to publish, and every move of it as a sentence."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from masche.model.steering import Steering

Severity = Literal["info", "warning"]


class MoveKind(StrEnum):
    """What was moved; the value is the kind of its event."""

    WEIGHT = "steered"
    EJECTED = "ejected"
    PROBING = "probing"
    READMITTED = "readmitted"
    ZONE = "zone-moved"
    DETOUR = "detoured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move. ``about`` is the Workload, or the Service for a move between zones; ``sentence`` is for people.

    ``is_dry_run``: the policy says that it is only told, and nothing changes.
    """

    kind: MoveKind
    about: str
    sentence: str
    severity: Severity = "info"
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """``steering`` is None when nothing moved enough to be published."""

    steering: Steering | None = None
    moves: tuple[Move, ...] = ()
