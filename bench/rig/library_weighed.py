"""One Python program with an HTTP client and a TLS context, with the library or without it, that says what it weighs.

For ``bench/library_weight.py``. Reads one JSON line: which client, and ``names`` to call by the library, none for the
bare client, which calls all of ``plain``. Prints one: the memory of the process (PSS, kB) when all was called, with
all connections kept open by both.
"""

import asyncio
import gc
import json
import re
import ssl
import sys
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMALL = 1024
"""Bytes to read into for each TLS connection on asyncio: next to nothing, as where all share one buffer."""


def pss_kb() -> int:
    gc.collect()
    found = re.search(r"^Pss:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def context(told: dict[str, Any]) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=told["roots"])
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.load_cert_chain(told["certificate"], told["key"])
    return made


async def with_aiohttp(told: dict[str, Any]) -> int:
    import aiohttp

    tls = context(told)
    if told["names"]:
        from masche.library.aiohttp import client_session

        session, urls = client_session(), [f"http://{name}/" for name in told["names"]]
    else:
        session, urls = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)), told["plain"]

    async def once(url: str) -> int:
        async with session.get(url) as answer:
            await answer.read()
            return answer.status

    async with session:
        await every(once, urls)
        return pss_kb()


async def with_httpx(told: dict[str, Any]) -> int:
    import httpx

    tls = context(told)
    if told["names"]:
        from masche.library.httpx import AsyncTransport

        client, urls = httpx.AsyncClient(transport=AsyncTransport()), [f"http://{name}/" for name in told["names"]]
    else:
        every_connection = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
        client, urls = httpx.AsyncClient(verify=tls, limits=every_connection), told["plain"]

    async def once(url: str) -> int:
        return (await client.get(url)).status_code

    async with client:
        await every(once, urls)
        return pss_kb()


async def every(once: Any, urls: Sequence[str]) -> None:
    """Call each until it works: the mesh has to be joined, and each service told."""
    ends = time.monotonic() + 60
    for url in urls:
        while True:
            try:
                if await once(url) == 200:
                    break
            except Exception:
                if time.monotonic() > ends:
                    raise
            await asyncio.sleep(0.05)


def with_requests(told: dict[str, Any]) -> int:
    import requests
    from requests.adapters import HTTPAdapter

    tls = context(told)

    class Plain(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options, ssl_context=tls, assert_hostname=False)

    with requests.Session() as session:
        session.verify = told["roots"]
        session.mount("https://", Plain(pool_connections=len(told["plain"]) or 1))
        if told["names"]:
            from masche.library.requests import Adapter

            session.mount("http://", Adapter())

        async def once(url: str) -> int:
            return session.get(url).status_code

        asyncio.run(every(once, [f"http://{name}/" for name in told["names"]] or told["plain"]))
        return pss_kb()


def main() -> None:
    told = json.loads(sys.stdin.readline())
    if told["is_lean"]:
        SSLProtocol.max_size = SMALL
    match told["client"]:
        case "requests":
            weight = with_requests(told)
        case "httpx":
            weight = asyncio.run(with_httpx(told))
        case _:
            weight = asyncio.run(with_aiohttp(told))
    print(json.dumps({"pss_kb": weight}))


if __name__ == "__main__":
    main()
