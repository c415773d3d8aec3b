"""What one workload may be told by mesh DNS, from its Scope. Pure, and without any library of DNS.

Invariant: workloads that may be told the same share one table, which lives for as long as one of them has it.
"""

from collections.abc import Iterator, Mapping
from weakref import WeakValueDictionary

from masche.link.messages import ScopeService

Names = Mapping[str, tuple[str, ...]]
"""Virtual addresses, of both families, by the names that lead to them: lower case, without a final dot."""


class _Table(dict[str, tuple[str, ...]]):
    """Names that are forgotten with the last who has them."""

    __slots__ = ("__weakref__",)


_TABLES: WeakValueDictionary[tuple[tuple[ScopeService, ...], bool], _Table] = WeakValueDictionary()


def names(services: tuple[ScopeService, ...], *, has_ipv6: bool = True) -> Names:
    """Return what a workload with this Scope may be told. Without IPv6 in its namespace it is told no such address."""
    table = _TABLES.get((services, has_ipv6))
    if table is None:
        table = _TABLES[services, has_ipv6] = _Table(_entries(services, has_ipv6=has_ipv6))
    return table


def _entries(services: tuple[ScopeService, ...], *, has_ipv6: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for service in services:
        addresses = tuple(one for one in service.addresses if has_ipv6 or ":" not in one)
        for host in service.hosts if service.addresses else ():
            yield host.lower().rstrip("."), addresses
