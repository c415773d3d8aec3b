"""Who is served a configuration, and what becomes of it: real gRPC on the Unix socket, and a proxy that answers."""

import asyncio
import time
from collections.abc import Callable

import grpc
import pytest

from control.plant import Plant, deny, eventually, plant, service, sidecar
from masche.control import streams as module
from masche.identity.spiffe import SpiffeId
from masche.link.messages import Drained
from masche.model.refs import Kind, Ref
from masche.testing.fake_proxy import FakeProxy
from masche.wire.types import CLUSTER, LISTENER, SECRET
from masche.xds.limits import Limits
from masche.xds.server import Peer, RefusedError
from masche.xds.stream import Stream

POLICY = Ref(Kind.AUTHORIZATION_POLICY, "shop", "no")


async def subscribed(proxy: FakeProxy) -> FakeProxy:
    await proxy.subscribe(CLUSTER)
    await proxy.subscribe(LISTENER)
    return proxy


async def test_a_registered_proxy_is_told_what_it_should_hold(mesh: Plant) -> None:
    await mesh.write(service("orders"))
    async with mesh.agent() as agent, FakeProxy(mesh.channel(), "web-proxy", follows=True) as proxy:
        await agent.enrols(sidecar("web"))
        await subscribed(proxy)
        await proxy.until(lambda: "outbound/shop/orders/80" in proxy.names(CLUSTER))
        await live(mesh, "web-proxy")
        status = (await mesh.plane.status()).proxies[0]
    assert (status.is_connected, status.is_in_sync) == (True, True)


async def test_a_control_plane_that_signed_for_two_hands_the_secrets_of_neither_to_anybody(mesh: Plant) -> None:
    """Item C13, in short: it never had their keys, and knows no such type."""
    async with mesh.agent() as agent, FakeProxy(mesh.channel(), "web-proxy", follows=True) as proxy:
        await agent.enrols(sidecar("web"))
        await agent.enrols(sidecar("orders"))
        await proxy.subscribe(SECRET, "default", "ROOTCA", "orders-proxy", "workload/shop/orders-1")
        await subscribed(proxy)
        await live(mesh, "web-proxy")
    assert proxy.names(SECRET) == set()
    assert all(not each.resources for each in proxy.responses if each.type_url == SECRET)


async def test_a_stream_waits_for_the_registration_of_its_proxy(mesh: Plant) -> None:
    await mesh.write(service("orders"))
    async with FakeProxy(mesh.channel(), "web-proxy", follows=True) as proxy:
        await subscribed(proxy)
        async with mesh.agent() as agent:
            await agent.enrols(sidecar("web"))
            await proxy.until(lambda: proxy.names(CLUSTER))


async def test_a_stream_is_served_as_soon_as_an_agent_that_changes_nothing_is_back(mesh: Plant) -> None:
    """As after a restart of the control plane: the store has the workload, so that no revision follows."""
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
    mesh.parts.world.unregister("web-proxy")
    async with FakeProxy(mesh.channel(), "web-proxy") as proxy:
        await subscribed(proxy)
        await eventually(lambda: repr(mesh.parts.world.pulse) == "<Pulse 1 waiting>")
        async with mesh.agent() as agent:
            agent.say(sidecar("web"))
            await proxy.until(lambda: proxy.names(CLUSTER), timeout=5)


async def test_a_proxy_that_nobody_registers_is_refused(mesh: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REGISTRATION_PATIENCE", 0.05)
    async with FakeProxy(mesh.channel(), "nobody") as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.code)
    assert proxy.code is grpc.StatusCode.PERMISSION_DENIED
    assert "no agent has registered a proxy nobody" in proxy.details


async def test_a_proxy_of_another_machine_is_refused_and_told_of(mesh: Plant) -> None:
    async with mesh.agent("m1") as agent:
        await agent.enrols(sidecar("web"))
        with pytest.raises(RefusedError, match="not registered by this machine"):
            await admit(mesh, "web-proxy", machine="m2")
    assert "another machine's" in mesh.happened("stream-refused")[0]


async def test_our_own_socket_opens_no_other_machines_proxy(mesh: Plant) -> None:
    await mesh.parts.ground.machines.welcome("m9", grant(), request(), now=time.time())
    async with mesh.agent("m9", local=False) as agent:
        await agent.enrols(sidecar("web"))
        async with FakeProxy(mesh.channel(), "web-proxy") as proxy:
            await proxy.subscribe(CLUSTER)  # one word alone: another might meet a stream that has ended
            await proxy.until(lambda: proxy.code)
        assert proxy.code is grpc.StatusCode.PERMISSION_DENIED
        stream = await admit(mesh, "web-proxy", machine="m9")
        assert stream.wanted() is mesh.parts.world.proxy("web-proxy").wanted
        stream.closed("it ends")


@pytest.mark.parametrize(
    "identity",
    [
        SpiffeId.of_machine("other.example", "m1"),
        SpiffeId.of_workload("mesh.local", "shop", "web"),
        SpiffeId.of_control_plane("mesh.local"),
    ],
)
async def test_only_a_machine_of_this_mesh_may_ask(mesh: Plant, identity: SpiffeId) -> None:
    with pytest.raises(RefusedError, match="is not a machine of"):
        await mesh.parts.streams.admit(
            Peer(spiffe_id=identity, is_local=False, address="t"), "web-proxy", talk(), lambda: None
        )


async def test_a_revoked_machine_is_refused_and_its_open_streams_end(mesh: Plant) -> None:
    await mesh.parts.ground.machines.welcome("m9", grant(), request(), now=time.time())
    async with mesh.agent("m9", local=False) as agent:
        await agent.enrols(sidecar("web"))
        woken: list[bool] = []
        stream = await admit(mesh, "web-proxy", machine="m9", wake=lambda: woken.append(True))
        await mesh.plane.revoke_machine("m9")
        assert woken
        with pytest.raises(RefusedError, match="revoked"):
            stream.wanted()
        with pytest.raises(RefusedError, match="revoked"):
            await admit(mesh, "web-proxy", machine="m9")
        stream.closed("it ends")


async def test_a_machine_opens_only_so_many_streams_of_one_proxy_and_a_closed_one_makes_room(mesh: Plant) -> None:
    await mesh.parts.ground.machines.welcome("m9", grant(), request(), now=time.time())
    async with mesh.agent("m9", local=False) as agent:
        await agent.enrols(sidecar("web"), sidecar("orders", port=22000))
        opened = [await admit(mesh, "web-proxy", machine="m9") for _ in range(module.STREAMS_PER_PROXY)]
        with pytest.raises(RefusedError, match="streams open already"):
            await admit(mesh, "web-proxy", machine="m9")
        opened += [await admit(mesh, "orders-proxy", machine="m9")]
        opened.pop(0).closed("it ends")
        opened += [await admit(mesh, "web-proxy", machine="m9")]
        for each in opened:
            each.closed("it ends")


async def test_a_machine_that_is_refused_again_and_again_takes_no_room(
    mesh: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REGISTRATION_PATIENCE", 0.001)
    monkeypatch.setattr(module, "STREAMS_PER_MACHINE", 2)
    for _ in range(5):
        with pytest.raises(RefusedError, match="no agent has registered"):
            await admit(mesh, "nobody", machine="m9")


# -- rollouts ---------------------------------------------------------------------------------------------------------


async def test_a_revision_is_live_when_the_proxies_that_it_changes_have_acknowledged_it(mesh: Plant) -> None:
    async with mesh.agent() as agent, FakeProxy(mesh.channel(), "web-proxy", follows=True) as proxy:
        await agent.enrols(sidecar("web"), sidecar("orders", port=22000))
        await subscribed(proxy)
        await live(mesh, "web-proxy")
        proxy.answers = False
        change = await mesh.write(deny("no", "web"))
        rollout = await mesh.plane.progress(change.revision)
        assert rollout.state == "pending"
        assert [(each.proxy, each.waiting_for) for each in rollout.pending] == [("web-proxy", "an acknowledgement")]
        assert not rollout.absent, "the proxy of orders is told nothing else"
        assert not mesh.parts.world.is_everywhere(change.revision)
    async with mesh.agent() as agent, FakeProxy(mesh.channel(), "web-proxy", follows=True) as proxy:
        await subscribed(proxy)
        await mesh.parts.world.pulse.until(lambda: mesh.parts.world.is_everywhere(change.revision))
        await live(mesh, "web-proxy")
        rollout = await mesh.plane.progress(change.revision)
        assert (rollout.state, [each.proxy for each in rollout.live]) == ("live", ["web-proxy"])


async def test_a_proxy_that_is_away_is_absent_and_not_waited_for(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        change = await mesh.write(deny("no", "web"))
        rollout = await mesh.plane.progress(change.revision)
    assert (rollout.state, [each.workload for each in rollout.absent]) == ("live", ["shop/web"])


async def test_a_rejection_is_shown_in_the_proxys_own_words_everywhere(mesh: Plant) -> None:
    rejecting = FakeProxy(
        mesh.channel(), "web-proxy", rejects=lambda kind, _: "bad listener" if kind == LISTENER else None
    )
    async with mesh.agent() as agent, rejecting as proxy:
        await agent.enrols(sidecar("web"))
        change = await mesh.write(deny("no", "web"))
        await subscribed(proxy)
        world = mesh.parts.world
        await world.pulse.until(lambda: world.proxy("web-proxy").progress.refusals)
        rollout = await mesh.plane.progress(change.revision)
        assert rollout.state == "rejected"
        assert any("bad listener" in each.words for each in rollout.rejected[0].rejections)
        described = await mesh.plane.describe(POLICY)
        assert {each.workload for each in described.rejected} == {"shop/web"}
        status = (await mesh.plane.status()).proxies[0]
        assert status.rejections
        assert not status.is_in_sync
        found = {each.code: each for each in (await mesh.plane.check()).findings}
        assert found["rejections"].level == "error"
        assert "bad listener" in found["rejections"].message
        assert "masche_rejections_total" in mesh.parts.exposition.page()
    assert any("bad listener" in each for each in mesh.happened("rejected"))


async def test_a_leaving_workload_is_drained_once_its_callers_have_acknowledged(mesh: Plant) -> None:
    async with mesh.agent() as agent, FakeProxy(mesh.channel(), "web-proxy", follows=True) as proxy:
        await agent.enrols(sidecar("web"), sidecar("orders", port=22000, wish="orders"))
        await subscribed(proxy)
        await live(mesh, "web-proxy")
        proxy.answers = False
        responses = len(proxy.responses)
        agent.say(sidecar("orders", port=22000, wish="orders", phase="DRAINING"))
        await proxy.until(lambda: len(proxy.responses) > responses)
        assert not any(isinstance(each, Drained) for each in agent.heard)
        await proxy.disconnect()
        proxy.answers = True
        await proxy.connect()
        await agent.hears(Drained, proxy="orders-proxy")


async def test_a_control_plane_that_restarts_pushes_no_emptier_world(mesh: Plant, tmp_path_factory) -> None:
    await mesh.write(service("orders"))
    proxy = FakeProxy(mesh.channel(), "web-proxy", follows=True)
    async with mesh.agent() as agent, proxy:
        await agent.enrols(sidecar("web"))
        await subscribed(proxy)
        await live(mesh, "web-proxy")
    held, count = {kind: dict(proxy.held[kind]) for kind in proxy.held}, len(proxy.responses)
    async with plant(tmp_path_factory.mktemp("next"), store=mesh.store) as again:
        proxy._channel = again.channel()
        async with proxy, again.agent() as agent:
            await agent.enrols(sidecar("web"))
            await live(again, "web-proxy")
            removed = [name for each in proxy.responses[count:] for name in each.removed]
            assert removed == []
            assert {kind: set(table) for kind, table in proxy.held.items()} == {
                kind: set(table) for kind, table in held.items()
            }


# -- parts ------------------------------------------------------------------------------------------------------------


async def live(mesh: Plant, name: str) -> None:
    world = mesh.parts.world
    async with asyncio.timeout(10):
        await world.pulse.until(lambda: (p := world.proxy(name)).is_connected and p.progress.live >= p.progress.target)


def talk() -> Stream:
    return Stream(now=0.0, limits=Limits())


async def admit(mesh: Plant, node: str, *, machine: str, wake: Callable[[], None] = lambda: None):
    identity = SpiffeId.of_machine("mesh.local", machine)
    return await mesh.parts.streams.admit(Peer(spiffe_id=identity, is_local=False, address="t"), node, talk(), wake)


def grant():
    from masche.identity.join import Grant

    return Grant()


def request() -> bytes:
    from masche.identity import keys

    return keys.signing_request(keys.generate())


@pytest.mark.parametrize(("phase", "severity"), [("DRAINING", "info"), ("READY", "warning")])
async def test_the_end_of_a_stream_is_a_warning_only_where_the_proxy_should_stay(
    mesh: Plant, phase: str, severity: str
) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web", phase=phase))
        async with FakeProxy(mesh.channel(), "web-proxy") as proxy:
            await subscribed(proxy)
            await proxy.until(lambda: proxy.names(CLUSTER))
        await eventually(lambda: mesh.happened("stream-closed"))
    closed = [event for event in mesh.parts.events.after(0) if event.kind == "stream-closed"]
    assert [event.severity for event in closed] == [severity]
