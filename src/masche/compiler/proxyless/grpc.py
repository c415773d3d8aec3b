"""What gRPC's own xDS clients and servers are told: the dialect ``grpc`` of a View.

An application that uses them needs no code of ours, only a bootstrap. They ignore in silence what they do not carry
out, and refuse what they do not understand together with all else of its kind; so here stands what grpcio 1.80
carries out and nothing else, and ``unheeded`` says of the rest that it is ignored. Invariant: what is left out never
lets anybody in, and never sends in plaintext what is to be encrypted.
"""

from functools import lru_cache

from masche.compiler.envoy.routes import INVALID
from masche.compiler.proxyless.grpc_clusters import cluster, nowhere
from masche.compiler.proxyless.grpc_routes import leads_nowhere, ways
from masche.compiler.proxyless.grpc_servers import listeners as server_listeners
from masche.model.blob import Blob
from masche.model.vantage import Seat
from masche.model.view import Cluster, Outbound, View


def blobs(view: View) -> tuple[Blob, ...]:
    """Return all that depends on a View alone: clusters, tables of routes, and the Listeners of clients."""
    return _calling(view.outbound, view.clusters)


@lru_cache(maxsize=256)
def _calling(outbounds: tuple[Outbound, ...], clusters: tuple[Cluster, ...]) -> tuple[Blob, ...]:
    missing = nowhere(INVALID) if leads_nowhere(outbounds) else ()
    return (*map(cluster, clusters), *missing, *ways(outbounds, clusters))


def listeners(view: View, seat: Seat) -> tuple[Blob, ...]:
    """Return the Listeners of one workload's servers: the only thing that sees a Seat."""
    return tuple(server_listeners(view.inbound, seat))
