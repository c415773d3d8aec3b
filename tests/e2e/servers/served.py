"""Applications without a port of their own, for servers with the library: the same in ASGI and in WSGI.

They say as JSON who they are, who calls and what came; ``/slow/<ms>`` takes its time. As a program: by hypercorn.
"""

import asyncio
import json
import os
import signal
import sys

from masche.library import peer
from masche.library.core import trace

NAME = os.environ.get("NAME", "served")


def _told(method, target, headers):
    caller, at = peer.current(), trace.current()
    return {
        "server": NAME,
        "method": method,
        "path": target,
        "headers": headers,
        "peer": str(caller) if caller else None,
        "trace": at.parent if at else None,
        "pid": os.getpid(),
    }


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{message['text']} from {peer.current()}"})
        return
    path = scope["path"]
    if path.startswith("/slow/"):
        await asyncio.sleep(int(path.removeprefix("/slow/")) / 1000)
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    body = json.dumps(_told(scope["method"], scope["raw_path"].decode(), headers)).encode()
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    sent.append((b"x-server", NAME.encode()))
    await send({"type": "http.response.start", "status": 200, "headers": sent})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ, start_response):
    headers = [[key[5:].lower().replace("_", "-"), value] for key, value in environ.items() if key.startswith("HTTP_")]
    body = json.dumps(_told(environ["REQUEST_METHOD"], environ["PATH_INFO"], headers)).encode()
    sent = [("content-type", "application/json"), ("content-length", str(len(body))), ("x-server", NAME)]
    start_response("200 OK", sent)
    return [body]


def by_hypercorn():
    from masche.library import hypercorn

    asyncio.run(hypercorn.serve(app, int(os.environ["PORT"])))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(by_hypercorn())
