"""A tier on the library placement, for ``bench/retry_storm.py``: an ASGI application that calls the next tier.

It answers as the next tier answered, and passes on that this is not to be repeated, as an application does that lets
answers through. To be run by ``masche serve rig.library_tier:app``, with NEXT as the URL that it calls.
"""

import os

import aiohttp

from masche.library.aiohttp import client_session
from masche.library.core.ports import MeshError
from rig.lifelong_session import LifelongSession, Message, Receive, Send

SPENT = "x-envoy-ratelimited"

_session = LifelongSession(lambda: client_session(timeout=aiohttp.ClientTimeout(total=2)))


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _session.lifespan(receive, send)
    elif scope["type"] == "http":
        status, headers = await following()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d\n" % status})


async def following() -> tuple[int, list[tuple[bytes, bytes]]]:
    """Ask the next tier: its status, and what is to be passed on."""
    try:
        async with _session.get(os.environ["NEXT"]) as answer:
            await answer.read()
            spent = answer.headers.get(SPENT)
            return answer.status, [(SPENT.encode(), spent.encode())] if spent else []
    except (aiohttp.ClientError, MeshError):
        return 502, []
    except TimeoutError:
        return 504, []
