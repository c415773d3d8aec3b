"""Facts about processes, read from /proc, and a handle on one process that is never confused with its successor.

Invariant: a Handle means the process that was there when it was made; a reused pid is never signalled.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class ProcessId(NamedTuple):
    """A pid together with when that process started (clock ticks since boot), which tells it from a later one."""

    pid: int
    started: int


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; None when there is none or only its corpse."""
    stat = _stat(pid)
    return None if stat is None or stat[0] == "Z" else ProcessId(pid, int(stat[19]))


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third on (proc(5)); the second may contain anything and is skipped."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def command_line(pid: int) -> tuple[str, ...]:
    """The arguments of a process, or nothing."""
    try:
        return tuple(part.decode(errors="replace") for part in (PROC / str(pid) / "cmdline").read_bytes().split(b"\0"))
    except OSError:
        return ()


def descendants(pid: int) -> set[int]:
    """``pid`` and every process below it, or in the process group that it leads."""
    parents: dict[int, int] = {}
    family = {pid}
    for found in _pids():
        if stat := _stat(found):
            parents[found] = int(stat[1])
            if int(stat[2]) == pid:
                family.add(found)
    return family | {child for child in parents if not family.isdisjoint(_ancestors(child, parents))}


def members(group: int) -> list[ProcessId]:
    """What is left of a process group whose leader was ours and has ended; nothing when a stranger leads it now."""
    if identify(group) is not None:
        return []
    return [process for pid in _pids() if (process := identify(pid)) and _group(pid) == group]


def _group(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[2]) if stat else 0


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


def _pids() -> Iterator[int]:
    for entry in os.scandir(PROC):
        if entry.name.isdecimal():
            yield int(entry.name)


class Handle:
    """One process, by pidfd: wait for its end and signal it without a race. Made inside a running event loop."""

    def __init__(self, process: ProcessId, descriptor: int) -> None:
        self.process = process
        self.code: int | None = None
        """How it ended, when it was our child: its exit code, or minus the signal."""
        self._descriptor = descriptor
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._on_end)

    def __repr__(self) -> str:
        return f"<process {self.process.pid} {'ended' if self.has_ended else 'alive'}>"

    @classmethod
    def open(cls, process: ProcessId) -> "Handle | None":
        """Take hold of exactly this process; None when it is gone."""
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            return None
        if identify(process.pid) != process:
            os.close(descriptor)
            return None
        return cls(process, descriptor)

    @property
    def has_ended(self) -> bool:
        """Whether it is known to be gone."""
        return self._ended.is_set()

    async def wait(self) -> None:
        """Return when the process has ended."""
        await self._ended.wait()

    def send(self, number: int) -> None:
        """Signal it, if it is still there."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Let go of it; it lives on."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _on_end(self) -> None:
        self.close()
        with contextlib.suppress(ChildProcessError):  # an adopted process is not our child; init buries it
            pid, status = os.waitpid(self.process.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        self._ended.set()
