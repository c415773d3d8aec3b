"""All Blobs of one workload on one proxy: its listeners and what is behind them. Only this sees a Seat.

Decided from the View (shared by many) and the Seat (its own). Invariant: nothing here is shared, so nothing of a Seat
can leak into what is.
"""

from functools import lru_cache

from masche.compiler.envoy import capture, capture_inbound, gateway, inbound, neighbours, outbound, tunnels
from masche.compiler.envoy.seated import Seated, is_shared
from masche.model.blob import Blob
from masche.model.vantage import Placement, Seat
from masche.model.view import Inbound, View

SEATS_REMEMBERED = 1_024
"""As many as a few machines have; a seat's Blobs take some 20 KB."""


def listeners(view: View, seat: Seat) -> tuple[Blob, ...]:
    """Return the clusters, the listeners and the inbound tables of routes of one seat."""
    if view.vantage.is_east_west:
        return tuple(tunnels.listener(view.trust_domain, seat, port) for port in seat.ports)
    if view.vantage.placement is Placement.GATEWAY:
        return _gateway(view, seat)
    seated = Seated.of(view.vantage, seat)
    received, tables = _received(view.inbound, seat, seated, view.identity)
    first = (*received, *capture.blobs(view, seat, seated))
    if is_shared(view.vantage):
        return (*first, *tables)
    return (*first, *_called(view, seat), *tables)


@lru_cache(maxsize=SEATS_REMEMBERED)
def _received(inbound_side: Inbound, seat: Seat, seated: Seated, identity: str) -> tuple[tuple[Blob, ...], ...]:
    """How calls to one seat are received, and the tables for it; whom it may call has no influence on that."""
    served = tuple(
        inbound.Served(inbound=inbound_side, seat=seat, port=port, seated=seated, identity=identity)
        for port in seat.ports
    )
    clusters = [blob for each in served for blob in inbound.clusters(each)]
    found = [*capture_inbound.blobs(served, seat), *map(inbound.listener, served)]
    if seated.is_shared:
        found += map(neighbours.listener, served)
    return (*clusters, *found), tuple(blob for each in served for blob in inbound.tables(each))


def _called(view: View, seat: Seat) -> tuple[Blob, ...]:
    """The explicit ways in which the application of a sidecar reaches the mesh."""
    reached = {each.service: each for each in view.outbound}
    found = [
        outbound.local_listener(reached[local.service], local.port, view.identity, seat)
        for local in seat.local_ports
        if local.service in reached
    ]
    if not seat.proxy_port:
        return tuple(found)
    return (
        *outbound.proxy_clusters(),
        *found,
        *outbound.proxy_listeners(view.identity, seat, is_troubled=view.is_troubled),
    )


def _gateway(view: View, seat: Seat) -> tuple[Blob, ...]:
    """Every listener on the port that the Seat says: its own, or the only one (written 0) on another."""
    bound = dict(seat.gateway_ports)
    only = bound.get(0, 0) if len(view.gateway) == 1 else 0
    return tuple(
        gateway.gateway_listener(
            each, bound.get(each.port, only or each.port), view.identity, seat, view.inbound.limits
        )
        for each in view.gateway
    )
