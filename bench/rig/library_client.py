"""One Python program that calls one server in two ways, in turns: plainly over mutual TLS, and through the library.

For ``bench/library.py``. Reads one JSON line that says what to do, prints one that says what was measured: for each
round and way calls per second and microseconds of this process' own processor time per call, at a fixed number of
calls at a time; and, where asked for, latencies of an open loop at a fixed rate.
"""

import asyncio
import json
import resource
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

Once = Callable[[], Awaitable[None]]
OnceSync = Callable[[], None]


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def context(told: dict[str, str]) -> ssl.SSLContext:
    """What a careful program would set up by hand: TLS 1.3, its certificate, the mesh's roots, no host names."""
    made = ssl.create_default_context(cafile=told["roots"])
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.load_cert_chain(told["certificate"], told["key"])
    return made


# -- asynchronous clients -------------------------------------------------------------------------------------------


async def closed(once: Once, *, width: int, seconds: float) -> dict[str, float]:
    """So many calls at a time for so long."""
    done, ends, began, used = 0, time.perf_counter() + seconds, time.perf_counter(), processor_seconds()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await once()
            done += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(width):
            tasks.create_task(caller())
    took = time.perf_counter() - began
    return {"rps": done / took, "cpu_us": 1e6 * (processor_seconds() - used) / done}


async def opened(once: Once, *, rate: float, seconds: float) -> list[float]:
    """Calls at a fixed rate; milliseconds from the planned instant of each."""
    found: list[float] = []
    start = time.perf_counter()

    async def one(planned: float) -> None:
        await once()
        found.append(1000 * (time.perf_counter() - start - planned))

    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            planned = number / rate
            ahead = planned - (time.perf_counter() - start)
            if ahead > 0:
                await asyncio.sleep(ahead)
            tasks.create_task(one(planned))
    return found


async def aiohttp_ways(told: dict[str, Any]) -> tuple[dict[str, Once], Once]:
    import aiohttp

    from masche.library.aiohttp import client_session

    tls = context(told)
    plain = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls))
    mesh = client_session()

    def way(session: Any, url: str) -> Once:
        async def once() -> None:
            async with session.get(url) as answer:
                await answer.read()
                assert answer.status == 200, answer.status

        return once

    async def close() -> None:
        await plain.close()
        await mesh.close()

    return {"plain": way(plain, told["plain"]), "library": way(mesh, told["mesh"])}, close


async def httpx_ways(told: dict[str, Any]) -> tuple[dict[str, Once], Once]:
    from importlib import import_module

    from masche.library.httpx import AsyncTransport

    module = import_module(told["client"])
    plain, mesh = module.AsyncClient(verify=context(told)), module.AsyncClient(transport=AsyncTransport())

    def way(client: Any, url: str) -> Once:
        async def once() -> None:
            answer = await client.get(url)
            assert answer.status_code == 200, answer.status_code

        return once

    async def close() -> None:
        await plain.aclose()
        await mesh.aclose()

    return {"plain": way(plain, told["plain"]), "library": way(mesh, told["mesh"])}, close


async def sidecar_ways(told: dict[str, Any]) -> tuple[dict[str, Once], Once]:
    """aiohttp to its own sidecar, in the clear: the proxies of both ends carry the call."""
    import aiohttp

    session = aiohttp.ClientSession()

    async def once() -> None:
        async with session.get(told["sidecar"]) as answer:
            await answer.read()
            assert answer.status == 200, answer.status

    return {"sidecar": once}, session.close


async def grpc_ways(told: dict[str, Any]) -> tuple[dict[str, Once], Once]:
    """grpcio's own xDS client: a unary call with an empty answer."""
    import grpc
    import grpc.aio

    channel = grpc.aio.secure_channel(told["target"], grpc.xds_channel_credentials())
    call: Any = channel.unary_unary("/bench.Servers/Call")

    async def once() -> None:
        await call(b"", timeout=10)

    return {"grpcio": once}, channel.close


async def play(told: dict[str, Any]) -> dict[str, Any]:
    makers = {
        "aiohttp": aiohttp_ways,
        "httpx": httpx_ways,
        "httpx2": httpx_ways,
        "sidecar": sidecar_ways,
        "grpcio": grpc_ways,
    }
    ways, close = await makers[told["client"]](told)
    try:
        for once in ways.values():
            await first(once)
        rounds: list[dict[str, Any]] = []
        for _ in range(told["rounds"]):
            made: dict[str, Any] = {}
            for name, once in ways.items():
                made[name] = await closed(once, width=told["width"], seconds=told["seconds"])
            for name, once in ways.items():
                if told["rate"]:
                    made[name]["latencies"] = await opened(once, rate=told["rate"], seconds=told["seconds"])
            rounds.append(made)
        return {"rounds": rounds}
    finally:
        await close()


async def first(once: Once) -> None:
    """Call until it works: the mesh has to be joined."""
    ends = time.monotonic() + 30
    while True:
        try:
            return await once()
        except Exception:
            if time.monotonic() > ends:
                raise
            await asyncio.sleep(0.1)


# -- threads --------------------------------------------------------------------------------------------------------


def closed_sync(once: OnceSync, *, width: int, seconds: float) -> dict[str, float]:
    """The same with threads."""
    counts, ends = [0] * width, time.perf_counter() + seconds
    began, used = time.perf_counter(), processor_seconds()

    def caller(index: int) -> None:
        while time.perf_counter() < ends:
            once()
            counts[index] += 1

    threads = [threading.Thread(target=caller, args=(index,)) for index in range(width)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, done = time.perf_counter() - began, sum(counts)
    return {"rps": done / took, "cpu_us": 1e6 * (processor_seconds() - used) / done}


def play_requests(told: dict[str, Any]) -> dict[str, Any]:
    import requests
    from requests.adapters import HTTPAdapter

    from masche.library.requests import Adapter

    class Plain(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options, ssl_context=context(told), assert_hostname=False)

    plain, mesh = requests.Session(), requests.Session()
    plain.verify = told["roots"]
    plain.mount("https://", Plain())
    mesh.mount("http://", Adapter())

    def way(session: requests.Session, url: str) -> OnceSync:
        def once() -> None:
            answer = session.get(url)
            assert answer.status_code == 200, answer.status_code

        return once

    ways = {"plain": way(plain, told["plain"]), "library": way(mesh, told["mesh"])}
    for once in ways.values():
        first_sync(once)
    rounds = [
        {name: closed_sync(once, width=told["width"], seconds=told["seconds"]) for name, once in ways.items()}
        for _ in range(told["rounds"])
    ]
    return {"rounds": rounds}


def first_sync(once: OnceSync) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            return once()
        except Exception:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


def main() -> None:
    told = json.loads(sys.stdin.readline())
    found = play_requests(told) if told["client"] == "requests" else asyncio.run(play(told))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
