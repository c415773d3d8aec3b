"""What TCP itself measured: the round trips of this machine's open connections, as the kernel keeps them.

Asked by NETLINK_SOCK_DIAG (``inet_diag``), which needs no privilege, for every established connection at once. They are
there for services that speak no HTTP, and for instances that do not say what they took themselves. A connection counts
only while it hears something: one that is idle knows an old time. Linux only; elsewhere nothing is known.
"""

import socket
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address
from statistics import median_low

MAX_SOCKETS = 10_000
"""So many connections of the machine are looked at, and no more: some 25 ms."""

FRESH_MS = 2_000
"""How long ago, at the most, the other end was heard from: two Reports."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_ESTABLISHED = 1 << 1
_INFO = 2
"""``INET_DIAG_INFO``: the attribute with a ``struct tcp_info``."""

_WITHIN = 0.25
_RECEIVE_BYTES = 1 << 18

_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBxI48x")
_DESTINATION = struct.Struct("!2xH16s16s")
"""``struct inet_diag_sockid``: ports and addresses are in the order of the network."""
_SOCKID_AT, _MESSAGE_BYTES = 4, 72
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_LAST_ACK_AT, _RTT_AT, _INFO_BYTES = 56, 68, 72
"""Offsets in ``struct tcp_info``: ``tcpi_last_ack_recv`` in milliseconds, ``tcpi_rtt`` in microseconds."""


def round_trips(endpoints: Collection[str]) -> Mapping[str, int]:
    """Return the round trip, in microseconds, to each ``host:port`` of ``endpoints`` that a live connection leads to.

    Of several connections it is the median.
    """
    wanted = {key: endpoint for endpoint in endpoints if (key := _key(endpoint))}
    found: defaultdict[str, list[int]] = defaultdict(list)
    families = {socket.AF_INET if len(host) == 4 else socket.AF_INET6 for host, _ in wanted}
    for family in families:
        for key, rtt_us in _established(family, wanted.keys()):
            found[wanted[key]].append(rtt_us)
    return {endpoint: median_low(values) for endpoint, values in found.items()}


_Key = tuple[bytes, int]
"""An address as the kernel writes it, 4 or 16 bytes, and a port."""


def _key(endpoint: str) -> _Key | None:
    host, _, port = endpoint.rpartition(":")
    try:
        return ip_address(host.strip("[]")).packed, int(port)
    except ValueError:
        return None


def _established(family: int, wanted: Collection[_Key]) -> Iterator[tuple[_Key, int]]:
    """The round trips of the established connections to ``wanted``. What the kernel will not say is not known."""
    if not hasattr(socket, "AF_NETLINK"):
        return
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_WITHIN)
            question = _QUESTION.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), _ESTABLISHED)
            size = _HEADER.size + len(question)
            kernel.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 0, 0) + question)
            yield from _answers(kernel, 4 if family == socket.AF_INET else 16, wanted)
    except OSError:
        return


def _answers(kernel: socket.socket, width: int, wanted: Collection[_Key]) -> Iterator[tuple[_Key, int]]:
    seen = 0
    while seen < MAX_SOCKETS:
        data = kernel.recv(_RECEIVE_BYTES)
        at = 0
        while at + _HEADER.size <= len(data):
            size, kind, *_ = _HEADER.unpack_from(data, at)
            if kind in {_ERROR, _DONE} or size < _HEADER.size:
                return
            start, end, at, seen = at + _HEADER.size, at + size, at + _padded(size), seen + 1
            port, _, address = _DESTINATION.unpack_from(data, start + _SOCKID_AT)
            key = address[:width], port
            if key in wanted and (rtt_us := _fresh(data, start + _MESSAGE_BYTES, end)):
                yield key, rtt_us


def _fresh(data: bytes, at: int, end: int) -> int:
    """The round trip among the attributes of one connection; 0 when it has not heard anything for a while."""
    while at + _ATTRIBUTE.size <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return 0
        if kind == _INFO and size >= _ATTRIBUTE.size + _INFO_BYTES:
            info = at + _ATTRIBUTE.size
            [last_ack_ms], [rtt_us] = (_NUMBER.unpack_from(data, info + offset) for offset in (_LAST_ACK_AT, _RTT_AT))
            return rtt_us if last_ack_ms <= FRESH_MS else 0
        at += _padded(size)
    return 0


def _padded(size: int) -> int:
    return (size + 3) & ~3
