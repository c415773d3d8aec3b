"""One caller with grpcio's own xDS client: open-loop calls, for ``rig.grpc_peer``, as ``library_caller`` does."""

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio
import grpc.experimental

MICRO = 1_000_000
STATUS = {grpc.StatusCode.DEADLINE_EXCEEDED: 0, grpc.StatusCode.CANCELLED: -1}


async def play(call: Any, plan: dict[str, Any]) -> None:
    """Call at the times that the plan says, whatever became of the calls before."""
    total = int(plan["rate"] * plan["seconds"])
    lines: list[str] = [""] * total
    print(f"started {int(time.time() * MICRO)}", flush=True)
    start = time.perf_counter()

    async def one(number: int, planned: float) -> None:
        late = time.perf_counter() - start - planned
        status, backend = 200, ""
        made = call(b"", timeout=plan["timeout"])
        try:
            await made
            backend = dict(await made.initial_metadata()).get("x-backend", "")
        except grpc.aio.AioRpcError as error:
            status = STATUS.get(error.code(), 503)
        took = time.perf_counter() - start - planned
        words = (0, int(planned * MICRO), int(took * MICRO), status, backend, int(late * MICRO))
        lines[number] = "\t".join(map(str, words))

    async with asyncio.TaskGroup() as tasks:
        for number in range(total):
            planned = number / plan["rate"]
            ahead = planned - (time.perf_counter() - start)
            if ahead > 0:
                await asyncio.sleep(ahead)
            tasks.create_task(one(number, planned))
    print("\n".join(lines))
    print("ended", flush=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    async with grpc.aio.secure_channel(sys.argv[1], grpc.xds_channel_credentials()) as channel:
        call = channel.unary_unary("/bench.Servers/Call")
        await call(b"", timeout=60, wait_for_ready=True)
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await play(call, json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
