"""A TCP port of the library: who gets in, by certificate or without, what its handler is told, and how it ends."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from library.issuing import Issuing
from masche.library import peer
from masche.library.core.ports import BYTES
from masche.library.inbound.listen import bound
from masche.library.inbound.stream_server import StreamServer
from masche.library.inbound.streams import StreamDoor
from masche.model.view import (
    Attribute,
    Condition,
    Decision,
    Inbound,
    InboundPort,
    MtlsMode,
    Pattern,
    PatternKind,
    Policy,
    Protocol,
    Rule,
)
from masche.testing.static_reception import Counted, StaticReception

PORT = 5432
TCP = (InboundPort(target=PORT, protocol=Protocol.TCP),)
OPEN = Inbound(ports=TCP)


def condition(attribute: Attribute, value: str) -> Condition:
    return Condition(attribute=attribute, values=(Pattern(PatternKind.EXACT, value),))


def policy(decision: Decision, *conditions: Condition) -> Policy:
    rules = (Rule(name="shop/p rules[0]", when=conditions),)
    return Policy(name="shop/p", decision=decision, rules=rules)


class Served:
    """A server on loopback, and callers that prove who they are, or nothing."""

    def __init__(self, issuing: Issuing, told: Inbound | None) -> None:
        self.issuing = issuing
        self.reception = StaticReception(told={PORT: told} if told else {})
        self.counter = Counted()
        self.left: list[str] = []
        self.have_heard = asyncio.Event()
        self.have_heard.set()
        self.trouble: Exception | None = None
        self.is_over = asyncio.Event()
        door = StreamDoor(PORT, workload=lambda: "shop/db-1", reception=self.reception, counter=self.counter)
        self.server = StreamServer(
            self.handle, [bound("127.0.0.1", 0)], door, issuing.certificates("db"), leave=self.leave, limit=2**16
        )

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{peer.current()}\n".encode())
        async for line in reader:
            if line == b"boom\n":
                raise RuntimeError("boom")
            writer.write(line)
        self.is_over.set()

    async def leave(self) -> None:
        self.left.append("told")
        await self.have_heard.wait()
        if self.trouble:
            raise self.trouble

    async def said(self, who: str | None, *lines: bytes, context: ssl.SSLContext | None = None) -> bytes:
        """All that a caller gets."""
        if who is not None:
            context = self.issuing.certificates(who).client_context((self.issuing.name("db"),), BYTES)
        port = self.server.sockets[0].getsockname()[1]
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except OSError:
            return b""
        got = b""
        with suppress(OSError):
            writer.writelines(lines)
            while len(got.splitlines()) <= len(lines) and (more := await reader.read(1000)):
                got += more
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return got


@asynccontextmanager
async def serving(folder: Path, told: Inbound | None) -> AsyncIterator[Served]:
    made = Served(Issuing(folder), told)
    made.server.start()
    try:
        yield made
    finally:
        await made.server.close(grace=5)


async def counted(served: Served, number: int) -> list[tuple[str, int, str, bool]]:
    async with asyncio.timeout(10):
        while len(served.counter.requests) < number:
            await asyncio.sleep(0.01)
    return [(each.peer.rpartition("/")[2], each.status, each.rule, each.is_stream) for each in served.counter.requests]


async def test_a_caller_is_known_by_its_certificate_and_counted(tmp_path: Path) -> None:
    async with serving(tmp_path, OPEN) as served:
        assert await served.said("web", b"a\n") == f"{served.issuing.name('web')}\na\n".encode()
        assert await counted(served, 1) == [("web", 0, "", True)]
        [received] = served.counter.requests
        assert (received.bytes_received, received.bytes_sent > 2) == (2, True)


async def test_under_strict_nothing_of_a_plaintext_caller_is_read(tmp_path: Path) -> None:
    async with serving(tmp_path, OPEN) as served:
        assert await served.said(None, b"a\n") == b""
        assert not served.is_over.is_set()


async def test_under_permissive_both_get_in_and_the_handler_knows_which_is_which(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPEN, mtls=MtlsMode.PERMISSIVE)) as served:
        assert await served.said(None, b"a\n") == b"None\na\n"
        assert await served.said(None) == b"None\n", "who waits for the server to speak is let in after a while"
        assert await served.said("web", b"a\n") == f"{served.issuing.name('web')}\na\n".encode()


async def test_a_caller_of_another_mesh_is_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path / "one", replace(OPEN, mtls=MtlsMode.PERMISSIVE)) as served:
        other = Issuing(tmp_path / "other", "elsewhere.org").certificates("web")
        context = other.client_context((served.issuing.name("db"),), BYTES)
        assert await served.said(None, b"a\n", context=context) == b""
        assert served.counter.requests == []


async def test_before_anybody_said_who_may_come_in_nobody_does(tmp_path: Path) -> None:
    async with serving(tmp_path, None) as served:
        assert await served.said("web", b"a\n") == b""
        served.reception.told = {PORT: OPEN}
        assert await served.said("web", b"a\n") != b""


PRINCIPAL = condition(Attribute.PRINCIPAL, "mesh.local/ns/shop/sa/web")
NAMESPACE = condition(Attribute.NAMESPACE, "shop")
LOOPBACK = condition(Attribute.SOURCE_IP, "127.0.0.0/8")
OTHER_PORT = condition(Attribute.DESTINATION_PORT, "80")
METHOD = condition(Attribute.METHOD, "GET")


@pytest.mark.parametrize(
    ("policies", "admitted"),
    [
        ((), {"web", "cart", None}),
        ((policy(Decision.ALLOW, PRINCIPAL),), {"web"}),
        ((policy(Decision.DENY, PRINCIPAL),), {"cart", None}),
        ((policy(Decision.ALLOW, NAMESPACE),), {"web", "cart"}),
        ((policy(Decision.ALLOW, LOOPBACK),), {"web", "cart", None}),
        ((policy(Decision.DENY, LOOPBACK, PRINCIPAL),), {"cart", None}),
        ((policy(Decision.ALLOW, OTHER_PORT),), set()),
        ((policy(Decision.DENY, OTHER_PORT),), {"web", "cart", None}),
        ((policy(Decision.ALLOW, METHOD),), set()),
        ((policy(Decision.DENY, METHOD, PRINCIPAL),), {"cart", None}),
        ((Policy(name="shop/none", decision=Decision.ALLOW),), set()),
    ],
)
async def test_policies_let_in_whom_they_mean(tmp_path: Path, policies: tuple[Policy, ...], admitted: set[str]) -> None:
    told = Inbound(ports=TCP, mtls=MtlsMode.PERMISSIVE, policies=policies)
    async with serving(tmp_path, told) as served:
        found = {who for who in ("web", "cart", None) if await served.said(who, b"a\n")}
        assert found == admitted
        refused = [each for each in await counted(served, 3) if each[1] == 403]
        assert len(refused) == 3 - len(admitted)
        assert all(rule for _, _, rule, _ in refused)


async def test_a_handler_that_fails_ends_its_own_connection_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, OPEN) as served:
        greeting = f"{served.issuing.name('web')}\n".encode()
        assert await served.said("web", b"boom\n") == greeting
        assert await served.said("web", b"a\n") == greeting + b"a\n"
    assert "the handler of a connection failed" in caplog.text


async def test_it_leaves_in_order_and_connections_have_their_time(tmp_path: Path) -> None:
    served = Served(Issuing(tmp_path), replace(OPEN, mtls=MtlsMode.DISABLE))
    served.server.start()
    address = served.server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.readline() == b"None\n"
    closing = asyncio.ensure_future(served.server.close(grace=10))
    async with asyncio.timeout(10):
        while served.server.sockets[0].fileno() >= 0:
            await asyncio.sleep(0.01)
    assert served.left == ["told"], "callers hear of it before the port is closed"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 1)
    writer.write(b"still\n")
    assert await reader.readline() == b"still\n"
    writer.close()
    await writer.wait_closed()
    await closing
    await served.server.serve_forever()


async def test_who_does_not_end_in_time_is_cut_off(tmp_path: Path) -> None:
    served = Served(Issuing(tmp_path), replace(OPEN, mtls=MtlsMode.DISABLE))
    served.server.start()
    reader, writer = await asyncio.open_connection(*served.server.sockets[0].getsockname())
    assert await reader.readline() == b"None\n"
    await served.server.close(grace=0.01)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    with suppress(ConnectionResetError):
        await writer.wait_closed()


async def test_whoever_closes_it_waits_for_the_same_end(tmp_path: Path) -> None:
    served = Served(Issuing(tmp_path), replace(OPEN, mtls=MtlsMode.DISABLE))
    served.server.start()
    served.have_heard.clear()
    forever = asyncio.ensure_future(served.server.serve_forever())
    first, second = (asyncio.ensure_future(served.server.close()) for _ in range(2))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(each.done() for each in (forever, first, second)), "callers have not heard of it yet"
    served.have_heard.set()
    await asyncio.wait_for(asyncio.gather(forever, first, second), 10)
    assert (served.left, served.server.sockets[0].fileno()) == (["told"], -1)


async def test_its_port_is_closed_although_callers_could_not_be_told(tmp_path: Path) -> None:
    served = Served(Issuing(tmp_path), OPEN)
    served.server.start()
    served.trouble = RuntimeError("nobody to tell")
    with pytest.raises(RuntimeError, match="nobody to tell"):
        await served.server.close()
    assert served.server.sockets[0].fileno() == -1
    await asyncio.wait_for(served.server.serve_forever(), 10)


async def test_a_caller_that_never_reads_what_was_written_is_cut_off_and_counted(tmp_path: Path) -> None:
    served = Served(Issuing(tmp_path), replace(OPEN, mtls=MtlsMode.DISABLE))
    written = asyncio.Event()

    async def much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(50_000_000))
        written.set()

    served.server.handler = much
    served.server.start()
    with socket.create_connection(served.server.sockets[0].getsockname(), 10):
        await asyncio.wait_for(written.wait(), 10)
        await asyncio.wait_for(served.server.close(grace=0.01), 10)
        assert await counted(served, 1) == [("", 0, "", True)]
