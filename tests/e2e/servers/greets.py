"""A server that speaks first, as databases do: it says who it is, then repeats what it hears."""

import asyncio
import contextlib
import os
import signal

NAME = os.environ.get("NAME", "greets")


async def greet(reader, writer):
    writer.write(f"hello from {NAME}\n".encode())
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(line)
    writer.close()


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.start_server(greet, os.environ["HOST"], int(os.environ["PORT"]))
    await stop.wait()


asyncio.run(main())
