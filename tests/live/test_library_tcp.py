"""A sidecar connects to a TCP server of the library: to it an instance like any other."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from live.client import tcp
from live.library import told_to
from live.mesh import Live, here, living
from live.test_detours import LEDGER, WEB, _until, workload
from masche.compiler.proxyless import library
from masche.library import peer
from masche.library.core.tls import Certificates
from masche.library.inbound.listen import bound
from masche.library.inbound.stream_server import StreamServer
from masche.library.inbound.streams import StreamDoor
from masche.model.refs import Name, PortRef
from masche.model.told import ToldServer
from masche.testing.static_reception import Counted, StaticReception
from masche.wire import framing
from masche.wire.decode import listeners
from stories.loader import read_mesh

PORT = PortRef("shop", "ledger", 81)
POLICY = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {action: DENY, selector: {matchLabels: {app: ledger}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}
"""
MESH = LEDGER + workload("web", 11, "a", label="app: web") + workload("ledger", 15, "a", label="app: ledger")
APPLICATION = 8080


class Server:
    """The workload ``ledger`` as a program with the library, which says who calls."""

    def __init__(self, live: Live) -> None:
        self.live, self.counter = live, Counted()
        self.reception = StaticReception()
        self.tell()
        self._ready, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(20)

    def tell(self) -> None:
        """Let it be told what the compiler makes of the mesh of this moment."""
        ledger = Name("shop", "ledger-1")
        self.told = told_to(self.live, ledger)
        (blob,) = library.listeners(self.told, self.live.standing[ledger].seat)
        found = listeners.listener(blob.name, framing.message_of(blob))
        assert isinstance(found, ToldServer)
        self.reception.told = {APPLICATION: found.inbound}

    async def _run(self) -> None:
        certificates = Certificates()
        certificates.put(*self.live.issue(self.told.identity))
        door = StreamDoor(APPLICATION, workload=lambda: "shop/ledger-1", reception=self.reception, counter=self.counter)
        listening = bound("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        server = StreamServer(self._handle, [listening], door, certificates, leave=self._leave, limit=2**16)
        server.start()
        self._ready.set()
        await asyncio.to_thread(self._over.wait)
        await server.close(grace=5)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5) + b" " + str(peer.current()).encode())

    async def _leave(self) -> None:
        """Nobody is to be told."""

    def close(self) -> None:
        self._over.set()
        self._thread.join(20)


@pytest.fixture
def running() -> Iterator[tuple[Live, Server]]:
    with living() as live:
        live.load(read_mesh(here(MESH), file="m.yaml"), {WEB})
        server = Server(live)
        try:
            found = live.instances_of(PORT, "a")
            (locality,) = found.localities
            here_ = tuple(replace(each, address="127.0.0.1", port=server.port) for each in locality.endpoints)
            live.instead = {PORT: replace(found, localities=(replace(locality, endpoints=here_),))}
            live.change(live.mesh)
            yield live, server
        finally:
            server.close()


def test_a_sidecar_connects_to_the_library_and_is_known_and_judged(running: tuple[Live, Server]) -> None:
    live, server = running
    way = live.standing[WEB].local(PORT)
    assert tcp(way).body == b"hello spiffe://mesh.local/ns/shop/sa/web"
    _until(lambda: len(server.counter.requests) == 1)
    live.mesh = read_mesh(here(MESH + POLICY), file="m.yaml")
    server.tell()
    assert tcp(way).body == b""
    _until(lambda: "shop/closed" in server.counter.requests[-1].rule)
