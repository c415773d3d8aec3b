"""The xDS client over real gRPC, against our own control plane and one of another's making."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from xds_messages import free_port
from xds_plane import Plane, Served, serving

from masche.identity import dialling
from masche.model.blob import Blob
from masche.wire import framing
from masche.wire.discovery import Node, encode_node
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client import ControlPlane, XdsClient
from masche.xds.client_words import Patience, Resource, Standing
from masche.xds.wanted import Wanted

QUICK = Patience(absent=0.3, answered=0.05)


def blob(kind: str, name: str, word: str = "good") -> Blob:
    return framing.blob(kind, name, framing.text(1, name) + framing.text(2, word))


def decode(name: str, message: bytes) -> str:
    word = message.rpartition(b"\x12")[2][1:].decode()
    if word.startswith("bad"):
        raise ValueError(f"{word} is not understood")
    return word


def plane_at(target: str) -> ControlPlane:
    return ControlPlane(name=target, open=lambda: dialling.channel(target, None, max_receive_bytes=1 << 20))


@asynccontextmanager
async def running(*targets: str, **more) -> AsyncIterator[XdsClient]:
    client = XdsClient(
        [plane_at(target) for target in targets],
        node=lambda: encode_node(Node(id="me")),
        decoders=dict.fromkeys((CLUSTER, ENDPOINTS, LISTENER, ROUTES), decode),
        rng=Random(7),
        patience=QUICK,
        **more,
    )
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), "it ends when it is told to, and only then"


async def until(condition: Callable[[], object], *, timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_resource_that_is_asked_for_comes_and_changes_live(served: Served):
    plane = served.plane
    plane.want("me", Wanted.of([blob(LISTENER, "proxy"), blob(LISTENER, "other")]))
    heard: list[Resource] = []
    async with running(served.target) as client:
        watch = client.watch(LISTENER, "proxy", heard.append)
        assert watch.resource.standing is Standing.ASKED
        await until(lambda: watch.resource.value == "good")
        assert client.is_connected
        assert client.waiting_for() == ""
        assert [each.node_id for each in plane.seats] == ["me"]
        await plane.until(lambda: plane.seats[0].answers == 1)
        plane.want("me", Wanted.of([blob(LISTENER, "proxy", "new")]))
        await until(lambda: watch.resource.value == "new")
    assert [resource.value for resource in heard] == ["good", "new"]


async def test_a_refused_resource_is_visible_at_the_control_plane_and_heals(served: Served):
    plane = served.plane
    plane.want("me", Wanted.of([blob(CLUSTER, "fine"), blob(CLUSTER, "other", "bad one")]))
    async with running(served.target) as client:
        good, bad = client.watch(CLUSTER, "fine"), client.watch(CLUSTER, "other")
        await until(lambda: bad.resource.standing is Standing.REFUSED)
        assert good.resource.value == "good"
        assert client.refusals() == (((CLUSTER, "other"), "bad one is not understood"),)
        await plane.until(lambda: plane.seats[0].rejected)
        assert [(each.name, each.why) for each in plane.seats[0].rejected] == [
            ("other", "other: bad one is not understood")
        ]
        plane.want("me", Wanted.of([blob(CLUSTER, "fine"), blob(CLUSTER, "other", "well")]))
        await until(lambda: bad.resource == Resource(Standing.HELD, "well"))
        await plane.until(lambda: plane.seats[0].conversation.is_live(plane.worlds["me"]))


async def test_what_is_held_stays_while_the_control_plane_is_away_and_follows_it_when_it_is_back(tmp_path: Path):
    plane = Plane()
    plane.want("me", Wanted.of([blob(CLUSTER, "a")]))
    path = tmp_path / "xds.sock"
    async with running(f"unix:{path}") as client:
        watch = client.watch(CLUSTER, "a")
        await until(client.waiting_for)
        async with serving(path, plane):
            await until(lambda: watch.resource.value == "good")
        await until(lambda: not client.is_connected)
        assert watch.resource.value == "good"
        assert f"the control plane at unix:{path} (" in client.waiting_for()
        plane.want("me", Wanted.of([blob(CLUSTER, "a", "new")]))
        async with serving(path, plane):
            await until(lambda: watch.resource.value == "new")


async def test_who_is_not_there_is_named_with_what_the_system_says():
    address = f"127.0.0.1:{free_port()}"
    async with running(address) as client:
        client.watch(CLUSTER, "a")
        await until(lambda: "(" in client.waiting_for())
        assert client.waiting_for() == f"the control plane at {address} (connection refused)"


async def test_a_refused_proxy_is_told_so(served: Served):
    client = XdsClient(
        [plane_at(served.target)],
        node=lambda: encode_node(Node(id="stranger")),
        decoders={CLUSTER: decode},
        rng=Random(7),
    )
    client.watch(CLUSTER, "a")
    task = asyncio.create_task(client.run())
    await until(lambda: "stranger is not registered" in client.waiting_for())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_next_control_plane_serves_where_the_first_is_not_there(served: Served):
    served.plane.want("me", Wanted.of([blob(CLUSTER, "a")]))
    async with running(f"127.0.0.1:{free_port()}", served.target) as client:
        watch = client.watch(CLUSTER, "a")
        await until(lambda: watch.resource.value == "good")
        assert client.waiting_for() == ""


async def test_the_first_control_plane_is_preferred_again_once_it_is_back(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("masche.xds.client.RETURN", 0.05)
    served.plane.want("me", Wanted.of([blob(CLUSTER, "a")]))
    first = Plane()
    first.want("me", Wanted.of([blob(CLUSTER, "a", "better")]))
    path = tmp_path / "first.sock"
    async with running(f"unix:{path}", served.target) as client:
        watch = client.watch(CLUSTER, "a")
        await until(lambda: watch.resource.value == "good")
        async with serving(path, first):
            await until(lambda: watch.resource.value == "better")


async def test_what_a_control_plane_does_not_have_is_known_not_to_exist(served: Served):
    served.plane.want("me", Wanted.of([blob(CLUSTER, "a")]))
    async with running(served.target) as client:
        cluster, endpoints = client.watch(CLUSTER, "nobody"), client.watch(ENDPOINTS, "nobody")
        await until(lambda: cluster.resource.standing is Standing.ABSENT)
        await until(lambda: endpoints.resource.standing is Standing.ABSENT)
        late = client.watch(CLUSTER, "late")
        await until(lambda: late.resource.standing is Standing.ABSENT)


async def test_a_process_that_stood_still_does_not_take_what_lies_before_it_for_absent(served: Served):
    heard: list[Resource] = []
    async with running(served.target) as client:
        watch = client.watch(ENDPOINTS, "a", heard.append)
        await until(lambda: client.subscriber.next_deadline() is not None)
        served.plane.want("me", Wanted.of([blob(ENDPOINTS, "a")]))
        time.sleep(1.0)
        await until(lambda: watch.resource.value == "good")
        assert [resource.standing for resource in heard] == [Standing.HELD]
        late = client.watch(ENDPOINTS, "nobody")
        await until(lambda: late.resource.standing is Standing.ABSENT)


async def test_a_watch_that_was_closed_hears_nothing_and_is_asked_for_no_more(served: Served):
    plane = served.plane
    plane.want("me", Wanted.of([blob(ENDPOINTS, "a"), blob(ENDPOINTS, "b")]))
    heard: list[Resource] = []
    async with running(served.target) as client:
        closed, kept = client.watch(ENDPOINTS, "a", heard.append), client.watch(ENDPOINTS, "b")
        await until(lambda: heard and kept.resource.value)
        closed.close()
        plane.want("me", Wanted.of([blob(ENDPOINTS, "a", "new"), blob(ENDPOINTS, "b", "new")]))
        await until(lambda: kept.resource.value == "new")
        assert len(heard) == 1
        assert client.subscriber.found(ENDPOINTS, "a") is None


async def test_changes_are_told_before_they_are_acknowledged(served: Served):
    plane = served.plane
    plane.want("me", Wanted.of([blob(CLUSTER, "a")]))
    gate = asyncio.Event()
    async with running(served.target) as client:
        client.after_changes(gate.wait)
        watch = client.watch(CLUSTER, "a")
        await until(lambda: watch.resource.value == "good")
        await asyncio.sleep(0.05)
        assert plane.seats[0].answers == 0
        gate.set()
        await plane.until(lambda: plane.seats[0].answers == 1)


async def test_a_control_plane_that_takes_no_request_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("masche.xds.client.ANSWER_TIMEOUT", 0.2)
    served.plane.want("me", Wanted.of([blob(CLUSTER, "a")]))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", free_port()))
        silent.listen()
        host, port = silent.getsockname()
        async with running(f"{host}:{port}", served.target) as client:
            watch = client.watch(CLUSTER, "a")
            await until(lambda: watch.resource.value == "good")


async def test_a_thousand_resources_and_a_large_one_hold_the_loop_for_less_than_five_milliseconds(served: Served):
    def slow(name: str, message: bytes) -> str:
        until = time.perf_counter() + (0.05 if name == "large" else 0.0003)
        while time.perf_counter() < until:
            pass
        return "done"

    many = [blob(CLUSTER, f"cluster-{number}") for number in range(1000)]
    served.plane.want("me", Wanted.of([*many, blob(CLUSTER, "large", "x" * 100_000)]))
    async with running(served.target) as client:
        client._decoders = {CLUSTER: slow}
        watches = [client.watch(CLUSTER, each.name) for each in [*many, blob(CLUSTER, "large")]]
        turns: list[float] = []
        while not all(watch.resource.value for watch in watches):
            began = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - began)
        turns.sort()
        assert turns[-len(turns) // 100] < 0.005, f"the longest turns took {turns[-5:]} s of this thread"


def pauses(client: XdsClient, *, served: bool, lived: float, times: int) -> list[float]:
    """How long is waited after so many streams in a row that all ended alike."""
    found: list[float] = []
    for _ in range(times):
        client._responded = served
        found.append(client._next(client._planes[client._at], "it ended", lived=lived))
    return found


def idle(*targets: str) -> XdsClient:
    return XdsClient([plane_at(each) for each in targets], node=bytes, decoders={}, rng=Random(7))


def test_pauses_double_with_jitter_up_to_five_seconds():
    found = pauses(idle("a:1"), served=False, lived=0.0, times=10)
    for number, pause in enumerate(found):
        ceiling = min(5.0, 0.2 * 2**number)
        assert ceiling / 2 <= pause <= ceiling


def test_a_stream_that_breaks_at_its_first_response_is_no_reason_to_try_faster():
    found = pauses(idle("a:1"), served=True, lived=0.1, times=10)
    assert found[-1] >= 2.5
    client = idle("a:1", "b:1")
    assert max(pauses(client, served=True, lived=60.0, times=10)) <= 0.2, "one that served for a while is different"
    assert client._at == 0, "and is tried where it was"


def test_every_control_plane_is_tried_before_there_is_a_pause():
    client = idle("a:1", "b:1", "c:1")
    assert [pause > 0 for pause in pauses(client, served=False, lived=0.0, times=6)] == [False, False, True] * 2
