"""What one workload may be told by mesh DNS, from its Scope. Pure, and without any library of DNS."""

from collections.abc import Iterable, Mapping

from masche.link.messages import ScopeService

Names = Mapping[str, tuple[str, ...]]
"""Virtual addresses, of both families, by the names that lead to them: lower case, without a final dot."""


def names(services: Iterable[ScopeService], *, has_ipv6: bool = True) -> Names:
    """Return what a workload with this Scope may be told. Without IPv6 in its namespace it is told no such address."""
    return {
        host.lower().rstrip("."): tuple(one for one in service.addresses if has_ipv6 or ":" not in one)
        for service in services
        if service.addresses
        for host in service.hosts
    }
