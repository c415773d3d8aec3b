"""Where control planes are reached, and where other machines reach this one: the address from which it
would talk to its control plane.
"""

import socket
from collections.abc import Iterable

LOOPBACK = "127.0.0.1"

LINK_PORT = 15012
"""Where a control plane is reached over mutual TLS, when it did not say."""


def reachable(control_planes: Iterable[str]) -> str:
    """The local address on the route to the first control plane (``host:port``) that has one; loopback without any.

    Connecting a datagram socket asks the routing table and sends nothing.
    """
    for target in control_planes:
        host, _, port = target.rpartition(":")
        if port.isdecimal() and (found := _towards(host.strip("[]"), int(port))):
            return found
    return LOOPBACK


def _towards(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return ""
