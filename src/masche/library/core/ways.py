"""A detour as the caller walks it: mutual TLS to a gateway between zones, CONNECT to the instance, and what it answers.

Sans-IO: the words of the tunnel are decided here, whoever carries them (``ways_async``, ``ways_sync``). What is carried
afterwards is mutual TLS with the instance itself, so the gateway sees who calls whom, and no more. Invariant: a byte
that follows the gateway's consent before we have spoken is not believed, for in TLS the caller speaks first.
"""

import errno
from dataclasses import dataclass
from functools import cached_property

_LONGEST = 16 * 1024
"""Bytes; the head of a gateway's answer is far shorter."""


class WayError(ConnectionError):
    """A gateway did not carry us: nothing reached the instance."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EHOSTUNREACH, why)


@dataclass(frozen=True)
class Way:
    """The detour by the gateway at ``gateway`` (``host:port``, IPv6 in brackets), which must show one of
    ``identities``. Connections by different Ways are never taken for each other.
    """

    gateway: str
    identities: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Way by {self.gateway}>"

    @cached_property
    def address(self) -> tuple[str, int]:
        """Where the gateway is."""
        host, _, port = self.gateway.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


def request(endpoint: str) -> bytes:
    """What a gateway is asked (RFC 9110, 9.3.6): to connect to ``endpoint`` (``host:port``)."""
    return f"CONNECT {endpoint} HTTP/1.1\r\nHost: {endpoint}\r\n\r\n".encode("ascii")


class Consent:
    """Reads what the gateway answers, however it is cut into pieces."""

    __slots__ = ("_endpoint", "_head", "_way")

    def __init__(self, way: Way, endpoint: str) -> None:
        self._way, self._endpoint = way, endpoint
        self._head = b""

    def __repr__(self) -> str:
        return f"<Consent of {self._way!r} to {self._endpoint}: {len(self._head)} bytes>"

    def read(self, data: bytes) -> bool:
        """Whether it has agreed; False: there is more to come. Empty ``data`` is the end. Raises WayError."""
        self._head += data
        head, separator, early = self._head.partition(b"\r\n\r\n")
        if not separator:
            if not data or len(self._head) > _LONGEST:
                raise self._refused("closed the connection" if not data else "answered what is no HTTP")
            return False
        if early:
            raise self._refused("spoke before it was spoken to")
        status = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].isdigit():
            raise self._refused("answered what is no HTTP")
        if not status[1].startswith(b"2"):
            raise self._refused(f"answered {status[1].decode()}")
        return True

    def _refused(self, what: str) -> WayError:
        return WayError(f"the gateway at {self._way.gateway} does not carry us to {self._endpoint}: it {what}")
