"""What all callers of one zone saw of one port in one interval, summed by instance and way.

Sums are whole microseconds, so that they are exact in whatever order reports come.
"""

from collections.abc import Iterable, Mapping

from masche.compiler.steer.links import Passage, Way
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.window import median

UNKNOWN = -1.0


class Interval:
    """What all callers of one zone saw of one instance by one way in one interval, summed."""

    __slots__ = (
        "active", "answers", "errors", "latency_sum", "rtt_us", "served", "service_sum", "timeouts", "zone",
    )  # fmt: skip

    def __init__(self, seen: Seen) -> None:
        answers, served = seen.answers, seen.service_us > 0.0
        self.zone = seen.zone
        self.answers = answers
        self.errors = seen.errors
        self.timeouts = seen.timeouts
        self.active = seen.active
        self.latency_sum = round(answers * seen.latency_us)
        self.service_sum = round(answers * seen.service_us) if served else 0
        self.served = answers if served else 0
        self.rtt_us = seen.rtt_us if seen.rtt_us > 0.0 else 0.0

    def add(self, seen: Seen) -> None:
        """Add what another caller saw; the order does not matter."""
        answers = seen.answers
        self.zone = max(self.zone, seen.zone)
        self.answers += answers
        self.errors += seen.errors
        self.timeouts += seen.timeouts
        self.active += seen.active
        self.latency_sum += round(answers * seen.latency_us)
        if seen.service_us > 0.0:
            self.service_sum += round(answers * seen.service_us)
            self.served += answers
        if seen.rtt_us > 0.0:
            self.rtt_us = min(self.rtt_us or seen.rtt_us, seen.rtt_us)

    @property
    def latency_us(self) -> float:
        """The mean of the callers' time over the answers; 0.0 without any."""
        return self.latency_sum / self.answers if self.answers else 0.0

    @property
    def network_us(self) -> float:
        """What the instance does not account for, or the round trip of TCP; ``UNKNOWN`` when there is neither."""
        if self.served:
            return max(0.0, self.latency_sum / self.answers - self.service_sum / self.served)
        return min(self.rtt_us, self.latency_us) if self.rtt_us and self.answers else UNKNOWN


Intervals = dict[tuple[str, str], Interval]
"""By instance and way (the zone of the gateway, "" for none)."""


def summed(seens: Iterable[Seen]) -> Intervals:
    """Sum up an interval."""
    made: Intervals = {}
    for seen in seens:
        key = (seen.workload, seen.via)
        if (interval := made.get(key)) is None:
            made[key] = Interval(seen)
        else:
            interval.add(seen)
    return made


def passages(zone: str, intervals: Intervals) -> Mapping[Way, list[Passage]]:
    """Return what an interval says of the links that start in ``zone``.

    Where neither an instance nor TCP says anything, the network's part is what it takes longer than those at home.
    """
    found: dict[Way, list[Passage]] = {}
    home = -1.0
    for (_, via), each in intervals.items() if zone else ():
        target, answers = each.zone, each.answers
        calls = answers + each.errors
        if not target or target == zone or not calls:
            continue
        network = each.network_us
        if network < 0.0 and answers:
            home = _home(zone, intervals) if home < 0.0 else home
            network = max(0.0, each.latency_us - home) if home else network
        lost = each.timeouts if answers else each.errors
        passage = Passage(network, answers, calls, lost if lost < calls else calls)
        if (some := found.get((zone, target, via))) is None:
            found[zone, target, via] = [passage]
        else:
            some.append(passage)
    return found


def _home(zone: str, intervals: Intervals) -> float:
    return median([(each.latency_us, each.answers) for each in intervals.values() if each.zone == zone])
