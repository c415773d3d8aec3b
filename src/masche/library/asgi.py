"""The mesh in front of an ASGI application, on any ASGI server: ``app = Mesh(app, port=8080)``.

Policies, metrics and the caller's identity, for requests, streams and WebSockets. Mutual TLS is the server's: with
``masche serve``, ``masche.library.uvicorn`` or ``masche.library.hypercorn`` it is the mesh's own, certificates rotate
and leaving is in order. On a server that knows nothing of the mesh every connection counts as plaintext: under STRICT
nothing is served.
"""

import asyncio

from masche.library import resident as residents
from masche.library.inbound.asgi import App, Guarded, Message, Receive, Scope, Send
from masche.library.inbound.door import Door
from masche.library.life.options import port as read_port
from masche.library.life.residence import Resident
from masche.model.port import Port


def door(resident: Resident, port: Port, *, joins_headers: bool = False) -> Door:
    """Return the door of one port of this process; ``joins_headers`` says that its server joins repeated ones."""
    return Door(
        port.port,
        name=port.name,
        joins_headers=joins_headers,
        workload=lambda: resident.workload,
        reception=resident.reception,
        counter=resident.counter,
    )


class Mesh:
    """An ASGI application in the mesh. ``port`` is where its server listens: ``8080``, ``web:8080``, ``8080/grpc``.

    ``probe`` is asked at ``host`` whether it is well: ``tcp``, ``http:/path`` (of a server in plaintext) or ``none``.
    It registers when the server says that the application starts, and leaves when it stops.
    """

    def __init__(
        self,
        app: App,
        port: int | str | Port,
        *,
        probe: str = "tcp",
        host: str = "127.0.0.1",
        resident: Resident | None = None,
    ) -> None:
        self._app = app
        self._port = read_port(port)
        self._probe, self._host = probe, host
        self._resident = resident or residents.resident()
        self._guarded = Guarded(app, door(self._resident, self._port))

    def __repr__(self) -> str:
        return f"<Mesh {self._port.port} {self._resident!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self._guarded(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Register once the application has started, and leave before it stops.

        ASGI: "If an exception is raised when calling the application callable with a lifespan.startup message [...]
        the server must continue": an application that knows nothing of it is registered all the same.
        """
        heard: list[str] = []

        async def hear() -> Message:
            message = await receive()
            heard.append(message["type"])
            if message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(self._resident.close)
            return message

        async def say(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._resident.serve(self._port, probe=self._probe, host=self._host)
            await send(message)

        try:
            await self._app(scope, hear, say)
        except Exception:
            if heard:
                raise
        if not heard:
            await _in_its_place(hear, say)


async def _in_its_place(hear: Receive, say: Send) -> None:
    """Live for an application that does not."""
    for word in ("startup", "shutdown"):
        await hear()
        await say({"type": f"lifespan.{word}.complete"})
