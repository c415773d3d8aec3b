"""Waiting for what was started."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def until(happened: Callable[[], bool], otherwise: str, *, within: float = 60.0) -> None:
    """Ask until it is so. Raises SystemExit with ``otherwise``."""
    ends = time.monotonic() + within
    while not happened():
        if time.monotonic() > ends:
            raise SystemExit(f"{otherwise} within {within:g} s")
        time.sleep(0.05)


def until_open(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until somebody listens. Raises SystemExit with the log of a process that ended instead."""

    def is_open() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"it ended with code {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(is_open, f"nobody listens on port {port}")
