"""The sockets at which a workload's names are answered outlive the agent: its runner keeps them, and brings them back.

While no agent runs questions wait there instead of being refused, and the next agent answers them. An exchange is one
connection to a Unix socket of this user: a line that says what is asked for whom, on which the sockets travel.
Invariant: the agent serves a socket that was brought only where it would have opened that very one itself.
"""

import asyncio
import contextlib
import socket
from collections.abc import Generator, Sequence
from pathlib import Path

MOST_SOCKETS = 4
"""UDP and TCP, by IPv4 and by IPv6."""

WITHIN = 2.0
"""Seconds that either side gives the other."""

_LINE_BYTES = 512
_PAUSE = 0.1
_GIVE, _TAKE, _DONE = b"give", b"take", b"done"


class Lender:
    """The agent's side: what it answers at, by workload, and what was brought to it."""

    def __init__(self) -> None:
        self._lent: dict[str, tuple[socket.socket, ...]] = {}
        self._brought: dict[str, tuple[socket.socket, ...]] = {}

    def __repr__(self) -> str:
        return f"<Lender of the sockets of {len(self._lent)} workloads>"

    def brought(self, workload: str) -> tuple[socket.socket, ...]:
        """Return what its runner kept, once: it belongs to the caller."""
        return self._brought.pop(workload, ())

    def drop(self, workload: str) -> None:
        """Nobody serves what was brought for it: an open socket would keep its port, and its namespace, for ever."""
        _close(self.brought(workload))

    def lend(self, workload: str, sockets: Sequence[socket.socket]) -> None:
        """From now on its runner may have copies of these."""
        self._lent[workload] = tuple(sockets)

    def withdraw(self, workload: str) -> None:
        """Nothing is answered there any more."""
        self._lent.pop(workload, None)

    async def run(self, path: Path) -> None:
        """Serve runners, of this user alone, until cancelled."""
        try:
            with _listening(path) as listener:
                async with asyncio.TaskGroup() as group:
                    while True:
                        try:
                            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                        except OSError:  # no descriptor is left, which is no reason for the agent to end
                            await asyncio.sleep(_PAUSE)
                        else:
                            group.create_task(self._exchange(connection))
        finally:
            for each in tuple(self._brought):
                self.drop(each)

    async def _exchange(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(WITHIN):
                await _readable(connection)
            words, sockets = _received(connection)
            what, _, name = words.strip().partition(b" ")
            workload = name.decode(errors="replace")
            if what == _TAKE:
                self.drop(workload)
                self._brought[workload] = sockets
                connection.send(_DONE)
            else:
                _close(sockets)
                _send(connection, _DONE, self._lent.get(workload, ()))


@contextlib.contextmanager
def _listening(path: Path) -> Generator[socket.socket]:
    path.unlink(missing_ok=True)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen()
            listener.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            yield listener
    finally:
        path.unlink(missing_ok=True)


class Keeper:
    """The runner's side. ``path`` is the agent's socket; what cannot be had or brought is done without."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: tuple[socket.socket, ...] = ()

    def __repr__(self) -> str:
        return f"<Keeper of {len(self._kept)} sockets>"

    async def fetch(self, workload: str) -> None:
        """Keep copies of what the agent answers at."""
        self.close()
        with contextlib.suppress(OSError):
            self._kept = await asyncio.to_thread(_asked, self._path, _GIVE, workload)

    async def bring(self, workload: str) -> None:
        """Give another agent copies; what it does not take is closed, or that agent could not open it anew."""
        if self._kept:
            try:
                _close(await asyncio.to_thread(_asked, self._path, _TAKE, workload, self._kept))
            except OSError:
                self.close()

    def close(self) -> None:
        """Keep nothing any more."""
        _close(self._kept)
        self._kept = ()


def _asked(path: Path, what: bytes, workload: str, sockets: Sequence[socket.socket] = ()) -> tuple[socket.socket, ...]:
    """One exchange. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WITHIN)
        connection.connect(str(path))
        _send(connection, what + b" " + workload.encode() + b"\n", sockets)
        words, found = _received(connection)
    if words != _DONE:
        _close(found)
        raise ConnectionError("it was not taken")
    return found


def _send(connection: socket.socket, words: bytes, sockets: Sequence[socket.socket]) -> None:
    if sockets:
        socket.send_fds(connection, [words], [each.fileno() for each in sockets])
    else:
        connection.sendall(words)


def _received(connection: socket.socket) -> tuple[bytes, tuple[socket.socket, ...]]:
    """A line and what came on it. Whatever a command starts later inherits none of it."""
    words, found, _, _ = socket.recv_fds(connection, _LINE_BYTES, MOST_SOCKETS, socket.MSG_CMSG_CLOEXEC)
    return words, tuple(socket.socket(fileno=each) for each in found)


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


async def _readable(connection: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)
