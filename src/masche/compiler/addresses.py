"""One virtual address of each family per Service: where a captured connection says which Service it means.

An address is made of the Service's name, so that it is the same on every machine, for every control plane, and after
any restart, without being stored. Two Services whose names lead to one address are told apart in the order of their
names, so a new Service can only ever move one that it collides with (0.01 % of meshes with 300 Services have such a
pair). Invariant: no two Services share an address.
"""

from collections.abc import Mapping
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from masche.compiler.remember import by_identity
from masche.model.refs import Name
from masche.model.resources.core import Service

IPV4 = IPv4Network("240.64.0.0/10")
"""Within 240.0.0.0/4, "reserved for future use" (RFC 1112, section 4): no host on any network has such an address."""

IPV6 = IPv6Network("fd6d:6173:6368::/96")
"""A unique local prefix (RFC 4193); an address ends in the number that its IPv4 twin ends in."""

_ROOM = IPV4.num_addresses - 2


@by_identity
def virtual_addresses(services: Mapping[Name, Service]) -> Mapping[Name, tuple[str, str]]:
    """Return the virtual addresses of every Service, IPv4 and IPv6.

    Raises:
        ValueError: there are more Services than addresses.
    """
    if len(services) > _ROOM:
        raise ValueError(f"{len(services)} Services are more than the {_ROOM} virtual addresses of {IPV4}")
    taken: set[int] = set()
    found: dict[Name, tuple[str, str]] = {}
    for name in sorted(services):
        number = _wished(name)
        while number in taken:
            number = (number + 1) % _ROOM
        taken.add(number)
        found[name] = _spelled(number)
    return found


def _wished(name: Name) -> int:
    digest = blake2b(str(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % _ROOM


def _spelled(number: int) -> tuple[str, str]:
    """Neither the first address of the range nor the last."""
    return str(IPv4Address(int(IPV4[0]) + 1 + number)), str(IPv6Address(int(IPV6[0]) + 1 + number))
