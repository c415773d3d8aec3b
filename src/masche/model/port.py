"""One port on which an application listens, as a person names it: for ``masche run`` and for the library."""

from masche.model.frozen import frozen


@frozen
class Port:
    """``protocol`` is ``http``, ``http2``, ``grpc``, ``tcp``, or "" to let its ``name`` say it (``grpc-api``)."""

    port: int
    name: str = ""
    protocol: str = ""
