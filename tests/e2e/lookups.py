"""Somebody who looks up a name again and again, as the C library does it, and remembers what became of each."""

import socket
import threading
import time
from dataclasses import dataclass, field

from e2e.waiting import until
from masche.agent.capture.sockets import in_namespace

PAUSE = 0.02


@dataclass(eq=False)
class Lookups:
    """Looks up ``name`` in a network namespace while the block runs. ``found`` has its addresses, "" for none."""

    namespace: str
    name: str
    found: list[str] = field(default_factory=list[str])
    slowest: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Lookups":
        self._thread = threading.Thread(target=in_namespace, args=(self.namespace, self._run), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread
        self._thread.join()

    def more(self, count: int = 10) -> None:
        """Wait until so many more questions have had an answer, good or bad."""
        wanted = len(self.found) + count
        until(lambda: len(self.found) >= wanted, f"{count} more lookups of {self.name}")

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            began = time.monotonic()
            try:
                address = socket.gethostbyname(self.name)
            except OSError:
                address = ""
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.found.append(address)
