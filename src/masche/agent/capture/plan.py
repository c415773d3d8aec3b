"""What to tell ``ip`` so that a workload has its namespace, link and addresses, or has them no more. Pure.

Decided from what is wanted and from what is there already, so that a setup which was killed at any step is finished by
the next one. Invariants: what has a wrong end is made anew, what runs is left alone; a link comes up only after the
namespace has its rules, and is taken away before the namespace is, so that whoever stays inside reaches nobody.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from masche.agent.capture.names import INNER, Names
from masche.agent.capture.ranges import GATEWAY, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is of one workload: ``has_outer`` and ``has_inner`` are the two ends of its link.

    ``has_file`` says that the namespace's file is there, ``has_namespace`` that it is a namespace, too.
    """

    has_bridge: bool = False
    has_file: bool = False
    has_namespace: bool = False
    has_outer: bool = False
    has_inner: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One workload's namespace: its name, its number within the range, and whether this machine has IPv6."""

    names: Names
    range: Range
    namespace: str
    number: int
    has_ipv6: bool

    @property
    def outer(self) -> str:
        """The host's end of the link."""
        return self.names.link(self.number)


def outside(wanted: Wanted, found: Found) -> tuple[str, ...]:
    """The lines for ``ip -batch -`` on the host: bridge, namespace, and the link between the two."""
    lines = [*_bridge(wanted, found)]
    if found.has_file and not found.has_namespace:  # killed between the two steps of `ip netns add`
        lines.append(f"netns del {wanted.namespace}")
    if not found.has_namespace:
        lines.append(f"netns add {wanted.namespace}")
    outer = wanted.outer
    if not (found.has_outer and found.has_inner):
        if found.has_outer:
            lines.append(f"link del {outer}")
        lines.append(f"link add {outer} type veth peer name {INNER} netns {wanted.namespace}")
    lines.append(f"link set {outer} master {wanted.names.bridge}")
    lines.append(f"link set {outer} type bridge_slave isolated on")  # no word from one workload straight to another
    lines.append(f"link set {outer} up")
    return tuple(lines)


def _bridge(wanted: Wanted, found: Found) -> Iterator[str]:
    """The lines that make the machine's bridge; one that is there may have been left without its addresses."""
    name, network = wanted.names.bridge, wanted.range
    if not found.has_bridge:
        yield f"link add {name} address {wanted.names.mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    yield f"addr replace {network.address(GATEWAY)}/{network.v4.prefixlen} dev {name}"
    if wanted.has_ipv6:
        yield f"addr replace {network.address6(GATEWAY)}/{network.v6.prefixlen} dev {name} nodad"
    yield f"link set {name} up"


def inside(wanted: Wanted) -> tuple[str, ...]:
    """The lines for ``ip -batch -`` inside the namespace: loopback, addresses, and the way out."""
    network = wanted.range
    lines = [
        "link set lo up",
        f"addr replace {network.address(wanted.number)}/{network.v4.prefixlen} dev {INNER}",
    ]
    if wanted.has_ipv6:
        lines.append(f"addr replace {network.address6(wanted.number)}/{network.v6.prefixlen} dev {INNER} nodad")
    lines += [f"link set {INNER} up", f"route replace default via {network.address(GATEWAY)} dev {INNER}"]
    if wanted.has_ipv6:
        lines.append(f"route replace ::/0 via {network.address6(GATEWAY)} dev {INNER}")
    return tuple(lines)


def removal(*, links: tuple[str, ...], namespaces: tuple[str, ...], bridges: tuple[str, ...]) -> tuple[str, ...]:
    """The lines that take all of this away: whoever stays inside is cut off first."""
    return (
        *(f"link del {link}" for link in links),
        *(f"netns del {namespace}" for namespace in namespaces),
        *(f"link del {each}" for each in bridges),
    )
