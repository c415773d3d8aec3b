"""Which virtual host of a route table an authority belongs to, as Envoy and gRFC A27 search.

"Exact domain names, then suffix domain wildcards, then prefix domain wildcards, then the special wildcard ``*``"; of
two wildcards the longer wins, and case does not matter. An authority is looked for as it is written, with its port or
without, and without a final dot, which our proxies take off, too: ``orders.`` must not go out as a stranger's name, in
plaintext. Invariant: a search costs one look-up for each length of wildcard, however many virtual hosts there are.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from masche.model.told import Table
from masche.model.view import Forward, VirtualHost
from masche.traffic.edge import without_final_dot


class Found(NamedTuple):
    """A virtual host, and the one of its domains by which it was found."""

    domain: str
    host: VirtualHost


class HostIndex:
    """The virtual hosts of one table by their domains. The first virtual host that has a domain keeps it."""

    __slots__ = ("_by_domain", "_ignores_port", "_prefixes", "_suffixes")

    def __init__(self, hosts: Iterable[VirtualHost] = (), *, ignores_port: bool = False) -> None:
        self._by_domain: dict[str, VirtualHost] = {}
        self._ignores_port = ignores_port
        for host in hosts:
            for domain in host.hosts:
                self._by_domain.setdefault(domain.lower(), host)
        wild = [domain for domain in self._by_domain if "*" in domain and domain != "*"]
        self._suffixes = _by_length(domain for domain in wild if domain.startswith("*"))
        self._prefixes = _by_length(domain for domain in wild if domain.endswith("*"))

    @classmethod
    def of(cls, table: Table) -> "HostIndex":
        """Index a table."""
        return cls(table.hosts, ignores_port=table.ignores_port)

    def find(self, authority: str) -> Found | None:
        """Return the virtual host of ``host`` or ``host:port``, or None: no route."""
        wanted = without_final_dot(authority.lower())
        if self._ignores_port:
            wanted = without_port(wanted)
        by_domain = self._by_domain
        if wanted in by_domain and "*" not in wanted:
            return Found(wanted, by_domain[wanted])
        domain = self._suffix(wanted) or self._prefix(wanted) or "*"
        host = by_domain.get(domain)
        return None if host is None else Found(domain, host)

    def get(self, domain: str) -> VirtualHost | None:
        """Return the virtual host that has this very domain."""
        return self._by_domain.get(domain)

    def _suffix(self, wanted: str) -> str:
        """The longest ``*.example.org`` that fits. "The wildcard will not match the empty string." """
        for length, domains in self._suffixes.items():
            if length < len(wanted) and (ending := wanted[-length:]) in domains:
                return f"*{ending}"
        return ""

    def _prefix(self, wanted: str) -> str:
        for length, domains in self._prefixes.items():
            if length < len(wanted) and (beginning := wanted[:length]) in domains:
                return f"{beginning}*"
        return ""

    def __repr__(self) -> str:
        return f"<HostIndex {len(self._by_domain)} domains>"


def _by_length(domains: Iterable[str]) -> Mapping[int, frozenset[str]]:
    """What wildcards leave to compare, by its length, longest first."""
    parts = {domain.strip("*") for domain in domains}
    lengths = sorted({len(part) for part in parts if part}, reverse=True)
    return {length: frozenset(part for part in parts if len(part) == length) for length in lengths}


def without_port(authority: str) -> str:
    """Return an authority without its port: ``[::1]:80`` is ``[::1]``."""
    host, colon, port = authority.rpartition(":")
    return host if colon and port.isdecimal() and (":" not in host or host.endswith("]")) else authority


def clusters_of(host: VirtualHost) -> Iterator[str]:
    """Yield the names of the clusters that a virtual host may lead to, mirrors too, as often as each stands there."""
    for route in host.routes:
        action = route.action
        if not isinstance(action, Forward):
            continue
        for mirror in action.mirrors:
            yield mirror.cluster.path
        for backend in action.backends:
            if backend.cluster is not None and backend.weight > 0 and backend.redirect is None:
                yield backend.cluster.path
                yield from (mirror.cluster.path for mirror in backend.mirrors)
