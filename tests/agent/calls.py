"""An open loop of calls to one Envoy, of four kinds in turn: HTTP/1.1 by new connections and by one that is kept alive,
HTTP/2, and TCP. What is answered is counted by the word that was heard, and what is not is a failure.
"""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from types import TracebackType

import h2.config
import h2.connection
import h2.events

from masche.agent.capture.sockets import open_in

WITHIN = 10.0
_GOAWAY = 7


class Calls:
    """Calls ``http`` and ``tcp`` on loopback of a namespace, ``rate`` a second in all, within ``async with``."""

    def __init__(self, http: int, tcp: int, *, rate: float, namespace: str = "") -> None:
        self.heard: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.failed: list[str] = []
        self._http, self._tcp, self._rate, self._namespace = http, tcp, rate, namespace
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._streams: _Http2 | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._opened: list[asyncio.StreamWriter] = []

    def each(self, count: int) -> bool:
        """Whether so many calls of every kind were made."""
        return len(self.made) == 4 and min(self.made.values()) >= count

    async def __aenter__(self) -> "Calls":
        self._began = time.time()
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await asyncio.gather(*self._calls, return_exceptions=True)
        for writer in self._opened:
            writer.close()

    async def _run(self) -> None:
        kinds = (self._new, self._alive, self._http2, self._echo)
        loop = asyncio.get_running_loop()
        began, number = loop.time(), 0
        while True:
            task = asyncio.create_task(self._one(kinds[number % 4].__name__, kinds[number % 4]()))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / self._rate - loop.time()))

    async def _one(self, kind: str, call) -> None:
        try:
            async with asyncio.timeout(WITHIN):
                self.heard[await call] += 1
            self.made[kind] += 1
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.failed.append(f"{time.time() - self._began:.2f} s: {kind}: {error!r}")

    async def _open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = open_in(self._namespace, socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        try:
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
        except OSError:
            made.close()
            raise
        reader, writer = await asyncio.open_connection(sock=made)
        self._opened.append(writer)
        return reader, writer

    async def _new(self) -> str:
        reader, writer = await self._open(self._http)
        try:
            return (await _ask(reader, writer))[0]
        finally:
            writer.close()

    async def _alive(self) -> str:
        """By a connection that was kept, as a pool of a client does it: one that has ended is not used."""
        while self._kept:
            reader, writer = self._kept.pop()
            if not reader.at_eof():
                break
            writer.close()
        else:
            reader, writer = await self._open(self._http)
        word, is_kept = await _ask(reader, writer)
        if is_kept:
            self._kept.append((reader, writer))
        else:
            writer.close()
        return word

    async def _http2(self) -> str:
        if self._streams is None or self._streams.is_leaving:
            before, self._streams = self._streams, None
            streams = _Http2(*await self._open(self._http))
            self._streams = self._streams or streams
            if before:
                before.retire()
            if self._streams is not streams:
                return await streams.ask()
        return await self._streams.ask()

    async def _echo(self) -> str:
        reader, writer = await self._open(self._tcp)
        try:
            writer.write(b"echo")
            return (await reader.readexactly(4)).decode()
        finally:
            writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, bool]:
    writer.write(b"GET / HTTP/1.1\r\nhost: any\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if not head.startswith("http/1.1 200"):
        raise ValueError(head)
    size = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
    return (await reader.readexactly(size)).decode(), "connection: close" not in head


class _Http2:
    """One HTTP/2 connection, which takes no new streams once it was told goodbye."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.is_leaving = False
        self._talk = h2.connection.H2Connection(h2.config.H2Configuration())
        self._talk.initiate_connection()
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._bodies: Counter[int] = Counter()
        self._words: dict[int, bytes] = {}
        self._buffer = b""
        self._task = asyncio.create_task(self._read())
        self._flush()

    def retire(self) -> None:
        """Close it as soon as nobody waits."""
        if not self._waiting:
            self.writer.close()

    async def ask(self) -> str:
        stream = self._talk.get_next_available_stream_id()
        head = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "any")]
        self._talk.send_headers(stream, head, end_stream=True)
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        self._flush()
        return await self._waiting[stream]

    def _flush(self) -> None:
        self.writer.write(self._talk.data_to_send())

    async def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._frames():
                for event in self._talk.receive_data(data):
                    self._take(event)
                if not self.writer.is_closing():
                    self._flush()
        self.is_leaving = True
        for each in self._waiting.values():
            if not each.done():
                each.set_exception(EOFError("the connection ended with a call open"))

    async def _frames(self) -> bytes:
        """The next frames but for a goodbye, after which h2 would not let open streams finish (RFC 9113, 6.8)."""
        self._buffer += await self.reader.read(65536)
        whole = b""
        while len(self._buffer) >= 9 and len(self._buffer) >= (end := 9 + int.from_bytes(self._buffer[:3])):
            frame, self._buffer = self._buffer[:end], self._buffer[end:]
            self.is_leaving = self.is_leaving or frame[3] == _GOAWAY
            whole += b"" if frame[3] == _GOAWAY else frame
        return whole or (b"" if self.reader.at_eof() else await self._frames())

    def _take(self, event: object) -> None:
        match event:
            case h2.events.DataReceived(stream_id=stream, data=data):
                self._words[stream] = self._words.get(stream, b"") + data
            case h2.events.StreamEnded(stream_id=stream):
                self._waiting.pop(stream).set_result(self._words.pop(stream, b"").decode())
            case h2.events.StreamReset(stream_id=stream):
                self._waiting.pop(stream).set_exception(ValueError("a stream was reset"))
            case _:
                pass
