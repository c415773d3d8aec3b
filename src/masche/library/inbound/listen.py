"""How connections to our own port begin: mutual TLS, or plaintext, or both on one port, as the mesh says just then.

Decided for each connection when it comes, with the certificate of that moment, so that neither a rotated certificate
nor another mode of mTLS needs a restart. Under PERMISSIVE the first byte tells: a TLS record of a handshake begins with
0x16 (RFC 8446, 5.1), no request of HTTP does. It is looked at and not taken. Invariant: under STRICT nothing that came
in plaintext is ever read as a request.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

from masche.library.core.ports import MeshError
from masche.model.view import MtlsMode
from masche.telemetry.logs import say

_log = logging.getLogger(__name__)

HANDSHAKE: Final = 0x16
"""The first byte of a connection that begins with TLS."""

SILENCE: Final = 0.5
"""Seconds after which a caller that says nothing is taken for plaintext, as our proxies do it."""

HANDSHAKE_TIMEOUT: Final = 10.0
BACKLOG: Final = 2048

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.1

Made = Callable[[], asyncio.Protocol]


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError, for one with words for people see ``cli``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    made.settimeout(0)
    return made


class Listener:
    """Accepts connections of one port. ``mode`` None: nobody has said yet; both are taken, and every request refused.

    ``context`` gives the TLS of the moment and raises MeshError while there is none; then nobody gets in by TLS.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        made: Made,
        *,
        mode: Callable[[], MtlsMode | None],
        context: Callable[[], ssl.SSLContext],
    ) -> None:
        self.sockets = tuple(sockets)
        self._made = made
        self._mode = mode
        self._context = context
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def __repr__(self) -> str:
        return f"<Listener {', '.join(str(each.getsockname()) for each in self.sockets)} {self._mode()}>"

    def start(self) -> None:
        """Begin to accept, on the running loop; ``close`` and ``wait_closed`` end it."""
        loop = asyncio.get_running_loop()
        self._tasks = tuple(loop.create_task(self._accept(each)) for each in self.sockets)

    def close(self) -> None:
        """Accept nobody any more. Connections that are there go on."""
        for task in self._tasks:
            task.cancel()
        for each in self.sockets:
            each.close()

    async def wait_closed(self) -> None:
        """Wait until nothing is being accepted."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as callers:
            while True:
                try:
                    connection, address = await loop.sock_accept(listening)
                except OSError as error:
                    if listening.fileno() < 0:
                        return
                    if error.errno not in _EXHAUSTED:
                        continue  # the caller went away between its arrival and now
                    say(_log, logging.ERROR, f"cannot accept a caller: {error.strerror}")
                    await asyncio.sleep(_PAUSE)
                else:
                    callers.create_task(self._receive(connection, address[0]))

    async def _receive(self, connection: socket.socket, source: str) -> None:
        """One connection until its protocol has it; whatever goes wrong ends it and nothing else."""
        loop = asyncio.get_running_loop()
        try:
            with ExitStack() as leaving:
                leaving.callback(connection.close)
                connection.settimeout(0)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tls: dict[str, Any] = {}
                if await self._is_tls(connection):
                    tls = {"ssl": self._context(), "ssl_handshake_timeout": HANDSHAKE_TIMEOUT}
                protocol = self._made()
                leaving.pop_all()
            # From here on the loop's transport closes it: a descriptor that is closed under it is never heard of again.
            await loop.connect_accepted_socket(lambda: protocol, connection, **tls)
        except (OSError, MeshError) as error:  # ssl.SSLError and TimeoutError are OSErrors
            # Who goes away without a word is a probe, or nobody.
            level = logging.DEBUG if isinstance(error, ConnectionError) else logging.INFO
            say(_log, level, f"a caller did not get in: {_why(error)}", source=source, mode=str(self._mode()))
        except Exception:  # noqa: BLE001 - one connection ends by itself, whatever it met; others are accepted still
            _log.exception("a connection could not be taken")

    async def _is_tls(self, connection: socket.socket) -> bool:
        match self._mode():
            case MtlsMode.STRICT:
                return True
            case MtlsMode.DISABLE:
                return False
            case MtlsMode.PERMISSIVE | None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SILENCE):
                        await _readable(connection)
                        return connection.recv(1, socket.MSG_PEEK) == bytes([HANDSHAKE])
                return False


async def _readable(connection: socket.socket) -> None:
    """Wait until there is something to read, and read nothing."""
    loop = asyncio.get_running_loop()
    there: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _settle, there)
    try:
        await there
    finally:
        loop.remove_reader(connection)


def _settle(there: "asyncio.Future[None]") -> None:
    if not there.done():
        there.set_result(None)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason in {"HTTP_REQUEST", "WRONG_VERSION_NUMBER"}:
            return "it spoke plaintext to a port that takes mutual TLS alone"
        return f"the handshake failed: {error.reason or error}"
    return str(error) or type(error).__name__
