"""A resolver for tests, on loopback addresses of its own: it says what it is told to, by UDP and TCP, and counts."""

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Say = Callable[[dns.message.Message, str], bytes | None]

UDP, TCP = "udp", "tcp"


def address_of(message: dns.message.Message, way: str) -> bytes | None:
    """Everything is at 192.0.2.1."""
    reply = dns.message.make_response(message, recursion_available=True)
    question = message.question[0]
    if question.rdtype == 1:
        reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.1"))
    return reply.to_wire()


def long_text(message: dns.message.Message, way: str) -> bytes | None:
    """An answer of 4000 bytes, which is cut by UDP."""
    reply = dns.message.make_response(message, recursion_available=True)
    if way == UDP:
        reply.flags |= dns.flags.TC
        return reply.to_wire()
    reply.answer.append(
        dns.rrset.from_text(message.question[0].name, 60, "IN", "TXT", " ".join(f'"{"x" * 250}"' for _ in range(16)))
    )
    return reply.to_wire(max_size=65535)


def nothing(message: dns.message.Message, way: str) -> bytes | None:
    """No word."""
    return None


def servfail(message: dns.message.Message, way: str) -> bytes | None:
    """It cannot."""
    reply = dns.message.make_response(message)
    reply.set_rcode(dns.rcode.SERVFAIL)
    return reply.to_wire()


class Resolver(asyncio.DatagramProtocol):
    """Serves ``address``:``port`` within ``async with``."""

    def __init__(self, address: str, port: int, say: Say = address_of) -> None:
        self.address, self.port, self.say = address, port, say
        self.asked: list[dns.message.Message] = []
        self.raw: list[bytes] = []
        self.askers: list[tuple[str, int]] = []

    async def __aenter__(self) -> "Resolver":
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self.address, self.port))
        self._tcp = await asyncio.start_server(self._converse, self.address, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._udp.close()
        self._tcp.close()
        await asyncio.sleep(0)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.askers.append(addr)
        self.raw.append(data)
        if (reply := self._say(data, UDP)) is not None:
            self._udp.sendto(reply, addr)

    def _say(self, data: bytes, way: str) -> bytes | None:
        message = dns.message.from_wire(data)
        self.asked.append(message)
        return self.say(message, way)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        if (reply := self._say(data, TCP)) is not None:
            writer.write(len(reply).to_bytes(2) + reply)
            await writer.drain()
        writer.close()


def open_here(path: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A socket of our own namespace."""
    assert path == ""
    return socket.socket(family, kind)
