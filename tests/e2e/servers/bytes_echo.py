"""A TCP server: it repeats what it hears, and after the end of the input says how much that was.

With ``GREETING`` set it speaks first, as SMTP and MySQL do.
"""

import asyncio
import os
import signal

GREETING = os.environ.get("GREETING", "").encode()


async def talk(reader, writer):
    heard = 0
    try:
        if GREETING:
            writer.write(GREETING + b"\n")
        while data := await reader.read(65536):
            heard += len(data)
            writer.write(data)
            await writer.drain()
        writer.write(b"<%d>" % heard)
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        pass


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.start_server(talk, os.environ["HOST"], int(os.environ["PORT"]))
    await stop.wait()


asyncio.run(main())
