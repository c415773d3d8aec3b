"""A client that sends the bytes it is given and nothing else, on one connection for many requests.

Whatever tidies requests (a path, a method, a repeated header) would hide what a proxy makes of them.
"""

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import suppress

from live.client import TIMEOUT, Answer

Pairs = Iterable[tuple[str, str]]


def octets(text: str) -> bytes:
    """Encode what was decoded by ``characters``: every text stands for the bytes it came from."""
    return text.encode("utf-8", "surrogateescape")


def characters(data: bytes) -> str:
    """Decode bytes of a header, of which not all have to be UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def written(method: str, target: str, authority: str, headers: Pairs) -> bytes:
    """The bytes of a request without a body."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {authority}", *(f"{name}: {value}" for name, value in headers)]
    return octets("\r\n".join([*lines, "", ""]))


class Line:
    """A connection that is made when it is needed, and again after the other end closed it."""

    def __init__(self, to: tuple[str, int], context: ssl.SSLContext | None = None, source: str = "") -> None:
        self._to, self._context, self._source = to, context, source
        self._socket: socket.socket | None = None
        self._left = b""

    def ask(self, method: str, target: str, authority: str, headers: Pairs = ()) -> Answer:
        """Send one request and read its answer; status 0 when there is none."""
        request = written(method, target, authority, headers)
        was_open = self._socket is not None
        answer = self._once(request, has_body=method != "HEAD")
        return self._once(request, has_body=method != "HEAD") if answer is None and was_open else answer or _NOTHING

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._left = None, b""

    def _once(self, request: bytes, *, has_body: bool) -> Answer | None:
        """None: the connection ended before a byte of the answer came."""
        try:
            if self._socket is None:
                self._socket = self._connected()
            self._socket.sendall(request)
            return self._read(self._socket, has_body=has_body)
        except (ConnectionError, EOFError, ssl.SSLError):
            self.close()
            return None

    def _connected(self) -> socket.socket:
        found = socket.create_connection(self._to, TIMEOUT, source_address=(self._source, 0) if self._source else None)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context.wrap_socket(found) if self._context else found

    def _read(self, source: socket.socket, *, has_body: bool) -> Answer:
        while b"\r\n\r\n" not in self._left:
            self._more(source)
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = characters(head).split("\r\n")
        headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        status, found = int(first.split(" ")[1]), dict(headers)
        has_body = has_body and status not in {204, 304}
        if has_body and found.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks(source))
        else:
            body = self._take(source, int(found.get("content-length", "0")) if has_body else 0)
        if found.get("connection") == "close":
            with suppress(OSError):
                source.shutdown(socket.SHUT_RDWR)
            self.close()
        return Answer(status=status, headers=headers, body=body)

    def _chunks(self, source: socket.socket) -> Iterator[bytes]:
        length = -1
        while length:
            while b"\r\n" not in self._left:
                self._more(source)
            size, _, self._left = self._left.partition(b"\r\n")
            length = int(size, 16)
            yield self._take(source, length + 2)[:-2]

    def _take(self, source: socket.socket, length: int) -> bytes:
        while len(self._left) < length:
            self._more(source)
        taken, self._left = self._left[:length], self._left[length:]
        return taken

    def _more(self, source: socket.socket) -> None:
        data = source.recv(65536)
        if not data:
            raise EOFError
        self._left += data


_NOTHING = Answer(status=0)
