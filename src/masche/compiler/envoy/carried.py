"""Write down an endpoint that a gateway between zones carries us to, and the socket by which it is reached.

Such an endpoint is an address inside Envoy: the listener ``detour``, which reads from the endpoint's metadata which
gateway to ask and for whom. Invariant: the mutual TLS inside is made with the endpoint itself, so the gateway in
between sees who calls whom, and no more.
"""

from functools import lru_cache

from masche.compiler.envoy.parts import extension
from masche.wire.framing import field, text
from masche.wire.messages import Body, Json, encode

LISTENER = "detour"
"""The internal listener in which detours begin."""

TUNNEL, DESTINATION = "masche.tunnel", "destination"
"""Where an endpoint's metadata say to whom the gateway is asked to connect."""

DETOUR, VIA = "masche.detour", "via"
"""Where an endpoint's metadata say which gateway carries it, for whoever measures."""

CALLED = "envoy.filters.listener.original_dst"
"""Where an internal listener finds the address that was called; of a detour it is the gateway's."""


@lru_cache(maxsize=65_536)
def endpoint(real: str, via: str) -> tuple[bytes, bytes]:
    """Return the ``Address`` and the ``Metadata`` of the instance at ``real``, reached by the gateway at ``via``.

    Two ways to one instance are two addresses: Envoy would drop one of two alike.
    """
    internal = text(1, LISTENER) + text(2, f"{real}@{via}")
    metadata: Body = {TUNNEL: {DESTINATION: real}, DETOUR: {VIA: via}, CALLED: {"local": via}}
    return field(3, internal), encode("envoy.config.core.v3.Metadata", {"filter_metadata": metadata})


def through(socket: Body) -> Body:
    """Return a transport socket that hands an endpoint's metadata on to ``detour``; a direct one notices nothing."""
    return inside(socket, TUNNEL, CALLED)


def inside(socket: Body, *metadata: str) -> Body:
    """Return a transport socket into an internal listener, which is told of the endpoint's ``metadata``.

    What the caller's filter state shares with its upstream it is told of, too.
    """
    handed_on: list[Json] = [{"kind": {"host": {}}, "name": name} for name in metadata]
    return extension(
        "envoy.transport_sockets.internal_upstream",
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        {"passthrough_metadata": handed_on, "transport_socket": socket},
    )
