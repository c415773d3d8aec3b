"""Ends what a demonstration started when the demonstration itself is killed, and removes its folder.

A process of its own holds the other end of a pipe: it is told of every child, and when the pipe ends without a last
word it does what the demonstration would have done. Invariant: it signals only what it was told of.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGKILL, SIGTERM

from masche.agent.folders import Folders
from masche.agent.processes import ProcessId, identify
from masche.agent.stopping import stop_agent
from masche.cli import machines

_ALL_IS_WELL = "over"
_PATIENCE = 30.0


class Afterwards:
    """The demonstration's end of the pipe."""

    def __init__(self, folder: Path) -> None:
        self._watcher = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "masche.cli.afterwards", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def __repr__(self) -> str:
        return f"<Afterwards {self._watcher.pid}>"

    def note(self, pid: int) -> None:
        """A child that must not outlive us."""
        if (child := identify(pid)) is not None:
            self._say(f"{child.pid} {child.started}")

    def over(self) -> None:
        """Everything ended in order."""
        self._say(_ALL_IS_WELL)
        self._watcher.communicate()

    def _say(self, line: str) -> None:
        assert self._watcher.stdin
        with contextlib.suppress(BrokenPipeError):  # somebody ended it: then nobody comes afterwards
            self._watcher.stdin.write(f"{line}\n".encode())
            self._watcher.stdin.flush()


def main(folder: Path) -> None:
    """Hear of children until the pipe ends; then end them, the first of them (the control plane) last."""
    children: list[ProcessId] = []
    for line in sys.stdin:
        if line.strip() == _ALL_IS_WELL:
            return
        pid, started = map(int, line.split())
        children.append(ProcessId(pid, started))
    _end(children[1:])
    stop_agent(Folders(folder), within=20.0)
    machines.end(folder)
    _end(children[:1])
    shutil.rmtree(folder, ignore_errors=True)


def _end(children: list[ProcessId]) -> None:
    for number in (SIGTERM, SIGKILL):
        deadline = time.monotonic() + _PATIENCE
        for child in filter(_is_alive, children):
            os.kill(child.pid, number)
        while any(map(_is_alive, children)) and time.monotonic() < deadline:
            time.sleep(0.05)


def _is_alive(child: ProcessId) -> bool:
    return identify(child.pid) == child


if __name__ == "__main__":
    main(Path(sys.argv[1]))
