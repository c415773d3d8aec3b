"""What is a socket to a client, without being one: the files that it makes, which outlive a ``close`` as a socket's do.

Invariant: it ends once, when it was closed and all its files were.
"""

import io
from typing import Any


class SocketFiles:
    """What has ``recv_into``, ``send`` and ``end``, and gets ``makefile`` and ``close`` from here."""

    _files = 0
    _is_closing = _is_ended = False

    def recv_into(self, buffer: Any, size: int | None = None, flags: int = 0) -> int:
        """Read the next bytes into ``buffer``, and return how many."""
        raise NotImplementedError

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some of it, and return how much."""
        raise NotImplementedError

    def end(self) -> None:
        """Be closed, for good."""
        raise NotImplementedError

    def makefile(self, mode: str = "r", buffering: int | None = None, **text: Any) -> Any:
        """Return a file that reads, or writes, here, as ``socket.makefile`` does."""
        raw = _File(self, mode)
        self._files += 1
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        if size == 0:
            return raw
        if raw.readable() and raw.writable():
            made: Any = io.BufferedRWPair(raw, raw, size)
        else:
            made = io.BufferedReader(raw, size) if raw.readable() else io.BufferedWriter(raw, size)
        return made if "b" in mode else io.TextIOWrapper(made, **text)

    def close(self) -> None:
        """End it, once all its files are closed."""
        self._is_closing = True
        if not self._files and not self._is_ended:
            self._is_ended = True
            self.end()

    def file_closed(self) -> None:
        """One of its files was closed."""
        self._files -= 1
        if self._is_closing:
            self.close()


class _File(io.RawIOBase):
    def __init__(self, owner: SocketFiles, mode: str) -> None:
        self._owner, self._mode = owner, mode

    def readable(self) -> bool:
        return "r" in self._mode or "w" not in self._mode

    def writable(self) -> bool:
        return "w" in self._mode

    def readinto(self, buffer: Any) -> int:
        return self._owner.recv_into(buffer)

    def write(self, data: Any) -> int:
        return self._owner.send(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._owner.file_closed()
