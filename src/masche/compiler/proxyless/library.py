"""What ``masche.library`` is told: the dialect ``library`` of a View.

The library is the explicit proxy of a sidecar, inside the application: it gets the very table of routes and the very
endpoints that sidecars get, clusters that say who may answer and how they are used, and a Listener for each port of its
own. Invariant: nothing of a View is left out, and nothing of what it is told does the library ignore.
"""

from functools import lru_cache

from masche.compiler.envoy import shared
from masche.compiler.envoy.managers import ROUTER, by_table
from masche.compiler.envoy.outbound import CORS
from masche.compiler.envoy.route_tables import PROXY
from masche.compiler.proxyless.library_clusters import cluster
from masche.compiler.proxyless.library_servers import LISTENER, MANAGER
from masche.compiler.proxyless.library_servers import listener as server_listener
from masche.model.blob import Blob
from masche.model.told import CLIENT_LISTENER
from masche.model.vantage import Seat
from masche.model.view import View
from masche.wire import framing, types
from masche.wire.messages import any_of, encode


def blobs(view: View) -> tuple[Blob, ...]:
    """Return all that depends on a View alone: clusters, the table of routes, and the client's Listener."""
    clusters = (cluster(each, view.east_west) for each in view.clusters)
    return (*clusters, shared.proxy(view), _client())


@lru_cache(maxsize=1)
def _client() -> Blob:
    """The Listener of whoever calls: it names the one table that there is."""
    manager = {"stat_prefix": PROXY, **by_table(PROXY), "http_filters": [CORS, ROUTER]}
    body = {"name": CLIENT_LISTENER, "api_listener": {"api_listener": any_of(MANAGER, manager)}}
    return framing.blob(types.LISTENER, CLIENT_LISTENER, encode(LISTENER, body))


def listeners(view: View, seat: Seat) -> tuple[Blob, ...]:
    """Return the Listeners of one workload's servers: the only thing that sees a Seat."""
    return tuple(server_listener(view.inbound, seat, port) for port in seat.ports)
