"""Namespaces as the agent makes them, with plain sockets in place of proxies, applications and servers."""

import ctypes
import socket
import struct
from pathlib import Path
from threading import Thread
from typing import Self

from masche.agent.capture.sockets import in_namespace, open_in

SO_ORIGINAL_DST = 80
WITHIN = 10.0


class Listener:
    """Accepts connections, and answers each with its name and where it was going at first."""

    def __init__(self, namespace: str | Path, address: str, port: int, name: str) -> None:
        self.name = name
        self.peers: list[str] = []
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = open_in(namespace, self._family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self._socket.bind((address, port))
        self._socket.listen(16)
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, peer = self._socket.accept()
            except OSError:
                return
            with accepted:
                self.peers.append(peer[0])
                accepted.sendall(f"{self.name} {self._first_goal(accepted)}".encode())

    def _first_goal(self, accepted: socket.socket) -> str:
        """Where it was going before it was redirected; where it is, when nothing here redirects."""
        try:
            return self._redirected(accepted)
        except FileNotFoundError:
            address, port, *_ = accepted.getsockname()
            return f"[{address}]:{port}" if self._family == socket.AF_INET6 else f"{address}:{port}"

    def _redirected(self, accepted: socket.socket) -> str:
        if self._family == socket.AF_INET6:
            raw = accepted.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            return f"[{socket.inet_ntop(socket.AF_INET6, raw[8:24])}]:{struct.unpack('!H', raw[2:4])[0]}"
        raw = accepted.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
        return f"{socket.inet_ntoa(raw[4:8])}:{struct.unpack('!H', raw[2:4])[0]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(WITHIN)


def call(namespace: str | Path, address: str, port: int, *, uid: int = 0) -> str:
    """What answers a TCP connection from there, or the name of the error."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def connect() -> str:
        ctypes.CDLL(None).setfsuid(uid)  # of this thread alone, which ends with this
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(WITHIN)
            connection.connect((address, port))
            return b"".join(iter(lambda: connection.recv(4096), b"")).decode()

    try:
        return in_namespace(namespace, connect)
    except OSError as error:
        return type(error).__name__


def send(namespace: str | Path, address: str, port: int) -> str:
    """What becomes of one datagram: "sent", or the name of the error."""

    def work() -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as outlet:
            outlet.sendto(b"hello", (address, port))
            return "sent"

    try:
        return in_namespace(namespace, work)
    except OSError as error:
        return type(error).__name__
