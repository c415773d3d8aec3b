"""Load: an open-loop customer. Calls start on time whether or not earlier ones have ended, and each is recorded.

Writes one JSON line a second to the file named by RECORD (or standard output): sent, failed, latencies of the second.
Settings: RATE (calls a second), TARGET (the service to call, ``web``), METHOD, CALL (the path).
"""

import asyncio
import json
import os
import sys
import time
from urllib.parse import urlsplit

RATE = float(os.environ.get("RATE", "50"))
TARGET = os.environ.get("TARGET", "web")
METHOD = os.environ.get("METHOD", "POST")
PATH = os.environ.get("CALL", "/buy")
URL = urlsplit(os.environ.get(f"{TARGET.upper()}_URL", f"http://{TARGET}"))
BODY = b'{"item": "needle"}'


class Second:
    """What happened to the calls that were sent within one second."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.codes: dict[str, int] = {}
        self.failed = 0


class Connections:
    """Idle connections, last used first."""

    def __init__(self) -> None:
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        return await asyncio.open_connection(URL.hostname, URL.port or 80)

    def give(self, pair: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._idle.append(pair)


async def exchange(connections: Connections) -> tuple[int, str]:
    """One request over HTTP/1.1; returns the status and the start of the body."""
    pair = await connections.take()
    reader, writer = pair
    head = f"{METHOD} {PATH} HTTP/1.1\r\nhost: {TARGET}\r\ncontent-type: application/json\r\n"
    body = BODY if METHOD == "POST" else b""
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    try:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in raw[1:])}
        if headers.get("transfer-encoding") == "chunked":
            text = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                text += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            text = await reader.readexactly(int(headers.get("content-length", 0)))
    except BaseException:
        writer.close()
        raise
    if headers.get("connection") == "close":
        writer.close()
    else:
        connections.give(pair)
    return int(raw[0].split()[1]), text[:300].decode(errors="replace")


async def call(connections: Connections, second: Second, errors: list[str]) -> None:
    start = time.perf_counter()
    try:
        status, text = await asyncio.wait_for(exchange(connections), 5)
        code = str(status)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        code, status, text = type(error).__name__, 0, repr(error)
    second.latencies.append((time.perf_counter() - start) * 1000)
    second.codes[code] = second.codes.get(code, 0) + 1
    if not 200 <= status < 400:
        second.failed += 1
        errors.append(f"{code} {text}")


async def main() -> None:
    out = open(os.environ["RECORD"], "a", buffering=1) if "RECORD" in os.environ else sys.stdout  # noqa: SIM115 - open until the end
    connections, second, errors = Connections(), Second(), []
    tasks: set[asyncio.Task[None]] = set()
    start, sent, shown = time.perf_counter(), 0, time.time()
    while True:
        due = int((time.perf_counter() - start) * RATE)
        for _ in range(due - sent):
            task = asyncio.create_task(call(connections, second, errors))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        sent = due
        if time.time() - shown >= 1:
            line = {
                "at": round(shown, 3),
                "sent": len(second.latencies),
                "failed": second.failed,
                "codes": second.codes,
            }
            line |= {"ms": [round(ms, 1) for ms in sorted(second.latencies)], "errors": errors[:3]}
            out.write(json.dumps(line) + "\n")
            out.flush()
            second, errors, shown = Second(), [], time.time()
        await asyncio.sleep(max(0.001, (sent + 1) / RATE - (time.perf_counter() - start)))


asyncio.run(main())
