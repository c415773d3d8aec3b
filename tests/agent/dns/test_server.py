"""Mesh DNS over sockets: mesh names at once whatever else is dead, the rest by the host's resolvers, within bounds."""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from agent.dns.resolver import Resolver, address_of, long_text, nothing, open_here, servfail
from agent.world import free_port
from masche.agent.dns import name_server, upstream
from masche.agent.dns.name_server import NameServer
from masche.agent.dns.names import Names
from masche.agent.dns.resolvers import HostResolvers, read
from masche.agent.dns.server import MeshDns

NAMES: Names = {"orders": ("240.64.0.9", "fd6d:6173:6368::9"), "orders.shop.mesh": ("240.64.0.9",)}


class Host:
    """A machine with resolvers of its own choice, and one name server."""

    def __init__(self, folder: Path) -> None:
        self.conf, self.port, self.upstream_port = folder / "resolv.conf", free_port(), free_port()
        self.names: Names = NAMES
        self.conf.write_text("")
        resolvers = HostResolvers(self.conf, now=iter(range(10**9)).__next__)
        self.dns = MeshDns(open_socket=open_here, resolvers=resolvers, upstream_port=self.upstream_port)
        self.server: NameServer

    def resolver(self, index: int = 1, say: Callable[..., bytes | None] = address_of) -> Resolver:
        address = f"127.0.0.{10 + index}"
        with self.conf.open("a") as file:
            file.write(f"nameserver {address}\n")
        return Resolver(address, self.upstream_port, say)

    async def udp(
        self, name: str, rdtype: str = "A", *, within: float = 10.0, **options: object
    ) -> dns.message.Message:
        query = dns.message.make_query(name, rdtype, **options)  # pyright: ignore[reportArgumentType] - options of many types
        reply = dns.message.from_wire(await self.raw(query.to_wire(), within=within))
        assert query.is_response(reply)
        return reply

    async def raw(self, query: bytes, *, within: float = 10.0) -> bytes:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[bytes] = loop.create_future()

        class Ear(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                if not came.done():
                    came.set_result(data)

        transport, _ = await loop.create_datagram_endpoint(Ear, remote_addr=("127.0.0.1", self.port))
        try:
            transport.sendto(query)
            async with asyncio.timeout(within):
                return await came
        finally:
            transport.close()

    async def tcp(self, *queries: dns.message.Message) -> list[dns.message.Message]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            wires = [one.to_wire() for one in queries]
            writer.write(b"".join(len(one).to_bytes(2) + one for one in wires))
            async with asyncio.timeout(10):
                sizes = [await reader.readexactly(int.from_bytes(await reader.readexactly(2))) for _ in queries]
            return [dns.message.from_wire(one) for one in sizes]
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    made.server = await made.dns.serve("", made.port, lambda: made.names)
    yield made
    await made.server.close()


def found(message: dns.message.Message) -> list[str]:
    return [str(item) for rrset in message.answer for item in rrset]


async def test_names_of_the_mesh_and_of_the_world_are_answered_by_udp_and_tcp(host: Host) -> None:
    async with host.resolver() as resolver:
        assert found(await host.udp("orders")) == ["240.64.0.9"]
        assert found(await host.udp("Orders", "AAAA")) == ["fd6d:6173:6368::9"]
        assert found(await host.udp("www.Example.org")) == ["192.0.2.1"]
        mixed = [dns.message.make_query(name, "A") for name in ("orders", "example.org", "orders")]
        replies = await host.tcp(*mixed)
        assert [found(one) for one in replies] == [["240.64.0.9"], ["192.0.2.1"], ["240.64.0.9"]]
        assert all(query.is_response(reply) for query, reply in zip(mixed, replies, strict=True))
        asked = {one.question[0].name.to_text().lower() for one in resolver.asked}
        assert asked == {"www.example.org.", "example.org."}, "names of the mesh were told outside"


async def test_names_change_with_the_scope(host: Host) -> None:
    assert (await host.udp("carts.shop.mesh")).rcode() == dns.rcode.NXDOMAIN
    host.names = {"carts.shop.mesh": ("240.64.0.10",)}
    assert found(await host.udp("carts.shop.mesh")) == ["240.64.0.10"]
    assert (await host.udp("orders.shop.mesh")).rcode() == dns.rcode.NXDOMAIN


async def test_a_dead_resolver_holds_up_no_name_of_the_mesh_and_the_rest_fails_in_time(host: Host) -> None:
    async with host.resolver(1, nothing) as one, host.resolver(2, nothing) as two:
        began = time.monotonic()
        slow = [asyncio.create_task(host.udp(f"host-{index}.example")) for index in range(20)]
        await asyncio.wait(slow, timeout=0.05)
        before = time.monotonic()
        for _ in range(20):
            assert found(await host.udp("orders")) == ["240.64.0.9"]
        assert time.monotonic() - before < upstream.TRY_AGAIN_AFTER, "the mesh waited for the world"
        replies = await asyncio.gather(*slow)
        assert {one.rcode() for one in replies} == {dns.rcode.SERVFAIL}
        assert time.monotonic() - began < 5 * upstream.GIVE_UP_AFTER
        assert len(one.asked) >= 20
        assert len(two.asked) >= 20


async def test_without_any_resolver_the_world_fails_at_once(host: Host) -> None:
    assert (await host.udp("example.org", within=upstream.TRY_AGAIN_AFTER)).rcode() == dns.rcode.SERVFAIL


async def test_another_resolver_is_asked_when_the_first_cannot_or_is_gone(host: Host) -> None:
    async with host.resolver(1, servfail) as first, host.resolver(2) as second:
        assert found(await host.udp("example.org")) == ["192.0.2.1"]
        assert len(first.asked) == len(second.asked) == 1
    host.conf.write_text("nameserver 127.0.0.50\n")  # nobody: its port is closed
    async with host.resolver(2):
        assert found(await host.udp("example.org", within=upstream.TRY_AGAIN_AFTER)) == ["192.0.2.1"]
        [reply] = await host.tcp(dns.message.make_query("example.org", "A"))
        assert found(reply) == ["192.0.2.1"]


async def test_a_resolver_that_said_nothing_is_asked_last_for_a_while(host: Host) -> None:
    async with host.resolver(1, nothing) as first, host.resolver(2) as second:
        assert found(await host.udp("example.org")) == ["192.0.2.1"]
        assert found(await host.udp("example.com")) == ["192.0.2.1"]
        assert (len(first.asked), len(second.asked)) == (1, 2)


async def test_what_no_resolver_can_is_said_as_they_say_it(host: Host) -> None:
    async with host.resolver(1, servfail):
        assert (await host.udp("example.org")).rcode() == dns.rcode.SERVFAIL


async def test_what_is_too_long_for_a_datagram_comes_by_tcp(host: Host) -> None:
    async with host.resolver(1, long_text) as resolver:
        cut = await host.udp("example.org", "TXT", use_edns=0, payload=4096)
        assert cut.flags & dns.flags.TC
        assert resolver.asked[0].payload == 1232
        [whole] = await host.tcp(dns.message.make_query("example.org", "TXT", use_edns=0, payload=4096))
        assert len(found(whole)[0]) > 4000


async def test_a_resolver_that_sends_more_than_fits_is_cut(host: Host) -> None:
    def much(message: dns.message.Message, way: str) -> bytes | None:
        return long_text(message, "tcp")

    async with host.resolver(1, much):
        assert (await host.udp("example.org", "TXT")).flags & dns.flags.TC


async def test_forged_replies_are_not_believed(host: Host) -> None:
    """Of another id, of another question, or a query: they are heard and left aside, and the true one counts."""

    def say(message: dns.message.Message, way: str) -> bytes | None:
        transport, asker = resolver._udp, resolver.askers[-1]
        true = address_of(message, way)
        assert true
        evil = true.replace(bytes((192, 0, 2, 1)), bytes((6, 6, 6, 6)))
        for forged in (
            struct.pack("!H", message.id ^ 1) + evil[2:],
            evil.replace(b"\7example", b"\7exbmple"),
            evil[:2] + b"\1\0" + evil[4:],
            evil[:11],
            evil[:4] + b"\0\0" + evil[6:],
        ):
            transport.sendto(forged, asker)
        return true

    async with host.resolver(1, say) as resolver:
        for _ in range(5):
            assert found(await host.udp("example.org")) == ["192.0.2.1"]
        assert len({one.id for one in resolver.asked}) > 1, "ids can be foretold"
        assert len({port for _, port in resolver.askers}) > 1, "ports can be foretold"


async def test_a_workload_that_asks_too_much_at_once_fails_at_once_and_takes_nothing_from_another(host: Host) -> None:
    other_port = free_port()
    async with host.resolver(1, nothing) as resolver:
        other = await host.dns.serve("", other_port, lambda: NAMES)
        slow = [asyncio.create_task(host.udp(f"h{index}.example")) for index in range(name_server.MOST_IN_FLIGHT)]
        while len(resolver.asked) < name_server.MOST_IN_FLIGHT:
            await asyncio.sleep(0.01)
        refused = await host.udp("one.more.example", within=upstream.TRY_AGAIN_AFTER)
        assert refused.rcode() == dns.rcode.SERVFAIL
        resolver.say = address_of
        host.port, own = other_port, host.port
        assert found(await host.udp("example.org")) == ["192.0.2.1"]
        host.port = own
        await asyncio.gather(*slow)
        await other.close()


async def test_connections_are_bounded_and_idle_ones_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async with contextlib.AsyncExitStack() as opened:
        idle = []
        for _ in range(name_server.MOST_CONNECTIONS):
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            opened.callback(writer.close)
            idle.append(reader)
        while f"{name_server.MOST_CONNECTIONS} connections" not in repr(host.server):
            await asyncio.sleep(0.01)
        with pytest.raises((EOFError, ConnectionError)):
            await host.tcp(dns.message.make_query("orders", "A"))
        async with asyncio.timeout(10 * name_server.IDLE_AFTER):
            assert await idle[0].read() == b""
    while "0 connections" not in repr(host.server):
        await asyncio.sleep(0.01)
    [reply] = await host.tcp(dns.message.make_query("orders", "A"))
    assert found(reply) == ["240.64.0.9"]


async def test_a_resolver_that_is_ourselves_makes_no_loop(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.conf.write_text("nameserver 127.0.0.1\n")
    host.dns = MeshDns(open_socket=open_here, resolvers=HostResolvers(host.conf), upstream_port=host.port)
    host.server = await host.dns.serve("", host.port, lambda: NAMES)
    assert (await host.udp("example.org", within=upstream.TRY_AGAIN_AFTER)).rcode() == dns.rcode.SERVFAIL
    await host.server.close()


async def test_a_closed_name_server_leaves_its_port_free_and_nothing_waiting(host: Host) -> None:
    async with host.resolver(1, nothing):
        waiting = asyncio.create_task(host.udp("example.org"))
        while "1 in flight" not in repr(host.server):
            await asyncio.sleep(0.01)
        await host.server.close()
        again = await host.dns.serve("", host.port, lambda: NAMES)
        assert found(await host.udp("orders")) == ["240.64.0.9"]
        await again.close()
        waiting.cancel()


async def test_a_port_that_is_taken_is_said(host: Host) -> None:
    with pytest.raises(OSError, match="in use"):
        await host.dns.serve("", host.port, lambda: NAMES)


async def test_nothing_is_said_to_what_is_a_reply(host: Host) -> None:
    reply = dns.message.make_response(dns.message.make_query("orders", "A")).to_wire()
    with pytest.raises(TimeoutError):
        await host.raw(reply, within=0.2)


def test_resolv_conf_is_read_as_the_manual_says(tmp_path: Path) -> None:
    said = read(
        "# a comment\nnameserver 192.0.2.53\nnameserver not-an-address\nnameserver fe80::1%eth0\noptions ndots:2\n"
        "domain old.example\nsearch Corp.Example. sub.example .\nnameserver 192.0.2.54\nnameserver 192.0.2.55\n"
    )
    assert said.servers == ("192.0.2.53", "fe80::1%eth0", "192.0.2.54")
    assert said.search == ("corp.example", "sub.example")


def test_a_change_of_resolv_conf_is_seen_and_its_absence_changes_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "resolv.conf", [0.0]
    path.write_text("nameserver 192.0.2.1")
    host = HostResolvers(path, now=lambda: clock[0])
    assert host().servers == ("192.0.2.1",)
    (tmp_path / "new").write_text("nameserver 192.0.2.2")
    (tmp_path / "new").rename(path)
    assert host().servers == ("192.0.2.1",), "the file is looked at once a second"
    clock[0] = 1.5
    assert host().servers == ("192.0.2.2",)
    path.unlink()
    clock[0] = 3.0
    assert host().servers == ("192.0.2.2",)
