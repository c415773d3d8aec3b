"""What a mesh left behind: processes and sockets that still know its folder."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path


def processes(folder: Path) -> dict[int, str]:
    """Living processes that have the folder in their arguments or their environment, but us."""
    mark = os.fsencode(folder)
    return {pid: text for pid, text in _everybody(mark) if pid != os.getpid()}


def _everybody(mark: bytes) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words, known = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            is_zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if (mark in words or mark in known) and not is_zombie:
            yield int(entry.name), words.replace(b"\0", b" ").decode(errors="replace").strip()


def end(pids: Iterator[int] | list[int]) -> None:
    """Kill exactly these."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def unix_sockets(*folders: Path) -> list[str]:
    """Paths of bound Unix sockets in these folders, by the kernel's own table."""
    paths = [line.split()[7] for line in Path("/proc/net/unix").read_text().splitlines() if len(line.split()) > 7]
    return sorted({path for path in paths if any(path.startswith(f"{folder}/") for folder in folders)})


def listening(ports: set[int]) -> set[int]:
    """Those of the TCP ports on which somebody listens."""
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == "0A" and port in ports:
                found.add(port)
    return found
