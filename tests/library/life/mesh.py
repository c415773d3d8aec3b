"""A control plane as a process, and processes with the library beside it: each a script that says lines.

Invariant: ``close`` ends every process that was started here.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from e2e.waiting import until
from masche.api.access import TokenRequest
from masche.api.client import Client, DeniedError, RefusalError, UnreachableError
from masche.api.messages import ProxyStatus
from taken_ports import APPLICATIONS

PROLOGUE = """
import os, signal, sys, time
from masche.library.core.ports import Called, NotReadyError
from masche.library.resident import configure, facade, resident

def said(*words):
    print(*words, flush=True)

def heard(word):
    while sys.stdin.readline().strip() not in {word, ""}:
        pass

"""
"""What every script begins with. ``heard`` waits until the test says a word."""


@dataclass(eq=False)
class Script:
    """One process with the library. ``lines`` are what it has said."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])
    readers: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def __post_init__(self) -> None:
        for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            assert stream is not None
            self.readers.append(threading.Thread(target=_collect, args=(stream, into), daemon=True))
            self.readers[-1].start()

    def close(self) -> None:
        """End it with all its children, and what connects us."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        for reader in self.readers:
            reader.join(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def line(self, beginning: str, *, within: float = 60.0) -> str:
        """Wait for a line that begins so, and return what follows."""

        def found() -> str | None:
            assert self.process.poll() in {None, 0} or self._has(beginning), "\n".join((*self.lines, *self.errors))
            return next((line for line in self.lines if line.startswith(beginning)), None)

        said = until(found, f"a line {beginning!r} among {self.lines} {self.errors}", within=within)
        assert said is not None
        return said[len(beginning) :].strip()

    def _has(self, beginning: str) -> bool:
        return any(line.startswith(beginning) for line in self.lines)

    def tell(self, word: str) -> None:
        """Say a word to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def end(self) -> int:
        """Wait until it has ended by itself."""
        return self.process.wait(20)


def _collect(stream: IO[str], into: list[str]) -> None:
    for line in stream:
        into.append(line.rstrip("\n"))


class Mesh:
    """A control plane of its own, in a folder of its own."""

    def __init__(self, folder: Path, *, options: tuple[str, ...] = ()) -> None:
        self.data = folder / "plane"
        self.data.mkdir(mode=0o700)
        self.xds_port = APPLICATIONS.free(span=2)
        self._ports = (self.xds_port, APPLICATIONS.free(), APPLICATIONS.free())
        self._options = options
        self._plane: subprocess.Popen[bytes] | None = None
        self._scripts: list[Script] = []

    @property
    def api(self) -> Client:
        """What the command line asks."""
        return Client.of(self.data)

    def up(self) -> None:
        """Start the control plane, and wait until it answers."""
        xds, api, metrics = map(str, self._ports)
        words = ("up", "--xds-port", xds, "--api-port", api, "--metrics-port", metrics, *self._options)
        with (self.data / "up.log").open("ab") as log:
            self._plane = subprocess.Popen(
                (sys.executable, "-m", "masche", *words, "--data", str(self.data)), stdout=log, stderr=log
            )
        until(self._answers, "the control plane answers")

    def down(self) -> None:
        """Kill the control plane."""
        assert self._plane is not None
        self._plane.kill()
        self._plane.wait(10)

    def _answers(self) -> bool:
        try:
            return not self.api.status().plane.waiting_for
        except (UnreachableError, DeniedError, RefusalError, OSError):
            return False

    def script(self, text: str, *, data: Path | None = None, **environ: str) -> Script:
        """Start a process that does this."""
        given = {"MASCHE_DATA": str(data or self.data), "GRPC_VERBOSITY": "NONE", **environ}
        kept: Mapping[str, str] = {key: value for key, value in os.environ.items() if not key.startswith("MASCHE_")}
        process = subprocess.Popen(
            (sys.executable, "-W", "error", "-c", PROLOGUE + text),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**kept, **given},
        )
        self._scripts.append(Script(process))
        return self._scripts[-1]

    def proxies(self, service: str) -> list[ProxyStatus]:
        """The processes of a service, or those that call as one, as the control plane sees them."""
        return [each for each in self.api.status().proxies if f"/{service}-" in each.workload]

    def one(self, service: str) -> ProxyStatus | None:
        """The only one, if there is one."""
        found = self.proxies(service)
        return found[0] if len(found) == 1 else None

    def seen(self, service: str, condition: Callable[[ProxyStatus], object], what: str) -> ProxyStatus:
        """Wait until the only process of a service is like that."""

        def found() -> ProxyStatus | None:
            one = self.one(service)
            return one if one is not None and condition(one) else None

        made = until(found, what)
        assert made is not None
        return made

    def events(self, kind: str) -> list[str]:
        """What happened."""
        return [event.message for event in self.api.events(limit=1000).events if event.kind == kind]

    def token(self, folder: Path, *, namespaces: tuple[str, ...] = ("*",), accounts: tuple[str, ...] = ("*",)) -> Path:
        """A file with a join string for one machine."""
        created = self.api.create_token(TokenRequest(namespaces=namespaces, service_accounts=accounts))
        path = folder / "token"
        path.write_text(created.join_string)
        path.chmod(0o600)
        return path

    def close(self) -> None:
        """End everything."""
        for script in self._scripts:
            script.close()
        if self._plane is not None and self._plane.poll() is None:
            self._plane.terminate()
            try:
                self._plane.wait(15)
            except subprocess.TimeoutExpired:
                self._plane.kill()
                self._plane.wait()
