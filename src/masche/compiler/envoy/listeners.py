"""All Blobs of one workload on one proxy: its listeners and what is behind them. Only this sees a Seat.

Decided from the View (shared by many) and the Seat (its own). Invariant: nothing here is shared, so nothing of a Seat
can leak into what is.
"""

from masche.compiler.envoy import capture, capture_inbound, gateway, inbound, neighbours, outbound, tunnels
from masche.compiler.envoy.seated import Seated, is_shared
from masche.model.blob import Blob
from masche.model.vantage import Placement, Seat
from masche.model.view import View


def listeners(view: View, seat: Seat) -> tuple[Blob, ...]:
    """Return the clusters, the listeners and the inbound tables of routes of one seat."""
    if view.vantage.is_east_west:
        return tuple(tunnels.listener(view.trust_domain, seat, port) for port in seat.ports)
    if view.vantage.placement is Placement.GATEWAY:
        return _gateway(view, seat)
    served = _served(view, seat)
    clusters = [blob for each in served for blob in inbound.clusters(each)]
    tables = [blob for each in served for blob in inbound.tables(each)]
    found = [inbound.listener(each) for each in served]
    captured = (*capture.blobs(view, seat, Seated.of(view.vantage, seat)), *capture_inbound.blobs(served, seat))
    if is_shared(view.vantage):
        found += [neighbours.listener(each) for each in served]
        return (*clusters, *captured, *found, *tables)
    reached = {each.service: each for each in view.outbound}
    found += [
        outbound.local_listener(reached[local.service], local.port, view.identity, seat)
        for local in seat.local_ports
        if local.service in reached
    ]
    if seat.proxy_port:
        clusters += outbound.proxy_clusters()
        found += outbound.proxy_listeners(view.identity, seat)
    return (*clusters, *captured, *found, *tables)


def _served(view: View, seat: Seat) -> tuple[inbound.Served, ...]:
    seated = Seated.of(view.vantage, seat)
    return tuple(
        inbound.Served(inbound=view.inbound, seat=seat, port=port, seated=seated, identity=view.identity)
        for port in seat.ports
    )


def _gateway(view: View, seat: Seat) -> tuple[Blob, ...]:
    """Every listener on the port that the Seat says: its own, or the only one (written 0) on another."""
    bound = dict(seat.gateway_ports)
    only = bound.get(0, 0) if len(view.gateway) == 1 else 0
    return tuple(
        gateway.gateway_listener(each, bound.get(each.port, only or each.port), view.identity, seat)
        for each in view.gateway
    )
