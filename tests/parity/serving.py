"""The workloads of a running mesh once more, each a server of the library in this process, on addresses of its own.

The applications behind them are those behind the sidecars: the same recording backend, as an ASGI application.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from live.echo import Instance
from live.mesh import BLOCK, PROXIES, Live, Standing
from masche.compiler.proxyless import library
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.library import uvicorn
from masche.library.core.tls import Certificates
from masche.library.inbound.asgi import App, Guarded, Receive, Scope, Send
from masche.library.inbound.door import Door
from masche.library.inbound.listen import bound
from masche.model.told import ToldServer
from masche.model.vantage import Dialect, Placement
from masche.model.view import Inbound
from masche.testing.static_reception import Counted, StaticReception
from masche.wire import framing
from masche.wire.decode import listeners

SERVERS = f"{BLOCK}.5."
"""Where the library's servers are, in the place of ``PROXIES``."""


class Servers:
    """One server for each port of each workload that is behind a sidecar."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._loop = asyncio.new_event_loop()
        self._servers: list[_Server] = []
        for standing in live.standing.values():
            if standing.view.vantage.placement is not Placement.GATEWAY:
                self._servers += self._of(standing)
        self._thread = threading.Thread(target=self._run, name="library servers")
        self._thread.start()

    def _of(self, standing: Standing) -> Iterator["_Server"]:
        mesh, workload, seat = self._live.mesh, standing.workload, standing.seat
        told = view(mesh, stand(mesh, workload, placement=Placement.LIBRARY, dialect=Dialect.LIBRARY))
        reception = StaticReception(told=dict(_received(blob) for blob in library.listeners(told, seat)))
        certificates = Certificates()
        certificates.put(*self._live.issue(told.identity))
        for port in seat.ports:
            door = Door(
                port.app_port,
                name=port.name,
                workload=lambda: str(workload.name),
                reception=reception,
                counter=Counted(),
            )
            instance = Instance(workload.name.name, workload.name.namespace, port.app_port, self._live.backends.log)
            config = uvicorn.config(Guarded(application(instance), door), certificates, lifespan="off")
            address = SERVERS + seat.bind.removeprefix(PROXIES)
            listening = [bound(address, port.mesh_port)]
            yield _Server(config, listening, mode=door.mode, context=certificates.server_context, leave=_leave)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for server in self._servers:
                tasks.create_task(server.serve())

    def close(self) -> None:
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.ended.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


class _Server(uvicorn.Server):
    """A server that ends as soon as it is told, and does not look every tenth of a second whether it was."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ended.wait()


async def _leave() -> None:
    """Nobody waits for those who call."""


def _received(blob: object) -> tuple[int, Inbound]:
    told = listeners.listener(blob.name, framing.message_of(blob))
    assert isinstance(told, ToldServer)
    return told.port, told.inbound


def application(instance: Instance) -> App:
    """The recording backend, behind an ASGI server."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
        query = scope["query_string"].decode()
        path = scope["raw_path"].decode() + (f"?{query}" if query else "")
        host = dict(headers).get("host", "")
        got = instance.receive(scope["method"], host, path, headers, "http/1.1")
        status, more = await instance.answer(got) or (500, [])
        body = got.json() + b" " * got.padding
        told = [("content-type", "application/json"), ("content-length", str(len(body))), *more]
        start = {"type": "http.response.start", "status": status}
        await send({**start, "headers": [(name.encode(), value.encode()) for name, value in told]})
        await send({"type": "http.response.body", "body": body})

    return serve


@contextmanager
def serving(live: Live) -> Iterator[Servers]:
    running = Servers(live)
    try:
        yield running
    finally:
        running.close()
