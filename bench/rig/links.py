"""Links between zones for a benchmark: the relays of ``masche.cli.links``, in a process of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence

from masche.cli.links import Links


class RelayedLinks:
    """Zones on loopback; ``set`` says how long a round trip between two of them takes."""

    def __init__(self, zones: Sequence[str]) -> None:
        block = f"127.{130 + os.getpid() % 100}"
        self.places = Links(zones, block=block)
        """Where things listen, for their options; it carries nothing itself."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "masche.cli.links", "--block", block, *zones],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def set(self, one: str, other: str, *, round_trip_ms: float) -> None:
        """Let it be so from now on, also for what is open."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{one}-{other} {round_trip_ms / 2}ms\n")
        self._process.stdin.flush()
        if (said := self._process.stdout.readline().strip()) != "ok":
            raise RuntimeError(f"the links said {said!r}, code {self._process.poll()}")

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)
