"""The endpoints that a node proxy alone has otherwise than all others: it calls the workloads that it serves itself
within itself.

Invariant: the Blob of a Service depends on its instances and on which of them this proxy serves, and on no other
workload of the machine; so whoever comes or goes beside them changes nothing of it.
"""

from collections.abc import Collection, Iterable, Iterator

from masche.compiler.envoy import endpoints as encoded
from masche.model.blob import Blob
from masche.model.refs import PortRef
from masche.model.view import Endpoints

EndpointKey = tuple[PortRef, str]
"""A port of a Service, and the zone of who calls."""

Served = frozenset[str]
"""Workloads (``namespace/name``) that one proxy serves."""


class Beside:
    """Remembers what was encoded, for as long as it is asked for."""

    def __init__(self) -> None:
        self._members: dict[EndpointKey, tuple[Endpoints, Served]] = {}
        self._made: dict[tuple[EndpointKey, Served], tuple[Endpoints, Blob]] = {}

    def blobs(self, every: Iterable[tuple[EndpointKey, Endpoints]], served: Served) -> Iterator[Blob]:
        """Those of ``every`` Service with an instance that a proxy serves itself, as that proxy has them."""
        for key, found in every:
            if near := served & self._instances(key, found):
                yield self._blob(key, found, near)

    def _instances(self, key: EndpointKey, found: Endpoints) -> Served:
        known = self._members.get(key)
        if known is None or known[0] is not found:
            names = frozenset(each.workload for locality in found.localities for each in locality.endpoints)
            known = self._members[key] = (found, names)
        return known[1]

    def _blob(self, key: EndpointKey, found: Endpoints, near: Served) -> Blob:
        known = self._made.get((key, near))
        if known is None or known[0] is not found:
            known = self._made[key, near] = (found, encoded.blob(found, local=near))
        return known[1]

    def keep_only(self, keys: Collection[EndpointKey], proxies: Collection[Served]) -> None:
        """Forget what none of these proxies needs any more."""
        homes = {workload: served for served in proxies for workload in served}
        self._members = {key: known for key, known in self._members.items() if key in keys}
        self._made = {
            (key, near): made for (key, near), made in self._made.items() if self._is_needed(key, near, homes)
        }

    def _is_needed(self, key: EndpointKey, near: Served, homes: dict[str, Served]) -> bool:
        served, known = homes.get(next(iter(near))), self._members.get(key)
        return served is not None and known is not None and served & known[1] == near
