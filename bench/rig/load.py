"""The two ends of a benchmark: servers whose speed is known and open-loop callers, both compiled (``bench/load``)."""

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).parents[1] / "load"
BINARY = Path(__file__).parents[2] / "build" / "bench-load"


def build() -> Path:
    """Compile what is needed. Raises SystemExit with what to install."""
    BINARY.parent.mkdir(exist_ok=True)
    try:
        subprocess.run(["go", "build", "-o", str(BINARY), "."], cwd=SOURCE, check=True)
    except FileNotFoundError:
        raise SystemExit("the load generator is written in Go: install it (apt install golang-go)") from None
    return BINARY


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a backend answers: milliseconds, plus or minus jitter; ``slots`` requests at a time (0: any number)."""

    latency: float = 2.0
    jitter: float = 0.0
    slots: int = 0
    queue: int = 0
    status: int = 0

    def body(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("latency", "jitter", "slots", "queue", "status")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One server: its port, how it starts, and for chains the URL that it calls, how often and how long at the most.

    ``size_bytes`` of each answer (0: a few); with ``tls`` (PEM files: certificate, key, roots) it takes mutual TLS.
    """

    port: int
    start: Behaviour
    calls: str = ""
    attempts: int = 1
    timeout_ms: float = 1000.0
    host: str = "127.0.0.1"
    size_bytes: int = 0
    tls: tuple[str, str, str] = ("", "", "")


class Backends:
    """All servers, in one process."""

    def __init__(self, backends: Mapping[str, Backend], *, seed: int = 1) -> None:
        self.ports = {name: each.port for name, each in backends.items()}
        self._process = subprocess.Popen(
            [str(build()), "backends"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()
        definitions = {
            name: {
                "listen": f"{each.host}:{each.port}",
                "start": each.start.body(),
                "calls": each.calls,
                "attempts": each.attempts,
                "timeout": each.timeout_ms,
                "bytes": each.size_bytes,
                **dict(zip(("certificate", "key", "roots"), each.tls, strict=True)),
            }
            for name, each in backends.items()
        }
        assert self._ask({"seed": seed, "backends": definitions}) == "ready"

    def become(self, name: str, behaviour: Behaviour) -> None:
        """Change how one answers from now on."""
        assert self._ask({"backend": name, "become": behaviour.body()}) == "ok"

    def counts(self) -> dict[str, dict[str, int]]:
        """Requests by server since the start: arrived, answered, failed, given (up by the caller)."""
        return json.loads(self._ask({"all": True}))

    def _ask(self, message: Mapping[str, Any]) -> str:
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            if not (line := self._process.stdout.readline()):
                raise RuntimeError(f"the backends ended with code {self._process.wait()}")
            return line.strip()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


class Call(NamedTuple):
    """One call: which URL, when it was to be sent (seconds since the start), how long it took (milliseconds).

    ``status`` 0: no answer within the timeout; -1: no answer at all. ``late_ms``: how late the caller itself was.
    """

    url: int
    sent: float
    took_ms: float
    status: int
    backend: str
    late_ms: float

    @property
    def is_failed(self) -> bool:
        return self.status <= 0 or self.status >= 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Calls at a fixed rate over all URLs in turn, whatever becomes of them. Times in seconds."""

    urls: Sequence[str]
    rate: float
    seconds: float
    timeout: float = 1.0
    headers: Mapping[str, str] | None = None
    method: str = "GET"


class Caller:
    """Calls in a process of their own."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [str(BINARY), "call"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdin
        assert self._process.stderr
        body = {
            "urls": list(plan.urls),
            "rate": plan.rate,
            "seconds": plan.seconds,
            "timeout": plan.timeout * 1000,
            "method": plan.method,
            "headers": dict(plan.headers or {}),
        }
        self._process.stdin.write(json.dumps(body))
        self._process.stdin.close()
        words = self._process.stderr.readline().split()
        assert words[:1] == ["started"], words
        self.started_at = int(words[1]) / 1e6

    def wait(self) -> list[Call]:
        assert self._process.stdout
        calls = [call_of(line.rstrip("\n").split("\t")) for line in self._process.stdout]
        assert self._process.wait() == 0
        return calls


def call_of(words: Sequence[str]) -> Call:
    """Read a line that a caller wrote."""
    url, sent, took, status, backend, late = words
    return Call(int(url), int(sent) / 1e6, int(took) / 1e3, int(status), backend, int(late) / 1e3)
