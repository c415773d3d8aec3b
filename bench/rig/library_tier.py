"""A tier on the library placement, for ``bench/retry_storm.py``: an ASGI application that calls the next tier.

It answers as the next tier answered, and passes on that this is not to be repeated, as an application does that lets
answers through. To be run by ``masche serve rig.library_tier:app``, with NEXT as the URL that it calls.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp

from masche.library.aiohttp import client_session
from masche.library.core.ports import MeshError

Message = MutableMapping[str, Any]
SPENT = "x-envoy-ratelimited"

_sessions: list[aiohttp.ClientSession] = []


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        status, headers = await following()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d\n" % status})


async def lifespan(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    await receive()
    _sessions.append(client_session(timeout=aiohttp.ClientTimeout(total=2)))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await _sessions.pop().close()
    await send({"type": "lifespan.shutdown.complete"})


async def following() -> tuple[int, list[tuple[bytes, bytes]]]:
    """Ask the next tier: its status, and what is to be passed on."""
    try:
        async with _sessions[0].get(os.environ["NEXT"]) as answer:
            await answer.read()
            spent = answer.headers.get(SPENT)
            return answer.status, [(SPENT.encode(), spent.encode())] if spent else []
    except (aiohttp.ClientError, MeshError):
        return 502, []
    except TimeoutError:
        return 504, []
