"""An open-loop load: calls start on time whether or not earlier ones have ended, and each leaves a record.

It runs on a thread of its own, so that a test can meanwhile break things. Clients' retries: none, except that a
connection which was closed while it lay idle is not taken for a call.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from masche.agent.capture.sockets import enter

CALL_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call: when it began (monotonic seconds), how long it took, and what came of it (status 0: nothing)."""

    at: float
    seconds: float
    status: int
    words: str
    server: str

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 400


@dataclass(eq=False)
class Load:
    """``rate`` calls a second to ``url`` while the block runs. ``is_fresh``: a new connection per call.

    ``namespace`` is the file of the network namespace from which they are made, "" for ours.
    """

    url: str
    rate: float = 200.0
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    is_fresh: bool = False
    namespace: str = ""
    calls: list[Call] = field(default_factory=list[Call])
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def __enter__(self) -> "Load":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Begin no more calls and wait for the open ones."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise self._error

    # -- what it saw ------------------------------------------------------------------------------------------------

    def failed(self, since: float = 0.0) -> list[Call]:
        """Calls that began after ``since`` and failed."""
        return [call for call in tuple(self.calls) if not call.is_good and call.at >= since]

    def servers(self, since: float = 0.0) -> Counter[str]:
        """Which instance answered how often."""
        return Counter(call.server for call in tuple(self.calls) if call.is_good and call.at >= since)

    def made(self, since: float = 0.0) -> int:
        """How many calls have ended that began after ``since``."""
        return sum(call.at >= since for call in tuple(self.calls))

    def lasts(self, seconds: float) -> None:
        """Go on for so long, measured in calls made, and make sure that they are really made."""
        began, wanted = time.monotonic(), seconds * self.rate * 0.9
        deadline = began + seconds + CALL_TIMEOUT + 5
        while time.monotonic() < began + seconds or self.made(began) < wanted:
            assert time.monotonic() < deadline, f"only {self.made(began)} of {wanted} calls were made"
            time.sleep(0.05)

    def assert_none_failed(self, at_least: int = 1) -> None:
        """End, and hold it against every single call."""
        self.end()
        failed = self.failed()
        first = self.calls[0].at if self.calls else 0.0
        told = [f"{call.at - first:.2f} s: {call.status} {call.words} by {call.server or '?'}" for call in failed[:8]]
        assert not failed, f"{len(failed)} of {len(self.calls)} calls failed: {told}"
        assert len(self.calls) >= at_least, f"only {len(self.calls)} calls"

    # -- how it calls -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self.namespace:
                enter(self.namespace)
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the thread that ends us
            self._error = error

    async def _main(self) -> None:
        pool = _Pool(self.url)
        start, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while not self._stop.is_set():
                due = int((time.monotonic() - start) * self.rate)
                for _ in range(due - sent):
                    tasks.create_task(self._call(pool))
                sent = due
                await asyncio.sleep(max(0.0005, (sent + 1) / self.rate - (time.monotonic() - start)))
        pool.close()

    async def _call(self, pool: "_Pool") -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                status, server, words = await pool.exchange(self.method, self.headers, is_fresh=self.is_fresh)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            status, server, words = 0, "", repr(error)
        self.calls.append(Call(began, time.monotonic() - began, status, words, server))


Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pool:
    """Idle connections to one place, last used first."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path or "/"
        self._idle: list[Pair] = []

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()

    def _idle_pairs(self) -> Iterator[Pair]:
        while self._idle:
            yield self._idle.pop()

    async def _take(self) -> Pair:
        for reader, writer in self._idle_pairs():
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    async def exchange(self, method: str, headers: dict[str, str], *, is_fresh: bool) -> tuple[int, str, str]:
        """One request; returns the status, who served it, and the words of a failure."""
        pair = await (asyncio.open_connection(self._host, self._port) if is_fresh else self._take())
        reader, writer = pair
        is_kept = False
        try:
            lines = [
                f"{method} {self._path} HTTP/1.1",
                "host: x",
                *(f"{key}: {value}" for key, value in headers.items()),
            ]
            lines += ["connection: close"] if is_fresh else []
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            status, given, body = await read_response(reader)
            is_kept = not is_fresh and given.get("connection", "") != "close"
        finally:
            if is_kept:
                self._idle.append(pair)
            else:
                writer.close()
                if is_fresh:
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        good = 200 <= status < 400
        return status, given.get("server-name", ""), "" if good else body[:200].decode(errors="replace")


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body of one HTTP/1.1 response."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(lines[0].split()[1]), headers, body
