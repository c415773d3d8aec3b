"""A connection to a TCP service in a thread, as what clients use like a socket.

Invariant: a connection that nobody got is closed, and one that somebody got is counted until it is closed.
"""

import socket
from contextlib import suppress
from typing import Any, Self

from masche.library.core.exchange import Answer, Blame, Ending, Head, Target
from masche.library.core.facade import Facade
from masche.library.core.ports import BYTES
from masche.library.core.socket_files import SocketFiles
from masche.library.core.streams import CONNECTED, Streams, asked, blame, counting, outside, refused
from masche.library.core.sync_driver import SyncDriver
from masche.library.core.tls import peer_id
from masche.library.core.ways_sync import tunnel
from masche.traffic.request import Headers, Request


class Stream(SocketFiles):
    """A connection to an instance of a TCP service, for what takes a connected socket that blocks.

    It has ``recv``, ``recv_into``, ``send``, ``sendall``, ``makefile``, ``close`` and all else of the socket beneath;
    ``peer`` is the SPIFFE ID of the instance, "" of one that the mesh itself says to have no proxy.
    """

    def __init__(self, connection: Any, streams: Streams, ending: Ending) -> None:
        self._connection, self._streams, self._ending = connection, streams, ending
        self._received = 0
        self.peer = peer_id(connection)

    def __repr__(self) -> str:
        return f"<Stream to {self.peer or 'an instance without a proxy'}{', closed' if self._is_ended else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv(self, size: int = 65_536, flags: int = 0) -> bytes:
        """Return the next bytes, none at the end."""
        data: bytes = self._connection.recv(size, flags)
        self._received += len(data)
        return data

    def recv_into(self, buffer: Any, size: int | None = None, flags: int = 0) -> int:
        """Read the next bytes into ``buffer``, and return how many."""
        count: int = self._connection.recv_into(buffer, size or 0, flags)
        self._received += count
        return count

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some of it, and return how much."""
        count: int = self._connection.send(data, flags)
        self._streams.sent += count
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of it."""
        self._connection.sendall(data, flags)
        self._streams.sent += memoryview(data).nbytes

    def end(self) -> None:
        """Close it, and let it count no more."""
        try:
            self._connection.close()
        finally:
            self._ending.over(received=self._received)


def opened(facade: Facade, host: str, port: int, *, timeout: float | None) -> Stream:
    """See ``library.tcp.connect``."""
    streams = Streams(facade.recorder)
    mesh = counting(facade, streams)
    return SyncDriver(lambda: mesh).call(asked(host, port, timeout), _Exchange(mesh, streams, timeout))


class _Exchange:
    """One call for a connection."""

    is_spent = False

    def __init__(self, facade: Facade, streams: Streams, timeout: float | None) -> None:
        self._facade, self._streams, self._timeout = facade, streams, timeout

    def attempt(self, target: Target) -> Any:
        """Connect to one instance."""
        within = min(target.timeout, target.connect_timeout or target.timeout)
        connection = self._connected(target, None if within == float("inf") else max(0.001, within))
        connection.settimeout(self._timeout)
        return connection

    def _connected(self, target: Target, timeout: float | None) -> Any:
        identity = self._facade.identity
        if target.way is not None:
            gateway = identity.client_context(target.way.identities)
            plain: socket.socket = tunnel(target.way, target.endpoint, gateway=gateway, timeout=timeout)
        else:
            plain = socket.create_connection((target.address, target.port), timeout)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not target.is_tls:
            return plain
        try:
            return identity.client_context(target.identities, BYTES).wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def outside(self, request: Request) -> Stream:
        """Refuse what is not of the mesh."""
        raise outside(request)

    def drop(self, raw: Any) -> None:
        """Close a connection that nobody wants."""
        with suppress(OSError):
            raw.close()

    def head(self, raw: Any) -> Head:  # noqa: ARG002 # they are all alike
        """It was made."""
        return CONNECTED

    def blame(self, error: Exception) -> Blame:
        """See ``streams``."""
        return blame(error)

    def finished(self, raw: Any, headers: Headers, ending: Ending) -> Stream:  # noqa: ARG002 # there are none
        """Hand it over."""
        return Stream(raw, self._streams, ending)

    def answered(self, answer: Answer) -> Stream:
        """The mesh itself refuses."""
        raise refused(answer)

    def timed_out(self, why: str) -> Exception:
        """It took too long."""
        return TimeoutError(why)
