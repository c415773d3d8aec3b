"""All decoders of xDS resources: bytes in, values of the model out, or the reason why not.

``decoders[type_url](name, data)`` returns a Destination, Endpoints, Told or ToldServer, or Table. ``name`` is what the
resource was asked for, "" when that is not known; what it calls itself must agree. Invariant: a decoder returns a value
that the library carries out whole, or raises a WireError whose sentence a NACK can say.
"""

from collections.abc import Callable, Mapping

from masche.wire import types
from masche.wire.decode.clusters import destination
from masche.wire.decode.endpoints import endpoints
from masche.wire.decode.listeners import listener
from masche.wire.decode.routes import table

Decode = Callable[[str, bytes], object]

decoders: Mapping[str, Decode] = {
    types.CLUSTER: destination,
    types.ENDPOINTS: endpoints,
    types.LISTENER: listener,
    types.ROUTES: table,
}
"""By type URL."""
