"""A recording backend: answers HTTP/1.1, h2c, gRPC and bytes with who it is and what it received, as JSON.

What it does beside that is asked for in the request: ``x-echo-set-header`` sets headers of the answer, and the query
makes it fail, sleep or talk (``responseCode``, ``succeedAfter`` tries of one ``uuid``, ``delay``, ``delayRetry``,
``padding``).
"""

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_GRPC = "application/grpc"
_PEER = re.compile(r"URI=([^;,]+)")

Headers = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request, or the first bytes of a connection, as an instance saw it."""

    workload: str
    namespace: str
    port: int
    method: str = ""
    host: str = ""
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    protocol: str = "tcp"

    @property
    def name(self) -> str:
        """Who received it: ``namespace/workload``."""
        return f"{self.namespace}/{self.workload}"

    @property
    def peer(self) -> str:
        """The caller's SPIFFE ID, as the proxy proved it."""
        found = _PEER.search(dict(self.headers).get("x-forwarded-client-cert", ""))
        return found[1] if found else ""

    @property
    def padding(self) -> int:
        """How many bytes longer than it has to be its answer is to be."""
        return int(parse_qs(urlsplit(self.path).query).get("padding", ["0"])[0])

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def json(self) -> bytes:
        return json.dumps({**vars(self), "peer": self.peer}).encode()


@dataclass
class Instance:
    """One application, at one address and port."""

    workload: str
    namespace: str
    port: int
    log: list[Received]
    tries: Counter[str] = field(default_factory=Counter)
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    def receive(self, method: str, host: str, path: str, headers: Headers, protocol: str) -> Received:
        got = Received(
            workload=self.workload,
            namespace=self.namespace,
            port=self.port,
            method=method,
            host=host,
            path=path,
            headers=tuple(headers),
            protocol=protocol,
        )
        self.log.append(got)
        return got

    async def answer(self, got: Received) -> tuple[int, Headers] | None:
        """Decide the status and headers; None is a connection that is cut."""
        asked = {name: values[-1] for name, values in parse_qs(urlsplit(got.path).query).items()}
        await asyncio.sleep(_seconds(asked.get("delay", "0")))
        status = 200
        if "uuid" in asked:
            self.tries[asked["uuid"]] += 1
            if self.tries[asked["uuid"]] <= int(asked.get("succeedAfter", "0")):
                await asyncio.sleep(_seconds(asked.get("delayRetry", "0")))
                if "responseCode" not in asked:
                    return None
                status = int(asked["responseCode"])
        elif "responseCode" in asked:
            status = int(asked["responseCode"])
        return status, [*_asked_headers(got.headers)]

    # -- protocols ------------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its end, or ours."""
        if mine := asyncio.current_task():
            self.serving.add(mine)
            mine.add_done_callback(self.serving.discard)
        try:
            with suppress(asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            first = await reader.read(65536)
            if first.startswith(PREFACE[: len(first)]) and first:
                try:
                    await self._http2(first, reader, writer)
                except* ConnectionError:
                    pass  # the caller has gone; a group of them is no ConnectionError
            elif re.match(rb"[A-Z]+ [^ ]+ HTTP/1", first):
                await self._http1(first, reader, writer)
            elif first:
                got = self.receive("", "", first.decode(errors="replace"), [], "tcp")
                writer.write(got.json() + b"\n")
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _http1(self, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            while b"\r\n\r\n" not in data:
                more = await reader.read(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            length = int(dict(headers).get("content-length", "0"))
            while len(data) < length:
                data += await reader.read(65536)
            data = data[length:]
            got = self.receive(method, dict(headers).get("host", ""), path, headers, "http/1.1")
            answer = await self.answer(got)
            if answer is None:
                writer.transport.abort()
                return
            status, more_headers = answer
            body = got.json() + b" " * got.padding
            lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "content-type: application/json"]
            lines += [f"{name}: {value}" for name, value in more_headers]
            writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body))
            await writer.drain()

    async def _http2(self, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", normalize_inbound_headers=False)
        state = h2.connection.H2Connection(config)
        state.initiate_connection()
        async with asyncio.TaskGroup() as tasks:
            while data:
                with suppress(h2.exceptions.ProtocolError):
                    for event in state.receive_data(data):
                        if isinstance(event, h2.events.RequestReceived):
                            tasks.create_task(self._http2_answer(state, event, writer))
                writer.write(state.data_to_send())
                await writer.drain()
                data = await reader.read(65536)

    async def _http2_answer(self, state, event, writer: asyncio.StreamWriter) -> None:
        pseudo = {name: value for name, value in event.headers if name.startswith(":")}
        headers = [(name, value) for name, value in event.headers if not name.startswith(":")]
        got = self.receive(pseudo[":method"], pseudo.get(":authority", ""), pseudo[":path"], headers, "h2c")
        status, more = await self.answer(got) or (500, [])
        is_grpc = dict(headers).get("content-type", "").startswith(_GRPC)
        body = got.json()
        if is_grpc:
            body = b"\0" + len(body).to_bytes(4, "big") + body
        with suppress(h2.exceptions.ProtocolError):
            kind = _GRPC if is_grpc else "application/json"
            state.send_headers(event.stream_id, [(":status", str(status)), ("content-type", kind), *more])
            for start in range(0, len(body), 16_000):
                state.send_data(event.stream_id, body[start : start + 16_000])
            if is_grpc:
                state.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            else:
                state.end_stream(event.stream_id)
        writer.write(state.data_to_send())


def _seconds(text: str) -> float:
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))


def _asked_headers(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for name, value in headers:
        if name == "x-echo-set-header":
            for each in value.split(","):
                key, _, content = each.partition(":")
                yield key.strip().lower(), content.strip()


_TURNS = 4
"""Of a loop, until a connection that was taken just now has begun, so that its end is seen to."""


async def _closed(servers: Collection[asyncio.Server]) -> None:
    """Take no more connections, see those begin that were taken, and close: asyncio loses who comes in between."""
    loop = asyncio.get_running_loop()
    for listening in (each for server in servers for each in server.sockets):
        loop.remove_reader(listening.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    for server in servers:
        server.close()


@dataclass
class Backends:
    """All applications of a mesh, and everything that they received."""

    log: list[Received] = field(default_factory=list)
    _servers: dict[tuple[str, int], asyncio.Server] = field(default_factory=dict)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(
        self, address: str, port: int, workload: str, namespace: str, *, bound: socket.socket | None = None
    ) -> None:
        """Listen there, or on what is ``bound`` already; what is open stays as it is."""
        if (address, port) not in self._servers:
            instance = Instance(workload, namespace, port, self.log, serving=self._serving)
            self._servers[address, port] = await (
                asyncio.start_server(instance.serve, sock=bound)
                if bound
                else asyncio.start_server(instance.serve, address, port, reuse_address=True)
            )

    async def close_one(self, address: str, port: int) -> None:
        """Listen there no longer."""
        if server := self._servers.pop((address, port), None):
            await _closed([server])

    async def close(self) -> None:
        await _closed(self._servers.values())
        serving = tuple(self._serving)
        for each in serving:
            each.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is closed by the loop, in its next turn
        self._servers.clear()
        self.log.clear()
