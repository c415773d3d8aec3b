"""Encode calls between two workloads of one proxy: an internal listener for each mesh port, and the endpoint that
leads there.

Nothing of such a call leaves the process, so nothing is encrypted; who calls is known from where the connection was
captured. Order of a request as on a mesh port, after the handshake: the same table of routes, the same policies.
Invariant: an internal listener is reached from within this Envoy alone, and what it believes of a caller was written
down by the listener that captured the connection.
"""

from functools import lru_cache

from masche.compiler.east_west import authority
from masche.compiler.envoy import edge
from masche.compiler.envoy.carried import CALLED
from masche.compiler.envoy.clusters import LOCAL, MTLS_KEY, MTLS_METADATA
from masche.compiler.envoy.inbound import LISTENER, Known, Served, filters
from masche.compiler.envoy.parts import extension
from masche.compiler.envoy.seated import local
from masche.model.blob import Blob
from masche.wire import framing, types
from masche.wire.framing import field, text
from masche.wire.messages import Body, encode

_CALLED = extension(
    "envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
)
"""Reads from the endpoint's metadata which address was called, for policies that ask for it."""


def listener(served: Served) -> Blob:
    """Return the internal listener that stands for a mesh port."""
    name = served.seated.local(served.port.mesh_port)
    body: Body = {
        "name": name,
        "internal_listener": {},
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "traffic_direction": "INBOUND",
        "listener_filters": [_CALLED],
        "filter_chains": [{"name": "local", "filters": filters(served, Known.BY_NAMESPACE)}],
    }
    return framing.blob(types.LISTENER, name, encode(LISTENER, body), served.refs)


@lru_cache(maxsize=65_536)
def endpoint(workload: str, address: str, port: int) -> tuple[bytes, bytes]:
    """Return the ``Address`` and the ``Metadata`` of an instance that the proxy itself serves.

    The address that others call is kept beside it, for whoever measures.
    """
    called = authority(address, port)
    metadata: Body = {MTLS_METADATA: {MTLS_KEY: LOCAL}, CALLED: {"local": called}}
    within = field(3, text(1, local(workload, port)) + text(2, called))
    return within, encode("envoy.config.core.v3.Metadata", {"filter_metadata": metadata})
