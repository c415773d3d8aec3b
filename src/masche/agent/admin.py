"""Asks an Envoy's admin interface, HTTP/1.1 over a Unix socket, one connection per question.

Invariant: every question ends, by an answer or by an AdminError, within its time.
"""

import asyncio
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec

MAX_ANSWER_BYTES = 64 * 1024 * 1024
WITHIN = 2.0
"""Seconds that an answer may take."""


class AdminError(Exception):
    """Envoy's admin interface did not answer."""


class Answer(NamedTuple):
    """Status code and body."""

    status: int
    body: bytes


class _SocketAddress(msgspec.Struct):
    port_value: int = 0


class _Address(msgspec.Struct):
    socket_address: _SocketAddress = msgspec.field(default_factory=_SocketAddress)


class _Listener(msgspec.Struct):
    name: str = ""
    local_address: _Address = msgspec.field(default_factory=_Address)


class _Listeners(msgspec.Struct):
    listener_statuses: tuple[_Listener, ...] = ()


async def ask(socket: Path, target: str, *, method: str = "GET", within: float = WITHIN) -> Answer:
    """Send one request and read the whole answer, in at most ``within`` seconds. Raises AdminError."""
    try:
        async with asyncio.timeout(within):
            return await _exchange(socket, target, method)
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise AdminError(f"{method} {target} on {socket}: {error or type(error).__name__}") from error


async def is_ready(socket: Path) -> bool:
    """Whether Envoy has its configuration and serves (``/ready`` answers 200)."""
    try:
        return (await ask(socket, "/ready", within=1.0)).status == 200
    except AdminError:
        return False


class _Options(msgspec.Struct):
    base_id: int = 0
    restart_epoch: int = 0


class _Server(msgspec.Struct):
    state: str = ""
    command_line_options: _Options = msgspec.field(default_factory=_Options)


async def live_line(socket: Path) -> tuple[int, int] | None:
    """The base id and the restart epoch of whoever serves, who may just have taken the socket over; None for nobody."""
    try:
        answer = await ask(socket, "/server_info", within=1.0)
        server = msgspec.json.decode(answer.body, type=_Server, strict=False)
    except (AdminError, msgspec.DecodeError):
        return None
    options = server.command_line_options
    return (options.base_id, options.restart_epoch) if server.state == "LIVE" else None


async def listening_ports(socket: Path) -> set[int]:
    """The TCP ports on which Envoy listens now; none when it does not answer."""
    return {one.local_address.socket_address.port_value for one in await _listeners(socket)}


async def listener_names(socket: Path) -> set[str]:
    """The names of the listeners that Envoy uses now; none when it does not answer."""
    return {one.name for one in await _listeners(socket)}


async def _listeners(socket: Path) -> tuple[_Listener, ...]:
    try:
        answer = await ask(socket, "/listeners?format=json")
        return msgspec.json.decode(answer.body, type=_Listeners).listener_statuses
    except (AdminError, msgspec.DecodeError):
        return ()


async def open_requests(socket: Path, clusters: str = "inbound") -> int:
    """Requests that the application is still answering, by the gauges of the clusters that lead to it.

    The names of these begin with ``clusters``.
    """
    pattern = quote(rf"^cluster\.{re.escape(clusters)}.*upstream_rq_active$")
    try:
        answer = await ask(socket, f"/stats?filter={pattern}")
    except AdminError:
        return 0
    return sum(int(line.rpartition(b":")[2]) for line in answer.body.splitlines() if b":" in line)


async def good_answers(socket: Path, clusters: str, port: int) -> int:
    """How many calls to a port of an application were answered without a fault; 0 when Envoy does not answer.

    The names of the clusters that lead to the application begin with ``clusters``.
    """
    pattern = quote(rf"^{re.escape(clusters)}/{port}(/h2)?$")
    try:
        answer = await ask(socket, f"/clusters?filter={pattern}", within=1.0)
    except AdminError:
        return 0
    return sum(int(line.rpartition(b"::")[2]) for line in answer.body.splitlines() if b"::rq_success::" in line)


async def _exchange(socket: Path, target: str, method: str) -> Answer:
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=1 << 20)
    try:
        writer.write(f"{method} {target} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(_header(line) for line in head[1:] if line)
        body = await _body(reader, headers)
        return Answer(int(head[0].split(" ", 2)[1]), body)
    finally:
        writer.close()


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        return await _chunks(reader)
    return await reader.readexactly(min(int(headers.get("content-length", "0")), MAX_ANSWER_BYTES))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        if len(body) + size > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer above {MAX_ANSWER_BYTES} bytes")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return bytes(body)
