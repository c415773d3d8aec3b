"""One port on which an application listens, as a person names it: for ``masche run`` and for the library."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """``protocol`` is ``http``, ``http2``, ``grpc``, ``tcp``, or "" to let its ``name`` say it (``grpc-api``)."""

    port: int
    name: str = ""
    protocol: str = ""
