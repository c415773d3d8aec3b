"""Which ports of a command listen beyond loopback, so that callers could go around its proxy.

Decided from /proc alone; nothing is connected to.
"""

import ipaddress
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from masche.agent.processes import PROC, descendants

_LISTEN = "0A"


class Listening(NamedTuple):
    """A listening TCP socket."""

    address: str
    port: int
    inode: str


def exposed(pid: int, ports: Iterable[int]) -> tuple[Listening, ...]:
    """The sockets of ``pid`` and its descendants that listen on one of ``ports`` beyond loopback, sorted."""
    wanted = frozenset(ports)
    beyond = [one for one in listening(pid) if one.port in wanted and not _is_loopback(one.address)]
    if not beyond:
        return ()
    owned = {inode for member in descendants(pid) for inode in _sockets(member)}
    return tuple(sorted({one for one in beyond if one.inode in owned}))


def taken(ports: Iterable[int]) -> tuple[int, ...]:
    """Those of ``ports`` on which somebody listens here already, where a command that is to start would, sorted."""
    wanted = frozenset(ports)
    return tuple(sorted({one.port for one in listening("thread-self") if one.port in wanted and one.address in _HERE}))


_HERE = frozenset({"127.0.0.1", "0.0.0.0", "::1", "::"})  # noqa: S104 - compared with, and not listened on


def listening(process: int | str) -> Iterator[Listening]:
    """Every listening TCP socket of the network namespace in which a process ("thread-self": this thread) lives."""
    for table in ("tcp", "tcp6"):
        try:
            rows = (PROC / str(process) / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, rows):
            if fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                yield Listening(_address(address), int(port, 16), fields[9])


def _address(raw: str) -> str:
    """Addresses in /proc/net are hex, each 32-bit word in the byte order of the machine."""
    words = [bytes.fromhex(raw[at : at + 8]) for at in range(0, len(raw), 8)]
    packed = b"".join(word[::-1] for word in words) if _IS_LITTLE else b"".join(words)
    return str(ipaddress.ip_address(packed))


_IS_LITTLE = memoryview(b"\1\0").cast("H")[0] == 1


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _sockets(pid: int) -> Iterator[str]:
    try:
        entries = list(os.scandir(PROC / str(pid) / "fd"))
    except OSError:
        return
    for entry in entries:
        try:
            target = str(Path(entry.path).readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]
