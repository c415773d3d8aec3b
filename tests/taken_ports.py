"""Ports for tests: no two tests that run at the same time, in whatever process, are ever given the same one.

That a port is free when it is looked at says nothing of the next moment, and Envoy shares a port that somebody has
(SO_REUSEPORT), so that calls would end in another test's mesh. So a process takes whole blocks of ports, each by a lock
that the kernel gives back when the process ends.
"""

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

BLOCK = 50
"""Ports in a block."""

SHARES = 8
"""So many processes may run tests at a time: none takes more than its share, and all find some."""

FOLDER = Path(tempfile.gettempdir()) / f"masche-test-ports-{os.getuid()}"


class Ports:
    """The ports from ``first`` up to ``last``, all below the ephemeral range."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._pid = os.getpid()
        self._locks: list[IO[bytes]] = []
        self._blocks: list[range] = []
        self._at = 0

    def free(self, *, span: int = 1) -> int:
        """The first of ``span`` free ports in a row; those given long ago come again when there are no others."""
        if self._pid != os.getpid():
            self.__init__(self._first, self._last)
        while True:
            if not self._blocks or self._at + span > self._blocks[-1].stop:
                self._next_block()
            first = self._at
            self._at += 1
            if all(_is_free(port) for port in range(first, first + span)):
                self._at = first + span
                return first

    def rank(self) -> int:
        """A number that no other process has now, from 0."""
        self.free()
        return (self._blocks[0].start - self._first) // BLOCK

    def _next_block(self) -> None:
        """A block that nobody has, or our own oldest once we have our share."""
        mine = {each.start for each in self._blocks}
        all_blocks = range(self._first, self._last - BLOCK + 1, BLOCK)
        candidates = (first for first in all_blocks if first not in mine and len(mine) < len(all_blocks) // SHARES)
        first = next((first for first in candidates if self._has_locked(first)), None)
        assert first is not None or self._blocks, f"no free ports between {self._first} and {self._last}"
        block = self._blocks.pop(0) if first is None else range(first, first + BLOCK)
        self._blocks.append(block)
        self._at = block.start

    def _has_locked(self, first: int) -> bool:
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        lock = (FOLDER / str(first)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._locks.append(lock)
        return True


NOT_OPENED = frozenset({5060, 5061, 6000, 6566, *range(6665, 6670), 6697})
"""Ports to which no browser goes, for another protocol lives there: https://fetch.spec.whatwg.org/#port-blocking."""


def _is_free(port: int) -> bool:
    if port in NOT_OPENED:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


APPLICATIONS = Ports(5_000, 10_000)
"""Where applications and control planes of end-to-end tests listen: below the range from which agents take ports."""

PROXIES = Ports(14_500, 19_000)
"""For listeners of Envoys that tests configure themselves."""

NETWORK = f"127.{16 + APPLICATIONS.rank()}"
"""The first two numbers of loopback addresses that are this process' alone."""

MACHINES = Ports(19_000, 20_000)
"""For what agents under test are told to use."""
