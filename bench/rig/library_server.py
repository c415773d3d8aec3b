"""A server on the library placement, for ``rig.library``: an ASGI application that lets a backend of the rig answer.

So all contenders have the very same servers behind them. To be run by ``masche serve rig.library_server:app``, with
NEXT as the backend's URL.
"""

import os

import aiohttp

from rig.lifelong_session import LifelongSession, Message, Receive, Send

_session = LifelongSession(lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _session.lifespan(receive, send)
    elif scope["type"] == "http":
        async with _session.get(os.environ["NEXT"]) as answer:
            body = await answer.read()
        headers = [(b"content-length", str(len(body)).encode()), (b"x-backend", answer.headers["x-backend"].encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
