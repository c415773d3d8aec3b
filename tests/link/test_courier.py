"""A stream of gRPC's own xDS client is carried to one control plane after another, and the client notices nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc.aio
import pytest

from masche.link.courier import Courier
from masche.wire.discovery import SotwRequest, decode_sotw_request, encode_sotw_request, encode_sotw_response
from masche.wire.types import CLUSTER, LISTENER, SECRET


class FakePlane:
    """One stream to a control plane: what it was told, and what it is made to say."""

    def __init__(self) -> None:
        self.heard: list[SotwRequest] = []
        self.raw: list[bytes] = []
        self.is_cancelled = False
        self._said: asyncio.Queue[Any] = asyncio.Queue()

    async def write(self, raw: bytes) -> None:
        if self.is_cancelled:
            raise grpc.aio.UsageError("it is over")
        self.raw.append(raw)
        self.heard.append(decode_sotw_request(raw))

    async def read(self) -> Any:
        return await self._said.get()

    def cancel(self) -> None:
        self.is_cancelled = True

    def say(self, type_url: str, nonce: str) -> bytes:
        raw = encode_sotw_response(type_url, nonce, [], f"v{nonce}")
        self._said.put_nowait(raw)
        return raw

    def end(self) -> None:
        self._said.put_nowait(grpc.aio.EOF)


class Carried:
    """A program at one end, and control planes at the other; None stands for a time without one."""

    def __init__(self) -> None:
        self.planes: list[FakePlane | None] = []
        self.given: list[bytes] = []
        self.told: list[bool] = []
        self.noted: list[SotwRequest] = []
        self._asked: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.courier = Courier(
            self._requests(),
            self._write,
            open_upstream=lambda: cast("Any", self.planes.pop(0) if self.planes else None),
            note=self.noted.append,
            told=self.told.append,
        )

    async def _requests(self) -> AsyncIterator[bytes]:
        while (raw := await self._asked.get()) is not None:
            yield raw

    async def _write(self, raw: bytes) -> None:
        self.given.append(raw)

    def ask(self, type_url: str, *names: str, nonce: str = "", version: str = "", **more: Any) -> bytes:
        raw = encode_sotw_request(SotwRequest(type_url=type_url, names=names, nonce=nonce, version=version, **more))
        self._asked.put_nowait(raw)
        return raw

    def leave(self) -> None:
        self._asked.put_nowait(None)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


FIRST = SotwRequest(type_url=LISTENER, node_id="web", names=("orders:80",))


@pytest.fixture
async def carried() -> AsyncIterator[Carried]:
    made = Carried()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.courier.run(encode_sotw_request(FIRST)))
        yield made
        made.leave()
        await running


async def test_what_both_sides_say_passes_byte_for_byte(carried: Carried):
    plane = FakePlane()
    carried.planes.append(plane)
    await until(lambda: plane.heard)
    assert (plane.heard[0].node_id, plane.heard[0].names) == ("web", ("orders:80",))
    said = plane.say(LISTENER, "1")
    await until(lambda: carried.given)
    assert carried.given == [said]
    answer = carried.ask(LISTENER, "orders:80", nonce="1", version="v1", error_code=3, error_message="no")
    await until(lambda: len(plane.raw) == 2)
    assert plane.raw[1] == answer
    assert carried.noted[-1].error_message == "no"
    assert carried.told == [True]


async def test_the_next_control_plane_is_told_everything_and_hears_of_no_other_s_nonce(carried: Carried):
    first, second = FakePlane(), FakePlane()
    carried.planes.append(first)
    await until(lambda: first.heard)
    first.say(LISTENER, "7")
    carried.ask(CLUSTER, "a")
    await until(lambda: len(first.heard) == 2)
    await until(lambda: carried.given)
    carried.ask(LISTENER, "orders:80", nonce="7", version="v7")
    await until(lambda: len(first.heard) == 3)
    first.end()
    carried.planes.append(second)
    await until(lambda: len(second.heard) == 2)
    assert [(each.type_url, each.names, each.nonce, each.node_id) for each in second.heard] == [
        (LISTENER, ("orders:80",), "", "web"),
        (CLUSTER, ("a",), "", ""),
    ]
    assert second.heard[0].version == "v7", "what it holds is said, so that it may be left as it is"
    carried.ask(LISTENER, "orders:80", "more:80", nonce="7", version="v7")
    await until(lambda: len(second.heard) == 3)
    assert (second.heard[2].names, second.heard[2].nonce) == (("orders:80", "more:80"), "")
    assert carried.told == [True, False, True]


async def test_an_answer_that_another_control_plane_waits_for_is_not_passed_on(carried: Carried):
    first, second = FakePlane(), FakePlane()
    carried.planes.append(first)
    await until(lambda: first.heard)
    first.say(LISTENER, "7")
    await until(lambda: carried.given)
    first.end()
    carried.planes.append(second)
    await until(lambda: second.heard)
    second.say(LISTENER, "1")
    await until(lambda: len(carried.given) == 2)
    carried.ask(LISTENER, "orders:80", nonce="7", version="v7")
    answer = carried.ask(LISTENER, "orders:80", nonce="1", version="v1")
    await until(lambda: len(second.raw) == 2)
    assert second.raw[1] == answer


async def test_what_is_asked_while_nobody_is_there_is_said_later(carried: Carried):
    carried.ask(CLUSTER, "a")
    carried.ask(CLUSTER, "a", "b")
    await until(lambda: len(carried.noted) == 3)
    plane = FakePlane()
    carried.planes.append(plane)
    await until(lambda: len(plane.heard) == 2)
    assert plane.heard[1].names == ("a", "b")


async def test_what_is_asked_while_the_next_control_plane_is_being_told_is_not_lost(carried: Carried):
    for each in ("a", "b", "c"):
        carried.ask(f"type.googleapis.com/{each}", "1")
    await until(lambda: len(carried.noted) == 4)

    class Slow(FakePlane):
        async def write(self, raw: bytes) -> None:
            if not self.raw:
                carried.ask(CLUSTER, "late")
                await until(lambda: len(carried.noted) == 5)
            await super().write(raw)

    plane = Slow()
    carried.planes.append(plane)
    await until(lambda: [each for each in plane.heard if each.names == ("late",)])
    assert plane.heard[0].node_id == "web"


async def test_keys_are_asked_of_nobody(carried: Carried):
    plane = FakePlane()
    carried.planes.append(plane)
    await until(lambda: plane.heard)
    carried.ask(SECRET, "default")
    carried.ask(CLUSTER, "a")
    await until(lambda: len(plane.heard) == 2)
    assert [each.type_url for each in plane.heard] == [LISTENER, CLUSTER]


async def test_a_program_that_leaves_ends_the_stream_to_the_control_plane():
    made, plane = Carried(), FakePlane()
    made.planes.append(plane)
    running = asyncio.create_task(made.courier.run(encode_sotw_request(FIRST)))
    await until(lambda: plane.heard)
    made.leave()
    await asyncio.wait_for(running, 5)
    assert plane.is_cancelled


async def test_who_loses_its_seat_loses_its_stream():
    made = Carried()
    running = asyncio.create_task(made.courier.run(encode_sotw_request(FIRST)))
    made.courier.over.set()
    await asyncio.wait_for(running, 5)
