"""How connections to our own port begin, and what becomes of those that begin as it closes."""

import asyncio
from contextlib import suppress

import pytest

from library.server.conftest import Caller
from library.server.serving import LOOPS
from masche.library.core.tls import Certificates
from masche.library.inbound.listen import Listener, bound
from masche.model.view import MtlsMode


class Closing(asyncio.Protocol):
    """Closes the port as soon as it has a connection, before whoever made the connection knows."""

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.listener is not None
        self.listener.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def a_connection_that_begins_as_the_port_closes(ours: Certificates, caller: Caller) -> None:
    listening = bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    protocol = Closing()
    listener = Listener([listening], lambda: protocol, mode=lambda: MtlsMode.STRICT, context=ours.server_context)
    protocol.listener = listener
    listener.start()
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=caller("web"), server_hostname="")
        assert await reader.read() == b""
        writer.close()
    async with asyncio.timeout(10):  # asyncio itself gives up a connection after 30 seconds
        await protocol.lost
        await listener.wait_closed()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_begins_as_the_port_closes_ends_with_its_caller(
    loop: str, ours: Certificates, caller: Caller
):
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(a_connection_that_begins_as_the_port_closes(ours, caller))
