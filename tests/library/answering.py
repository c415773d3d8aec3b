"""An HTTP/1.1 server over mutual TLS, a thread for each connection, that says who it is and notes all it was told."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from masche.library.core.tls import peer_id

Answer = Callable[[bytes], bytes]


def who(name: str) -> Answer:
    """Answer every request with a name."""
    said = name.encode()
    return lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)


def hang_up(_head: bytes) -> bytes:
    """End the connection instead of an answer."""
    raise ConnectionAbortedError


class Answering:
    """``received``: what applications would have seen; ``peers``: who called, for contexts of the library."""

    def __init__(
        self, context: ssl.SSLContext | None, answer: Answer, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.context, self.answer = context, answer
        self.received: list[bytes] = []
        self.peers: list[str] = []
        self.accepted = 0
        self.open: set[socket.socket] = set()
        self._listening = socket.create_server((address, port))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="answering")
        self._threads: list[threading.Thread] = []
        self._thread.start()

    def hang_up(self) -> None:
        """End every connection, now."""
        for each in tuple(self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def stop_listening(self) -> None:
        """Give the port back; connections that are open stay."""
        if self._listening.fileno() >= 0:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listening.close()

    def close(self) -> None:
        self.stop_listening()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._serve, args=(plain,)))
            self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        mine: set[socket.socket] = {plain}
        self.open |= mine
        try:
            if self.context is None:
                with plain, contextlib.suppress(OSError):
                    self._talk(plain)
                return
            with plain, contextlib.suppress(OSError), self.context.wrap_socket(plain, server_side=True) as encrypted:
                mine.add(encrypted)
                self.open |= mine
                self.peers.append(peer_id(encrypted))
                self._talk(encrypted)
        finally:
            self.open -= mine

    def _talk(self, connection: socket.socket) -> None:
        buffer = b""
        while data := connection.recv(65536):
            self.received.append(data)
            buffer += data
            while b"\r\n\r\n" in buffer:
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                connection.sendall(self.answer(head))


@contextmanager
def answering(
    context: ssl.SSLContext, name: str = "somebody", address: str = "127.0.0.1", port: int = 0
) -> Iterator[Answering]:
    running = Answering(context, who(name), address, port)
    try:
        yield running
    finally:
        running.close()
