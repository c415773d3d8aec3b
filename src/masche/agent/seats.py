"""Which TCP ports belong to which seat: chosen once, remembered on disk, held by a bound socket while the agent lives.

A held port is bound exclusively and only then opened to SO_REUSEPORT, so no stranger can have it, while an Envoy of the
same user, which sets SO_REUSEPORT, still binds it. A bound socket that does not listen receives nothing.
Invariant: a key keeps its port for as long as its seat exists, unless another process took it while nobody held it.
"""

import hashlib
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from masche.identity.files import write_private

INBOUND_PORT = 15006
PROXY_PORT = 15001
"""What the first proxy of a host gets; others take free ports."""

LOWEST, HIGHEST = 20_000, 32_000
"""Below the ephemeral range of Linux (32768), so that no outgoing connection can sit on a port we remember."""


class NoPortError(Exception):
    """Every port of the range is taken."""


class PortBook:
    """The ports of all seats of one machine. Keys are ``<workload>#<purpose>``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ports = _read(file)
        self._held: dict[str, socket.socket] = {}

    def __repr__(self) -> str:
        return f"<PortBook {len(self._ports)} ports, {len(self._held)} held>"

    def take(self, key: str, *, address: str = "127.0.0.1", preferred: int = 0, is_in_use: bool = False) -> int:
        """Return the port of ``key``, choosing one if it has none, and hold it.

        ``is_in_use`` says that our own Envoy already listens there, so the port cannot be tried exclusively.

        Raises:
            NoPortError: there is no free port.
        """
        if key in self._held:
            return self._ports[key]
        known = self._ports.get(key, 0)
        if known and is_in_use and self._hold(key, address, known, is_exclusive=False):
            return known
        for port in self._candidates(key, known, preferred):
            if self._hold(key, address, port, is_exclusive=True):
                self._ports[key] = port
                return port
        raise NoPortError(f"no free port between {LOWEST} and {HIGHEST} on {address}")

    def take_inbound(
        self, workload: str, app_ports: Iterable[int], *, address: str, preferred: int, only: int, is_in_use: bool
    ) -> dict[int, int]:
        """Return where the proxy takes calls for each port of the application: the first of them on ``preferred`` if
        that is free, and on ``only``, or not at all, when that is not 0.

        Raises:
            NoPortError: there is no free port.
        """
        found: dict[int, int] = {}
        for app_port in app_ports:
            key = f"{workload}#inbound/{app_port}"
            if only and not found:
                found[app_port] = self.take_exactly(key, only, address=address, is_in_use=is_in_use)
            else:
                wish = 0 if found else preferred
                found[app_port] = self.take(key, address=address, preferred=wish, is_in_use=is_in_use)
        return found

    def take_exactly(self, key: str, port: int, *, address: str, is_in_use: bool = False) -> int:
        """Hold this very port for ``key``, whatever it had before.

        Raises:
            NoPortError: somebody else has it.
        """
        if self._ports.get(key) != port:
            self.let_go(key)
        if key not in self._held and not self._hold(key, address, port, is_exclusive=not is_in_use):
            raise NoPortError(f"port {port} of {address} is taken")
        self._ports[key] = port
        return port

    def release(self, workload: str) -> None:
        """Forget every port of a seat and save."""
        mine = [key for key in self._ports if key.partition("#")[0] == workload]
        for key in mine:
            del self._ports[key]
            self.let_go(key)
        self.save()

    def let_go(self, key: str) -> None:
        """Stop holding a port but remember whose it is."""
        if held := self._held.pop(key, None):
            held.close()

    def let_go_of(self, workload: str) -> None:
        """Stop holding every port of a seat, for a later run to take again."""
        for key in [key for key in self._held if key.partition("#")[0] == workload]:
            self.let_go(key)

    def save(self) -> None:
        """Write what is remembered to disk, and wait for none: after a crash of the machine other ports will do."""
        write_private(self._file, msgspec.json.encode(self._ports), is_durable=False)

    def close(self) -> None:
        """Let go of everything."""
        for key in tuple(self._held):
            self.let_go(key)

    def _candidates(self, key: str, known: int, preferred: int) -> Iterator[int]:
        """First what it had, then what it would like, then the range from a place that its name decides."""
        taken = set(self._ports.values())
        if known:
            yield known
        if preferred and preferred not in taken:
            yield preferred
        size = HIGHEST - LOWEST
        first = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % size
        for step in range(size):
            port = LOWEST + (first + step) % size
            if port not in taken:
                yield port

    def _hold(self, key: str, address: str, port: int, *, is_exclusive: bool) -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        held = socket.socket(family, socket.SOCK_STREAM)
        try:
            # While binding, REUSEADDR steps over connections in TIME_WAIT; afterwards it would let strangers in.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if is_exclusive else socket.SO_REUSEPORT, 1)
            held.bind((address, port))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:
            held.close()
            return False
        self._held[key] = held
        return True


def _read(file: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return {}
