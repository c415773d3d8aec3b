"""A session of aiohttp that lives as long as the ASGI application that calls through it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class LifelongSession:
    """Made at the application's startup, in the loop that it runs in, and closed at its end."""

    def __init__(self, make: Callable[[], aiohttp.ClientSession]) -> None:
        self._make = make
        self._made: list[aiohttp.ClientSession] = []

    def get(self, url: str) -> Any:
        """Call: as ``aiohttp.ClientSession.get``."""
        return self._made[0].get(url)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Answer the server's events of ASGI's lifespan."""
        await receive()
        self._made.append(self._make())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._made.pop().close()
        await send({"type": "lifespan.shutdown.complete"})
