"""A small HTTP/1.1 server that answers what it was asked, and remembers every byte that reached it.

``PORT`` and ``HOST`` come from the mesh (``HOST_OVERRIDE`` disobeys it); ``NAME`` is what it calls itself. ``SHEET``
names a file to which it writes its environment, ``BYTES`` one to which it appends whatever arrives. ``/slow/<ms>``,
``/status/<code>``, ``/bytes/<n>`` and
``/header/<name>/<value>`` do what they say; everything else answers 200 with the request as JSON.
"""

import asyncio
import json
import os
import signal
from pathlib import Path

NAME = os.environ.get("NAME", "app")
BYTES = os.environ.get("BYTES")


class Connection(asyncio.Protocol):
    """One connection; requests are answered in the order in which they come."""

    living: "set[Connection]" = set()  # noqa: RUF012 - one set for the process

    def connection_made(self, transport):
        self.transport, self.data, self.busy, self.is_ending = transport, b"", False, False
        self.living.add(self)

    def connection_lost(self, _error):
        self.living.discard(self)

    def data_received(self, data):
        if BYTES:
            with Path(BYTES).open("ab") as file:
                file.write(data)
        self.data += data
        self._next()

    def _next(self):
        head, end, rest = self.data.partition(b"\r\n\r\n")
        if self.busy or not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = [tuple(line.split(": ", 1)) if ": " in line else (line.rstrip(":"), "") for line in lines[1:]]
        given = {name.lower(): value for name, value in headers}
        body, rest = self._body(given, rest)
        if body is None:
            return
        self.data, self.busy = rest, True
        method, target, _ = lines[0].split(" ", 2)
        asyncio.get_running_loop().create_task(self._answer(method, target, headers, given, body))

    def _body(self, given, rest):
        if "chunked" not in given.get("transfer-encoding", ""):
            size = int(given.get("content-length", 0))
            return (rest[:size], rest[size:]) if len(rest) >= size else (None, rest)
        body, left = b"", rest
        while b"\r\n" in left:
            line, left = left.split(b"\r\n", 1)
            size = int(line.split(b";")[0], 16)
            if len(left) < size + 2:
                return None, rest
            if size == 0:
                return body, left[2:]
            body, left = body + left[:size], left[size + 2 :]
        return None, rest

    async def _answer(self, method, target, headers, given, body):
        parts, status, text, more = target.partition("?")[0].split("/"), 200, b"", ""
        match parts[1:]:
            case ["slow", ms]:
                await asyncio.sleep(int(ms) / 1000)
            case ["status", code]:
                status = int(code)
            case ["bytes", size]:
                text = b"x" * int(size)
            case ["header", name, value]:
                more = f"{name}: {value}\r\n"
        text = (
            text
            or json.dumps(
                {"name": NAME, "method": method, "target": target, "headers": headers, "body": body.decode("latin-1")}
            ).encode()
        )
        is_last = self.is_ending or given.get("connection", "").lower() == "close"
        close = "connection: close\r\n" if is_last else ""
        self.transport.write(
            f"HTTP/1.1 {status} X\r\nserver-name: {NAME}\r\n{more}{close}content-length: {len(text)}\r\n\r\n".encode()
            + (b"" if method == "HEAD" else text)
        )
        self.busy = False
        self.transport.close() if is_last else self._next()

    def end(self):
        """No request after the one that is open."""
        self.is_ending = True
        if not self.busy:
            self.transport.close()


async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if sheet := os.environ.get("SHEET"):
        new = Path(f"{sheet}.new")
        new.write_text(json.dumps(dict(os.environ)))
        new.rename(sheet)
    server = await loop.create_server(
        Connection,
        os.environ.get("HOST_OVERRIDE") or os.environ["HOST"],
        int(os.environ["PORT"]),
        backlog=512,
    )
    await stop.wait()
    server.close()
    for each in tuple(Connection.living):
        each.end()
    while any(each.busy for each in Connection.living):
        await asyncio.sleep(0.01)


asyncio.run(main())
