"""A server on the library placement, for ``rig.library``: an ASGI application that lets a backend of the rig answer.

So all contenders have the very same servers behind them. To be run by ``masche serve rig.library_server:app``, with
NEXT as the backend's URL.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp

Message = MutableMapping[str, Any]

_sessions: list[aiohttp.ClientSession] = []


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        async with _sessions[0].get(os.environ["NEXT"]) as answer:
            body = await answer.read()
        headers = [(b"content-length", str(len(body)).encode()), (b"x-backend", answer.headers["x-backend"].encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    await receive()
    _sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await _sessions.pop().close()
    await send({"type": "lifespan.shutdown.complete"})
