"""Whether a workload may be known by an address of the machine alone."""

import ipaddress
import socket
from collections.abc import Collection

from masche.agent.capture.apply import CaptureError

FIX = "give this machine one more address (ip address add ... dev ...), and the command that one"

_DISCARD = 9
_FAR = {4: "198.51.100.1", 6: "2001:db8::1"}
"""Addresses of documentation, to which nothing is ever sent: they ask which address the machine would send from."""


def check(address: str, *, but: Collection[str]) -> None:
    """Raise CaptureError unless this is an address of this machine that is for nothing else."""
    try:
        asked = ipaddress.ip_address(address)
    except ValueError as error:
        raise CaptureError(f"{address!r} is no IP address", fix=FIX) from error
    if asked.is_loopback or asked.is_unspecified or asked.is_link_local or asked.is_multicast:
        raise CaptureError(f"{address} leads nowhere beyond this machine, or to all of it", fix=FIX)
    if not _is_ours(asked):
        raise CaptureError(f"{address} is no address of this machine", fix=FIX)
    if address in but or str(asked) == _source(asked.version):
        raise CaptureError(f"{address} is this machine's own, from which its proxies call, too", fix=FIX)


def _is_ours(asked: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    with _datagrams(asked.version) as probe:
        try:
            probe.bind((str(asked), 0))
        except OSError:
            return False
        return True


def _source(version: int) -> str:
    with _datagrams(version) as probe:
        try:
            probe.connect((_FAR[version], _DISCARD))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _datagrams(version: int) -> socket.socket:
    return socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
