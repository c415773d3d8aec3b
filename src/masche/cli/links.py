"""Links between zones, on one machine: relays on loopback that are slow, silent or dead as they are told, at any time.

Every zone has two addresses: *inside* its proxies listen and whence they call (``masche run --bind``), *outside* others
are told to reach them (``--address``). Whatever listens inside is found by itself and gets a relay outside on the same
port, which knows the caller's zone by the address it calls from. Nothing of the mesh is changed for it: mutual TLS is
whole, and it needs no root. Invariant: bytes of one direction of a connection keep their order.

What the kernel measures of a connection (its round trip) is that of the relay, so it is always short here.
"""

import argparse
import asyncio
import contextlib
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

LOOKING_SECONDS = 0.05
"""How often it is looked for what listens inside the zones."""

MOST_HELD_BYTES = 1 << 20
"""What one direction of a connection holds back at most; then the sender waits."""

_LISTENING = "0A"
_TABLE = Path("/proc/net/tcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction from zone to zone. ``delay`` in seconds, for every byte.

    Over a link that is stalled nothing moves until it is not; one that is down resets its connections.
    """

    delay: float = 0.0
    is_stalled: bool = False
    is_down: bool = False


class Links:
    """The links between some zones. ``block`` are the first two octets of loopback addresses that nobody else uses."""

    def __init__(self, zones: Sequence[str], *, block: str = "127.81") -> None:
        self._inside = {zone: f"{block}.1.{index}" for index, zone in enumerate(zones, start=1)}
        self._outside = {zone: f"{block}.2.{index}" for index, zone in enumerate(zones, start=1)}
        self._zones = {address: zone for zone, address in self._inside.items()}
        self._links: dict[tuple[str, str], Link] = {}
        self._relays: dict[tuple[str, int], asyncio.Server] = {}
        self._flows: set[_Flow] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Links of {', '.join(self._inside)}: {len(self._relays)} relays, {len(self._flows) // 2} connections>"

    # -- how a mesh is laid over them -------------------------------------------------------------------------------

    def run_options(self, zone: str) -> tuple[str, ...]:
        """What ``masche run`` is told to be in a zone."""
        return ("--zone", zone, "--bind", self._inside[zone], "--address", self._outside[zone])

    def gateway_options(self, zone: str) -> tuple[str, ...]:
        """What ``masche gateway --east-west`` is told to be in a zone."""
        return ("--zone", zone, "--listen", self._inside[zone], "--address", self._outside[zone])

    def inside(self, zone: str) -> str:
        """Where the proxies of a zone listen, and whence they call."""
        return self._inside[zone]

    def outside(self, zone: str) -> str:
        """Where the proxies of a zone are reached."""
        return self._outside[zone]

    # -- how they are -----------------------------------------------------------------------------------------------

    def link(self, source: str, target: str) -> Link:
        """How the link from zone to zone is now."""
        return self._links.get((source, target), Link())

    def set(self, source: str, target: str, link: Link) -> None:
        """Let one direction be so from now on, also for connections that are open. From any thread."""
        self._links[source, target] = link
        if self._loop:
            self._loop.call_soon_threadsafe(self._changed)

    def set_both(self, one: str, other: str, link: Link) -> None:
        """The same for both directions; a round trip takes twice the delay."""
        self.set(one, other, link)
        self.set(other, one, link)

    def _changed(self) -> None:
        for flow in tuple(self._flows):
            flow.look()

    # -- what carries -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Relay until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                await self._follow()
                await asyncio.sleep(LOOKING_SECONDS)
        finally:
            for server in self._relays.values():
                server.close()
            for flow in tuple(self._flows):
                flow.cut()
            self._relays.clear()

    async def _follow(self) -> None:
        """Open a relay for each port that somebody opened inside a zone, and close those that lead nowhere."""
        wanted = {(self._zones[address], port) for address, port in _listening() if address in self._zones}
        for zone, port in wanted - self._relays.keys():
            with contextlib.suppress(OSError):  # somebody has that port on all addresses; it is tried again
                self._relays[zone, port] = await self._relay(zone, port)
        for place in self._relays.keys() - wanted:
            self._relays.pop(place).close()

    async def _relay(self, zone: str, port: int) -> asyncio.Server:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            source = self._zones.get(writer.get_extra_info("peername")[0], zone)
            with contextlib.suppress(asyncio.CancelledError):  # the links end, and asyncio would report it as a fault
                await self._carry(source, zone, port, reader, writer)

        return await asyncio.start_server(accept, self._outside[zone], port)

    async def _carry(
        self, source: str, target: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection until it ends; it begins with a round trip, as every connection does."""
        try:
            if self.link(source, target).is_down:
                raise ConnectionResetError
            there_reader, there = await asyncio.open_connection(self._inside[target], port)
        except OSError:
            _reset(writer)
            return
        handshake = self.link(source, target).delay + self.link(target, source).delay
        flows = (
            _Flow(self, source, target, reader, there, first=handshake),
            _Flow(self, target, source, there_reader, writer),
        )
        self._flows.update(flows)
        jobs = [asyncio.ensure_future(job) for flow in flows for job in (flow.receive(), flow.send())]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
            is_whole = all(job.exception() is None for job in done)
        finally:
            self._flows.difference_update(flows)
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        for end in (writer, there):
            end.close() if is_whole else _reset(end)


class _Flow:
    """One direction of one connection."""

    def __init__(
        self,
        links: Links,
        source: str,
        target: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        first: float = 0.0,
    ) -> None:
        self._links, self._source, self._target = links, source, target
        self._reader, self._writer = reader, writer
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._open_at = self._last_due = asyncio.get_running_loop().time() + first
        self._news = asyncio.Event()
        self.look()

    def look(self) -> None:
        """The link is another than it was."""
        if self._links.link(self._source, self._target).is_down:
            self.cut()
        self._news.set()

    def cut(self) -> None:
        """Reset the connection."""
        _reset(self._writer)
        self._reader.set_exception(ConnectionResetError())

    async def receive(self) -> None:
        """Take what comes until the sender ends. Raises OSError when it is gone."""
        data = b"begin"
        while data:
            data = await self._reader.read(65536)
            sent_at = max(self._open_at, asyncio.get_running_loop().time())
            self._last_due = max(self._last_due, sent_at + self._links.link(self._source, self._target).delay)
            self._held.append((self._last_due, data))
            self._held_bytes += len(data)
            self._news.set()
            while self._held_bytes > MOST_HELD_BYTES:
                self._news.clear()
                await self._news.wait()

    async def send(self) -> None:
        """Send what is due, until an empty piece says that the sender has ended. Raises OSError."""
        while True:
            while not self._held or self._links.link(self._source, self._target).is_stalled:
                self._news.clear()
                await self._news.wait()
            due, data = self._held[0]
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            if self._links.link(self._source, self._target).is_stalled:
                continue
            self._held.popleft()
            self._held_bytes -= len(data)
            self._news.set()
            if not data:
                self._writer.write_eof()
                return
            self._writer.write(data)
            await self._writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the other end hear that the connection is broken, not that it has ended."""
    with contextlib.suppress(OSError):
        end: socket.socket | None = writer.get_extra_info("socket")
        if end is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _listening() -> Iterator[tuple[str, int]]:
    """Yield the IPv4 addresses and ports on which something listens, as Linux tells everybody."""
    for line in _TABLE.read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == _LISTENING:
            address, _, port = local.partition(":")
            yield ".".join(str(byte) for byte in reversed(bytes.fromhex(address))), int(port, 16)


# -- by other means than await ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_a_thread(links: Links) -> Generator[Links]:
    """Relay in a thread of its own while the block runs."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(links.run())
    thread = threading.Thread(target=_until_done, args=(loop, task), name="links", daemon=True)
    thread.start()
    try:
        yield links
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _until_done(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    if left := asyncio.all_tasks(loop):  # connections that were open
        for each in left:
            each.cancel()
        loop.run_until_complete(asyncio.wait(left))
    loop.close()


def obey(links: Links, line: str) -> str:
    """Do what one line says, ``a-b 40ms``, ``a>b down`` or ``a-b stalled``, and return what is wrong with it, or ""."""
    try:
        where, how = line.split()
        one, other = where.split(">" if ">" in where else "-")
        link = _link(how)
        _ = links.inside(one) + links.inside(other)
    except (ValueError, KeyError):
        return f"{line.strip()!r} is not like `a-b 40ms`, `a>b down` or `a-b stalled`, with zones that there are"
    (links.set if ">" in where else links.set_both)(one, other, link)
    return ""


def _link(how: str) -> Link:
    match how:
        case "down":
            return replace(Link(), is_down=True)
        case "stalled":
            return replace(Link(), is_stalled=True)
        case _:
            if not how.endswith("ms"):
                raise ValueError(how)
            return Link(delay=float(how.removesuffix("ms")) / 1000)


def main() -> None:
    """Relay until standard input ends, doing what its lines say."""
    parser = argparse.ArgumentParser(prog="python -m masche.cli.links", description=obey.__doc__)
    parser.add_argument("--block", default="127.81", help="two octets of loopback addresses that nobody else uses")
    parser.add_argument("zones", nargs="+")
    given = parser.parse_args()
    with in_a_thread(Links(given.zones, block=given.block)) as links:
        for line in sys.stdin:
            print(obey(links, line) or "ok", flush=True)  # noqa: T201 - it is a program here, and this is its answer


if __name__ == "__main__":
    main()
