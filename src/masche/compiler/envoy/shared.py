"""All Blobs that depend on a View alone: the clusters and the route tables that its proxies share.

Invariant: an equal part of two Views is the same Blob, encoded once.
"""

from functools import lru_cache

from masche.compiler.envoy import copies, detours, tunnels, witness
from masche.compiler.envoy.clusters import cluster
from masche.compiler.envoy.route_tables import gateway_table, narrowed_proxy_table, proxy_table, service_table
from masche.compiler.envoy.seated import is_shared
from masche.compiler.remember import by_identity
from masche.model.blob import Blob
from masche.model.refs import Name
from masche.model.vantage import Placement
from masche.model.view import Cluster, Outbound, View


def blobs(view: View) -> tuple[Blob, ...]:
    """Return the clusters, then the route tables, of a View."""
    if view.vantage.is_east_west:
        return (tunnels.CARRIED,)
    is_carried, is_node = bool(view.east_west), is_shared(view.vantage)
    made = _made(view.clusters)
    if (is_carried, is_node) not in made:
        some = (cluster(each, is_carried=is_carried, is_shared=is_node) for each in view.clusters)
        made[is_carried, is_node] = tuple(some)
    clusters = made[is_carried, is_node] + detours.blobs(view.east_west, is_shared=is_node)
    if is_node:
        # What is called is chosen by its virtual address alone, in a table that comes with the listeners.
        return clusters + copies.blobs(view.outbound) + witness.BLOBS
    if view.vantage.placement is Placement.GATEWAY:
        return clusters + tuple(gateway_table(each, view.inbound) for each in view.gateway)
    tables = tuple(service_table(each) for each in view.outbound if each.protocol.is_http)
    return (*clusters, *tables, proxy(view))


@by_identity
def _made(_clusters: tuple[Cluster, ...]) -> dict[tuple[bool, bool], tuple[Blob, ...]]:
    """What was made of these clusters so far, which many Views share: they are looked at once for all of them."""
    return {}


def proxy(view: View) -> Blob:
    """Return the table of the explicit proxy, which the library is given, too."""
    return _proxy_table(view.outbound, is_registry_only=view.is_registry_only)


def narrowed(view: View, given: frozenset[Name]) -> Blob:
    """Return what replaces the table of the explicit proxy where only the Services ``given`` are given unasked."""
    return narrowed_proxy_table(
        view.outbound, given=given, namespace=view.vantage.namespace, is_registry_only=view.is_registry_only
    )


@lru_cache(maxsize=256)
def _proxy_table(outbounds: tuple[Outbound, ...], *, is_registry_only: bool) -> Blob:
    return proxy_table(outbounds, is_registry_only=is_registry_only)
