"""One caller on the library placement: open-loop calls through ``masche.library.aiohttp``, for ``rig.library``.

Its argument is a URL that it calls until there is an answer; then it says ``ready``, reads a plan per line (JSON) from
standard input and answers with ``started <microseconds>``, a line per call as the
compiled caller writes them, and ``ended``. The process, and with it what it learnt of the service, outlives a plan.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp

from masche.library.aiohttp import Connector, client_session
from masche.library.core.ports import MeshError

MICRO = 1_000_000


async def play(session: aiohttp.ClientSession, plan: dict[str, Any]) -> None:
    """Call at the times that the plan says, whatever became of the calls before."""
    total = int(plan["rate"] * plan["seconds"])
    lines: list[str] = [""] * total
    print(f"started {int(time.time() * MICRO)}", flush=True)
    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(total):
            planned = number / plan["rate"]
            ahead = planned - (time.perf_counter() - start)
            if ahead > 0:
                await asyncio.sleep(ahead)
            tasks.create_task(one(session, plan, start=start, planned=planned, into=partial(put, lines, number)))
    print("\n".join(lines))
    print("ended", flush=True)


def put(lines: list[str], number: int, line: str) -> None:
    lines[number] = line


async def one(
    session: aiohttp.ClientSession,
    plan: dict[str, Any],
    *,
    start: float,
    planned: float,
    into: Callable[[str], None],
) -> None:
    late = time.perf_counter() - start - planned
    status, backend = -1, ""
    try:
        limit = aiohttp.ClientTimeout(total=plan["timeout"])
        async with session.request(plan["method"], plan["url"], headers=plan["headers"], timeout=limit) as answer:
            await answer.read()
            status, backend = answer.status, answer.headers.get("x-backend", "")
    except TimeoutError:
        status = 0
    except (aiohttp.ClientError, MeshError):
        status = -1
    took = time.perf_counter() - start - planned
    words = (0, int(planned * MICRO), int(took * MICRO), status, backend, int(late * MICRO))
    into("\t".join(map(str, words)))


async def first(session: aiohttp.ClientSession, url: str) -> None:
    """Join the mesh, and wait until it leads somewhere."""
    ends = time.monotonic() + 60
    while True:
        try:
            async with session.get(url) as answer:
                if answer.status == 200:
                    return
                said = f"{answer.status} {await answer.text()}"
        except (aiohttp.ClientError, MeshError, TimeoutError) as error:
            said = repr(error)
        if time.monotonic() > ends:
            raise SystemExit(f"no answer within a minute: {said}")
        await asyncio.sleep(0.1)


async def main() -> None:
    loop = asyncio.get_running_loop()
    # aiohttp's own limit of 100 connections is not what is measured here.
    async with client_session(connector=Connector(limit=0)) as session:
        await first(session, sys.argv[1])
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await play(session, json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
