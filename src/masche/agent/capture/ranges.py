"""The addresses of workloads: an IPv4 range of the machine's own and an IPv6 one that nobody else has. Pure.

A workload's number decides its addresses and the name of its link. It follows from the workload's name, unless another
has it, and is remembered. Invariant: no two workloads have the same number.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from masche.model.refs import Name

GATEWAY = 1
"""The number of the bridge itself."""

CHOICES = ((10, range(101, 250)), (172, range(20, 32)), (100, range(64, 128)))
"""What stands in A.B.0.0/16 when nobody says which range to take: of 10.0.0.0/8 what home and office networks like
least, then, where all of that is routed, of 172.16.0.0/12 and of 100.64.0.0/10."""

LONGEST_PREFIX, SHORTEST_PREFIX = 28, 8
"""A range holds at least 13 workloads."""


class RangeError(ValueError):
    """A range cannot be used, or is full; the text says why."""


@dataclass(frozen=True, slots=True)
class Range:
    """``v4`` is the machine's IPv4 range and ``v6`` its IPv6 one, a /64."""

    v4: IPv4Network
    v6: IPv6Network

    @property
    def size(self) -> int:
        """How many numbers there are, those of the network, the bridge and the broadcast included."""
        return min(self.v4.num_addresses, 1 << 16)

    def address(self, number: int) -> IPv4Address:
        """The IPv4 address that goes with a number."""
        return self.v4[number]

    def address6(self, number: int) -> IPv6Address:
        """The IPv6 address that goes with a number."""
        return self.v6[number]

    def number_for(self, workload: Name, taken: Collection[int]) -> int:
        """Choose a number that nobody has, from a place that the workload's name decides. Raises RangeError."""
        usable = self.size - GATEWAY - 2
        digest = hashlib.blake2b(str(workload).encode(), digest_size=8).digest()
        first = int.from_bytes(digest, "big") % usable
        for step in range(usable):
            number = GATEWAY + 1 + (first + step) % usable
            if number not in taken:
                return number
        raise RangeError(f"all {usable} addresses of {self.v4} are taken: give the agent a larger --address-range")


def parse(text: str, tag: str) -> Range:
    """The range that a person asked for (``10.200.0.0/16``). Raises RangeError."""
    try:
        v4 = IPv4Network(text)
    except ValueError as error:
        raise RangeError(f"{text!r} is no range of IPv4 addresses: {error}") from error
    if not SHORTEST_PREFIX <= v4.prefixlen <= LONGEST_PREFIX:
        raise RangeError(f"{text} is to be between /{SHORTEST_PREFIX} and /{LONGEST_PREFIX}")
    return Range(v4, _unique_local(tag))


def free(tag: str, routed: Iterable[IPv4Network]) -> Range:
    """A range that goes nowhere yet, of those that nobody likes, by preference of the data folder. RangeError."""
    known = [network for network in routed if network.prefixlen]
    for v4 in _choices(tag):
        if not any(v4.overlaps(network) for network in known):
            return Range(v4, _unique_local(tag))
    raise RangeError("this machine has routes to every range that would do: give the agent an --address-range")


def _choices(tag: str) -> Iterator[IPv4Network]:
    for first, seconds in CHOICES:
        start = int(tag, 16) % len(seconds)
        for second in (*seconds[start:], *seconds[:start]):
            yield IPv4Network(f"{first}.{second}.0.0/16")


def _unique_local(tag: str) -> IPv6Network:
    """RFC 4193: "fd" and 40 bits that are as good as random."""
    digest = hashlib.blake2b(f"masche {tag}".encode(), digest_size=5).digest()
    return IPv6Network((bytes([0xFD]) + digest + bytes(10), 64))
