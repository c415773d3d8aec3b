"""A detour in a thread: the connection to an instance that a gateway between zones carries.

``tunnel`` is the connection as far as the gateway; the TLS contexts of the mesh make mutual TLS with the instance
within it (``Context.wrap_socket``), by ``Carried``, because ``ssl`` wraps descriptors and a tunnel has none of its own.
Invariant: however it fails, the connection to the gateway is closed, and the instance has seen nothing.
"""

import socket
import ssl
from contextlib import suppress
from threading import RLock
from time import monotonic
from typing import Any

from masche.library.core.socket_files import SocketFiles
from masche.library.core.ways import Consent, Way, WayError, request

_PIECE = 16 * 1024
"""Bytes; as much as one record of TLS holds."""


def tunnel(way: Way, endpoint: str, *, gateway: ssl.SSLContext, timeout: float | None) -> ssl.SSLSocket:
    """Return a connection to the gateway in which whatever is sent reaches ``endpoint`` (``host:port``).

    All of it takes ``timeout`` seconds at most (None: for ever). Raises TimeoutError, and OSError otherwise: WayError
    when the gateway does not carry us, ssl.SSLError when it is not who was expected.
    """
    until = None if timeout is None else monotonic() + timeout
    try:
        plain = socket.create_connection(way.address, timeout)
    except TimeoutError:
        raise
    except OSError as error:
        raise WayError(f"the gateway at {way.gateway} cannot be reached: {error}") from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = gateway.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise
    try:
        made.sendall(request(endpoint))
        consent = Consent(way, endpoint)
        _wait(made, until)
        while not consent.read(made.recv(_PIECE)):
            _wait(made, until)
    except BaseException:
        made.close()
        raise
    return made


def _wait(connection: ssl.SSLSocket, until: float | None) -> None:
    """Let the next read take what is left of the time."""
    if until is None:
        return
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError("the gateway did not answer in time")
    connection.settimeout(left)


class Carried(SocketFiles):
    """Mutual TLS within a tunnel, as a socket that blocks: what clients ask of a socket, and no more.

    For one thread at a time in each direction. ``inner`` is the TLS of the instance, over memory; ``outer`` the tunnel.
    """

    def __init__(
        self, outer: ssl.SSLSocket, inner: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._outer, self.inner, self._incoming, self._outgoing = outer, inner, incoming, outgoing
        self._lock = RLock()

    def __repr__(self) -> str:
        return f"<Carried by {self._outer.getpeername() if self.fileno() >= 0 else 'nobody any more'}>"

    def __enter__(self) -> "Carried":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def do_handshake(self, block: bool = True) -> None:  # noqa: ARG002 # as ssl spells it
        """Make mutual TLS. Raises ssl.SSLCertVerificationError when the peer is not who was expected; then it has not
        been told who we are.
        """
        while True:
            try:
                self.inner.do_handshake()
            except ssl.SSLWantReadError:
                self._send()
                self._receive()
            else:
                self._send()
                return

    # Bytes

    def recv(self, size: int = _PIECE, flags: int = 0) -> bytes:
        """Return the next bytes, none at the end."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer, size, flags)])

    def recv_into(self, buffer: Any, size: int | None = None, flags: int = 0) -> int:
        """Read the next bytes into ``buffer``, and return how many."""
        _plain(flags)
        view = memoryview(buffer).cast("B")
        wanted = min(size or len(view), len(view))
        while wanted:
            try:
                with self._lock:
                    return self.inner.read(wanted, view)  # type: ignore[arg-type] # any writable buffer will do
            except ssl.SSLWantReadError:
                self._send()  # TLS may have something to say of itself
                self._receive()
            except ssl.SSLZeroReturnError:
                break
            except ssl.SSLEOFError:
                break  # as sockets of ``ssl`` do it: it ended without a farewell
        return 0

    def read(self, size: int = _PIECE, buffer: Any = None) -> Any:
        """As ``ssl.SSLSocket`` has it."""
        return self.recv(size) if buffer is None else self.recv_into(buffer, size)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send all of it, and return how much that was."""
        _plain(flags)
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE):
            with self._lock:
                self.inner.write(view[start : start + _PIECE])
                self._send()
        return len(view)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of it."""
        self.send(data, flags)

    write = send

    # The connection

    def settimeout(self, timeout: float | None) -> None:
        """Let every read and write take so many seconds at most."""
        self._outer.settimeout(timeout)

    def gettimeout(self) -> float | None:
        """Seconds, None for ever."""
        return self._outer.gettimeout()

    def setblocking(self, flag: bool) -> None:
        """Block, or not at all."""
        self._outer.setblocking(flag)

    def setsockopt(self, *option: Any) -> None:
        """Of the connection to the gateway."""
        self._outer.setsockopt(*option)

    def fileno(self) -> int:
        """Of the connection to the gateway; -1 once it is closed."""
        return self._outer.fileno()

    def getpeername(self) -> Any:
        """Where the gateway is."""
        return self._outer.getpeername()

    def getsockname(self) -> Any:
        """Where we are."""
        return self._outer.getsockname()

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The instance's certificate."""
        return self.inner.getpeercert(binary_form)

    def version(self) -> str | None:
        """Of TLS with the instance."""
        return self.inner.version()

    def selected_alpn_protocol(self) -> str | None:
        """What is spoken with the instance."""
        return self.inner.selected_alpn_protocol()

    def pending(self) -> int:
        """How many bytes can be read without waiting."""
        return self.inner.pending()

    def shutdown(self, how: int) -> None:
        """End it in both directions; TLS over memory knows no other."""
        with suppress(OSError):
            self._farewell()
        self._outer.shutdown(how)

    def end(self) -> None:
        """Say so to the instance, and close the connection to the gateway."""
        with suppress(OSError):
            self._farewell()
        self._outer.close()

    def _farewell(self) -> None:
        with suppress(ssl.SSLError), self._lock:
            self.inner.unwrap()
        self._send()

    def _send(self) -> None:
        with self._lock:
            if data := self._outgoing.read():
                self._outer.sendall(data)

    def _receive(self) -> None:
        data = self._outer.recv(_PIECE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def _plain(flags: int) -> None:
    if flags:
        raise ValueError("TLS knows no flags")


def carried(outer: ssl.SSLSocket, context: ssl.SSLContext) -> Carried:
    """Begin mutual TLS of ``context`` within ``outer``; the handshake is still to be made."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    return Carried(outer, context.wrap_bio(incoming, outgoing), incoming, outgoing)
