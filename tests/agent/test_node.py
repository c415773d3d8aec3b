"""Who sits on the machine's one Envoy, what is said of them together, and what each of them hears alone."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.world import until
from masche.agent.folders import Folders
from masche.agent.last_good import LastGood
from masche.agent.node import Node
from masche.agent.offline import Offline
from masche.agent.uplink import ForProxy, Listener
from masche.link.messages import Accepted, Drained, Occupant, ProxyState, Refused, Scope, ServiceWish
from masche.model.refs import Name
from masche.model.vantage import Placement, Seat
from masche.wire import framing
from masche.wire.discovery import DeltaRequest, decode_delta_response, encode_delta_response
from masche.wire.types import LISTENER


@dataclass
class Uplink:
    """A link that remembers what it was told."""

    said: list[ProxyState] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    listeners: dict[str, Listener] = field(default_factory=dict)
    is_connected: bool = True

    def put(self, state: ProxyState) -> None:
        self.said.append(state)

    def listen(self, proxy: str, listener: Listener) -> None:
        self.listeners[proxy] = listener

    def leave(self, proxy: str) -> None:
        self.left.append(proxy)

    def stream(self, _proxy: str) -> None:
        return None


class Relay:
    def admit(self, _tenant: object) -> None: ...

    def dismiss(self, _proxy: str) -> None: ...


@dataclass
class Sitting:
    """A workload as far as the node knows it."""

    name: Name
    heard: list[ForProxy] = field(default_factory=list)

    def occupant(self) -> Occupant:
        wish = ServiceWish(name=self.name.name.partition("-")[0])
        return Occupant(seat=Seat(workload=self.name, bind="127.0.0.1"), service_account="x", service=wish)

    def certificates(self) -> tuple[()]:
        return ()


@pytest.fixture
def uplink() -> Uplink:
    return Uplink()


@pytest.fixture
def node(short_path: Path, uplink: Uplink) -> Node:
    folders = Folders(short_path / "d")
    folders.prepare()
    host: Any = SimpleNamespace(
        machine="m1",
        zone="",
        folders=folders,
        uplink=uplink,
        relay=Relay(),
        binary=Path("/nonexistent/envoy"),
        envoy_version="1",
        journal=lambda _: None,
    )
    return Node(host)


def _seat(node: Node, name: str) -> Sitting:
    one = Sitting(Name("shop", name))
    node.desk(one.name).listen(node.proxy, one.heard.append)
    one.heard.clear()
    node.seat(one)
    return one


async def _while_it_runs(node: Node, function: Callable[[], Awaitable[None]]) -> None:
    running = asyncio.create_task(node.run())
    try:
        await function()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _names(state: ProxyState) -> list[str]:
    return [each.seat.workload.name for each in state.occupants]


async def test_all_who_sit_there_are_said_together_and_in_one_order(node: Node, uplink: Uplink) -> None:
    async def check() -> None:
        for name in ("web-2", "web-1"):
            _seat(node, name)
        await until(lambda: uplink.said and _names(uplink.said[-1]) == ["web-1", "web-2"])
        assert (uplink.said[-1].proxy, uplink.said[-1].placement) == ("node~m1", Placement.NODE)
        node.unseat(Name("shop", "web-2"))
        assert _names(uplink.said[-1]) == ["web-1"]
        node.unseat(Name("shop", "web-1"))
        await until(lambda: uplink.left == ["node~m1"], what="the proxy leaves with the last of them")

    await _while_it_runs(node, check)


async def test_who_sat_there_before_the_agent_died_is_said_until_it_is_known_to_have_gone(
    node: Node, uplink: Uplink
) -> None:
    async def check() -> None:
        gone, back = Sitting(Name("shop", "gone-1")), Sitting(Name("shop", "back-1"))
        for each in (gone, back):
            node.await_again(each.occupant())
        await until(lambda: uplink.said and _names(uplink.said[-1]) == ["back-1", "gone-1"])
        _seat(node, "back-1")
        assert _names(uplink.said[-1]) == ["back-1", "gone-1"]
        assert node.awaited == {gone.name}
        node.unseat(gone.name)
        assert _names(uplink.said[-1]) == ["back-1"]

    await _while_it_runs(node, check)


async def test_each_hears_what_concerns_it_and_no_refusal_of_another(node: Node, uplink: Uplink) -> None:
    async def check() -> None:
        one, other = _seat(node, "web-1"), _seat(node, "orders-1")
        await until(lambda: uplink.said)
        tell = uplink.listeners[node.proxy]
        scope = Scope(proxy=node.proxy, workload=one.name)
        refused = Refused(proxy=node.proxy, why="no", workload=other.name)
        drained = Drained(proxy=node.proxy, workload=other.name)
        created = Accepted(proxy=node.proxy, created=(Name("shop", "web"),))
        whole = Refused(proxy=node.proxy, why="the whole machine")
        for event in (scope, refused, drained, created, whole):
            tell(event)
        assert one.heard == [scope, created, whole]
        assert other.heard == [refused, drained, whole]

    await _while_it_runs(node, check)


def test_without_a_control_plane_a_shared_envoy_is_given_what_those_need_who_are_there(tmp_path: Path) -> None:
    """Also when it holds something already, and what was removed when somebody left in order."""
    kept = LastGood(tmp_path / "k", keeps_removed=True)
    names = ["capture/shop/web-1", "capture/shop/gone-1", "detour"]
    frames = [framing.blob(LISTENER, name, b"x").frame for name in names]
    kept.keep(decode_delta_response(encode_delta_response(LISTENER, "1", frames)))
    kept.keep(decode_delta_response(encode_delta_response(LISTENER, "2", [], ["capture/shop/web-1"])))
    offline = Offline(kept, lambda _kind, name: "gone-1" not in name)
    said = offline.answer(DeltaRequest(type_url=LISTENER, initial_versions={"detour": "1"}))
    assert said
    assert [each.name for each in decode_delta_response(said).resources] == ["capture/shop/web-1"]
