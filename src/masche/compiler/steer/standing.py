"""How instances and links stand now, for people: what ``top`` and the dashboard show."""

from dataclasses import dataclass
from enum import StrEnum


class Admission(StrEnum):
    """Whether an instance takes traffic. PROBING: its time is served, and a few calls show whether it is well."""

    ADMITTED = "ADMITTED"
    EJECTED = "EJECTED"
    PROBING = "PROBING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One instance of a port as the callers of ``caller_zone`` have it. Times in microseconds, 0.0 unknown.

    ``weight`` is in percent of a fair share within its zone; ``until`` is the monotonic second when an ejection ends
    (0.0 for none), and ``reason`` a sentence, "" when nothing is the matter. ``is_dry_run``: it would be so.
    """

    workload: str
    zone: str
    caller_zone: str
    weight: int
    state: Admission = Admission.ADMITTED
    until: float = 0.0
    reason: str = ""
    latency_us: float = 0.0
    service_us: float = 0.0
    network_us: float = 0.0
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way from a zone to a zone, directly or ``via`` a third one's gateway: what the network alone costs now.

    ``usual_us`` is what it costs when all is well, and ``lost`` the share (0.0 to 1.0) of calls that were not answered.
    """

    source: str
    target: str
    via: str = ""
    network_us: float = 0.0
    usual_us: float = 0.0
    lost: float = 0.0
    is_bad: bool = False
