"""A WebSocket server: the first message of a connection says who called and where, then it repeats what it hears."""

import asyncio
import json
import os
import signal

from websockets.asyncio.server import serve

NAME = os.environ.get("NAME", "socket")


async def talk(connection):
    headers = [[name.lower(), value] for name, value in connection.request.headers.raw_items()]
    await connection.send(json.dumps({"name": NAME, "path": connection.request.path, "headers": headers}))
    async for message in connection:
        await connection.send(message)


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(talk, os.environ["HOST"], int(os.environ["PORT"]), close_timeout=0.5):
        await stop.wait()


asyncio.run(main())
