"""Programs that use grpcio's own xDS client and server and know nothing of us, and how a test talks to them.

Each takes one JSON object per line on its standard input, or says one on its standard output.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parents[1] / "e2e"
CALLER = (sys.executable, str(PROGRAMS / "clients" / "xds_caller.py"))
SERVER = (sys.executable, str(PROGRAMS / "servers" / "xds_greeter.py"))
DEADLINE = 20.0


class Program:
    """One process; what it says is kept."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.said: list[Any] = []
        self.errors: list[str] = []
        self._readers = [threading.Thread(target=each, daemon=True) for each in (self._read, self._read_errors)]
        for each in self._readers:
            each.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.errors.append(line.decode(errors="replace").rstrip())

    def ask(self, **question: Any) -> Any:
        """Put a question and wait for its answer."""
        assert self._process.stdin
        number = len(self.said)
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return self.until(lambda: self.said[number] if len(self.said) > number else None)

    def until(self, found: Callable[[], Any]) -> Any:
        """Wait for something that it says."""
        end = time.monotonic() + DEADLINE
        while not (it := found()):
            tail = "\n".join(self.errors[-20:])
            assert self._process.poll() is None, f"ended with {self._process.returncode}:\n{tail}"
            assert time.monotonic() < end, f"not within {DEADLINE:g} s; it said {self.said}:\n{tail}"
            time.sleep(0.01)
        return it

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        self._process.terminate()
        return self._process.wait(DEADLINE)

    def finish(self) -> None:
        """Let it end by itself: there is nothing more to read."""
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(DEADLINE) == 0, self.errors

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        for each in self._readers:
            each.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe
            pipe.close()
