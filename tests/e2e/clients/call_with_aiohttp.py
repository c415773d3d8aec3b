"""aiohttp: it reads the proxy variables with trust_env only; without, the service's URL is the way."""

import asyncio
import sys

import aiohttp
from ways import BASE, CHUNKS, DOWNLOAD, UPLOAD, WAY, say


async def pieces():
    for chunk in CHUNKS:
        yield chunk


async def main():
    reused = []
    trace = aiohttp.TraceConfig()

    async def note(*_):
        reused.append(True)

    trace.on_connection_reuseconn.append(note)
    is_trusting = WAY == "proxy" or "trust_env" in sys.argv
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(trust_env=is_trusting, trace_configs=[trace], timeout=timeout) as session:
        async with session.get(f"{BASE}/a/b", params={"c": "d"}) as response:
            get = await response.json()
        async with session.post(f"{BASE}/", data=UPLOAD) as response:
            upload = await response.json()
        async with session.put(f"{BASE}/", data=pieces()) as response:
            chunked = await response.json()
        async with session.get(f"{BASE}/bytes/{DOWNLOAD}") as response:
            download = len(await response.read())
    say(get=get, upload=upload, chunked=chunked, download=download, reused=len(reused) == 3)


asyncio.run(main())
