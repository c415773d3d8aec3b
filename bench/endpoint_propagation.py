"""How long a change of endpoints takes to reach 1, 100 and 1000 xDS streams, against a bare grpc.aio fan-out.

Bytes of the same size in the same run, alternating. The clients run in a process of their own and answer.

    python bench/endpoint_propagation.py [--streams 1,100,1000] [--rounds 9] [--size 8192]
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import grpc
import grpc.aio
from rig.record import Record

from masche.identity import transport
from masche.model.blob import Blob
from masche.wire import discovery, framing
from masche.wire.discovery import MAX_REQUEST_BYTES, DeltaRequest
from masche.wire.types import ENDPOINTS
from masche.xds.listening import bind_unix
from masche.xds.server import SERVICE, Conversation, Peer, Proxy, handlers
from masche.xds.verdict import Rejection
from masche.xds.wanted import Table, Wanted

NAME = "outbound/shop/orders/80"
BARE, OURS = "bare", "masche"
METHODS = {BARE: "/bench.Bare/Fan", OURS: f"/{SERVICE}/DeltaAggregatedResources"}
STREAMS_PER_CHANNEL = 100
TARGET_RATIO = 1.3


def endpoints(number: int, size: int) -> Blob:
    return framing.blob(ENDPOINTS, NAME, number.to_bytes(8, "big") + os.urandom(size - 8))


@dataclass
class Plane:
    """Every stream should hold the same one table."""

    wanted_now: Wanted
    wakes: list[Callable[[], None]]

    async def admit(self, peer: Peer, node_id: str, conversation: Conversation, wake: Callable[[], None]) -> Proxy:  # noqa: ARG002 - of the Protocol
        self.wakes.append(wake)
        return self

    def wanted(self) -> Wanted:
        return self.wanted_now

    def progressed(self, rejected: Sequence[Rejection]) -> None:
        assert not rejected

    def closed(self, why: str) -> None:
        pass

    def publish(self, blob: Blob) -> None:
        self.wanted_now = Wanted({ENDPOINTS: self.wanted_now.table(ENDPOINTS).replaced(put=[blob])})
        for wake in self.wakes:
            wake()


class Bare:
    """The least that a fan-out with acknowledgements can do: no diff, no bookkeeping, one message for all."""

    def __init__(self) -> None:
        self.message = b""
        self.number = 0
        self.changed = asyncio.Condition()

    def handlers(self) -> Any:
        make = cast("Any", grpc.stream_stream_rpc_method_handler)
        return cast("Any", grpc.method_handlers_generic_handler)("bench.Bare", {"Fan": make(self.fan)})

    async def fan(self, _requests: object, context: Any) -> None:
        await context.read()
        seen = -1
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: self.number != seen)  # noqa: B023 - evaluated at once
                seen, message = self.number, self.message
            await context.write(message)
            await context.read()

    async def publish(self, message: bytes) -> None:
        async with self.changed:
            self.message, self.number = message, self.number + 1
            self.changed.notify_all()


# -- the clients' process ---------------------------------------------------------------------------------------------


async def client(target: str, method: str, count: int) -> None:
    """Open ``count`` streams; print a line with the time at which each publication has reached all of them."""
    channels = [
        grpc.aio.insecure_channel(target, options=(("grpc.use_local_subchannel_pool", 1),))
        for _ in range(-(-count // STREAMS_PER_CHANNEL))
    ]
    arrivals: dict[int, int] = {}

    async def stream(index: int) -> None:
        call = cast("Any", channels[index % len(channels)]).stream_stream(method)()
        first = DeltaRequest(type_url=ENDPOINTS, node_id=f"proxy-{index}", subscribe=(NAME,))
        await call.write(discovery.encode_delta_request(first))
        number = 0
        while isinstance(data := await call.read(), bytes):
            arrivals[number] = arrivals.get(number, 0) + 1
            if arrivals[number] == count:
                print(time.monotonic(), flush=True)
            number += 1
            nonce = discovery.decode_delta_response(data).nonce
            await call.write(discovery.encode_delta_request(DeltaRequest(type_url=ENDPOINTS, nonce=nonce)))

    await asyncio.gather(*(stream(index) for index in range(count)))


# -- the server's process ---------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """The clients of one kind."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, target: str, kind: str, count: int) -> "Crowd":
        arguments = (sys.executable, __file__, "--client", target, METHODS[kind], str(count))
        return cls(await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE))

    async def all_have_it(self) -> float:
        assert self.process.stdout is not None
        async with asyncio.timeout(120):
            return float(await self.process.stdout.readline())

    async def stop(self) -> None:
        self.process.kill()
        await self.process.wait()


async def measure(folder: Path, count: int, rounds: int, size: int) -> list[dict[str, float]]:
    plane, bare = Plane(Wanted({ENDPOINTS: Table([endpoints(0, size)])}), []), Bare()
    server = grpc.aio.server(options=transport.server(max_receive_bytes=MAX_REQUEST_BYTES))
    server.add_generic_rpc_handlers((handlers(plane), bare.handlers()))
    path = folder / f"{count}.sock"
    bind_unix(server, path)
    await server.start()
    crowds = {kind: await Crowd.start(f"unix:{path}", kind, count) for kind in METHODS}
    blob = endpoints(0, size)
    await bare.publish(discovery.encode_delta_response(ENDPOINTS, "0", [blob.frame]))
    for crowd in crowds.values():
        await crowd.all_have_it()
    results: list[dict[str, float]] = []
    for number in range(1, rounds + 1):
        await asyncio.sleep(0.1)  # the acknowledgements of the round before are not part of this one
        blob = endpoints(number, size)
        began = time.monotonic()
        await bare.publish(discovery.encode_delta_response(ENDPOINTS, str(number), [blob.frame]))
        took_bare = await crowds[BARE].all_have_it() - began
        await asyncio.sleep(0.1)
        blob = endpoints(number, size)
        began = time.monotonic()
        plane.publish(blob)
        took_ours = await crowds[OURS].all_have_it() - began
        results.append({BARE: took_bare, OURS: took_ours})
    for crowd in crowds.values():
        await crowd.stop()
    await server.stop(0)
    return results


async def main(counts: Sequence[int], rounds: int, size: int) -> None:
    record = Record(
        "endpoint-propagation",
        f"A change of endpoints ({size} bytes) reaches every stream",
        measures=("src/masche/xds", "src/masche/wire/discovery.py", "src/masche/wire/framing.py"),
    )
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            raw = await measure(Path(folder), count, rounds, size)
            record.raw[str(count)] = raw
            ratios = sorted(found[OURS] / found[BARE] for found in raw)
            ours, bare = (median(found[kind] for found in raw) * 1000 for kind in (OURS, BARE))
            ratio = median(ratios)
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            rows.append([str(count), f"{bare:.1f}", f"{ours:.1f}", f"{ratio:.2f}", spread])
            record.figure(f"ms_{count}", round(ours, 1), unit="ms")
            target = f"<= {TARGET_RATIO}"
            record.figure(f"ratio_{count}", round(ratio, 3), target=target, is_met=ratio <= TARGET_RATIO)
    columns = ["streams", "bare fan-out ms", "masche ms", "ratio", "spread of ratios"]
    record.table(f"Until the last stream has it (median of {rounds} rounds)", columns, rows)
    record.write()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        asyncio.run(client(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--streams", default="1,100,1000")
        parser.add_argument("--rounds", type=int, default=9)
        parser.add_argument("--size", type=int, default=8192, help="bytes of the changed resource")
        given = parser.parse_args()
        asyncio.run(main([int(count) for count in given.streams.split(",")], given.rounds, given.size))
