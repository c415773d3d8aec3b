"""One place where things change: bursts settle, a Mesh is replaced whole, and nothing is wanted before it was read."""

import asyncio
import time
from pathlib import Path

import pytest

from control.plant import Plant, deny, plant, resources, service, sidecar
from masche.api.explaining import WhyRequest
from masche.api.plane import Fault, PlaneError
from masche.control.compilation import Compilation
from masche.control.registrations import Registration
from masche.control.world import Proxy, World
from masche.model.ports import Put, StoreError
from masche.model.refs import Kind, Name, Ref
from masche.registry.memory import MemoryStore
from masche.telemetry.events import Events


async def test_a_burst_of_writes_is_compiled_at_most_a_few_times(mesh: Plant) -> None:
    await mesh.write(service("web"))
    compiled: list[int] = []
    mesh.parts.world.settled_hooks.append(lambda: compiled.append(mesh.parts.world.revision))
    last = 0
    for number in range(50):
        last = (await mesh.apply(service(f"burst-{number}"))).revision
    await mesh.parts.world.until_revision(last)
    assert compiled[-1] == last
    assert len(compiled) < 50


async def test_one_apply_is_one_revision_and_is_seen_whole(mesh: Plant) -> None:
    seen: list[int] = []
    mesh.parts.world.settled_hooks.append(lambda: seen.append(len(mesh.parts.world.mesh.services)))
    applied = await mesh.apply(*(service(f"part-{number}") for number in range(20)))
    await mesh.parts.world.until_revision(applied.revision)
    assert {count for count in seen if count} == {20}


async def test_nothing_is_wanted_of_anybody_before_the_source_was_read(tmp_path: Path) -> None:
    async with plant(tmp_path, work=lambda _: ()) as made:
        world = made.parts.world
        world.register(Registration(state=sidecar("web"), machine="m1", is_local=True, since=0.0))
        assert world.proxy("web-proxy").wanted is None
        assert list(world.waiting_for()) == ["the store"]


async def test_a_proxy_whose_workload_is_not_in_the_mesh_yet_is_told_nothing(mesh: Plant) -> None:
    await mesh.write(service("web"))
    world = mesh.parts.world
    world.register(Registration(state=sidecar("web", phase="STARTING"), machine="m1", is_local=True, since=0.0))
    assert world.proxy("web-proxy").wanted is None
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        assert world.proxy("web-proxy").wanted


async def test_a_change_wakes_only_the_proxies_that_it_concerns(mesh: Plant) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"), sidecar("orders", port=22000))
        world = mesh.parts.world
        before = {name: world.proxy(name).wanted for name in ("web-proxy", "orders-proxy")}
        change = await mesh.write(deny("no", "orders"))
        assert world.proxy("web-proxy").wanted is before["web-proxy"]
        assert world.proxy("orders-proxy").wanted is not before["orders-proxy"]
        assert world.rollouts.affected(change.revision) == {"orders-proxy"}


async def test_a_proxy_that_left_is_forgotten_once_its_last_stream_has_ended(mesh: Plant) -> None:
    world = mesh.parts.world
    stream = Woken()
    world.register(Registration(state=sidecar("web"), machine="m1", is_local=True, since=0.0))
    proxy = world.proxy("web-proxy")
    proxy.opened(stream, at=1.0)
    world.unregister("web-proxy")
    assert world.proxy("web-proxy") is proxy, "what registers again meanwhile finds the stream"
    world.left(proxy, stream)
    assert "web-proxy" not in world.proxies


async def test_the_source_is_asked_again_when_it_fails_and_what_was_known_stays(tmp_path: Path) -> None:
    store = Flaky()
    world = World(store, trust_domain="mesh.local", now=time.monotonic, events=Events(wall=time.time))
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(world.follow()), tasks.create_task(world.settle())]
        store.heal()
        async with asyncio.timeout(10):
            await world.synced.wait()
        assert store.asked == 2
        for task in running:
            task.cancel()


async def test_a_revision_that_cannot_be_compiled_is_told_and_the_one_before_serves(
    mesh: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh.agent() as agent:
        await agent.enrols(sidecar("web"))
        world = mesh.parts.world
        wanted, revision = world.proxy("web-proxy").wanted, world.revision
        with monkeypatch.context() as broken:
            broken.setattr(Compilation, "settle", fails)
            change = await mesh.store.commit([Put(resource=each) for each in resources(service("bad"))])
            await world.pulse.until(lambda: world.failure)
        assert world.proxy("web-proxy").wanted is wanted
        assert world.revision == revision
        assert (await mesh.plane.progress(change.revision)).state == "pending"
        assert (await mesh.plane.status()).plane.waiting_for == (
            f"revision {change.revision} to be compiled: ZeroDivisionError: no way",
        )
        assert mesh.happened("compile-failed")
        healed = await mesh.write(service("good"))
        assert world.revision == healed.revision
        assert not list(world.waiting_for())


async def test_whoever_asks_before_anything_could_be_compiled_is_told_why_and_may_still_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    await store.commit([Put(resource=each) for each in resources(service("bad"))])
    monkeypatch.setattr(Compilation, "settle", fails)
    async with plant(tmp_path, store=store) as second, asyncio.timeout(10):
        for question in (
            lambda: second.plane.list(Kind.SERVICE, namespace=None, labels={}),
            lambda: second.plane.graph(window=5.0),
            lambda: second.plane.get(Ref(Kind.SERVICE, "shop", "bad")),
            lambda: second.plane.why(WhyRequest(source="shop/web", destination="bad")),
        ):
            with pytest.raises(PlaneError, match=r"cannot be compiled.*ZeroDivisionError: no way") as told:
                await question()
            assert told.value.fault is Fault.UNAVAILABLE
        monkeypatch.undo()
        await second.plane.delete([Ref(Kind.SERVICE, "shop", "bad")], [], dry_run=False)
        await second.parts.world.synced.wait()
        assert not (await second.plane.list(Kind.SERVICE, namespace=None, labels={})).items


async def test_the_authority_says_what_the_trust_domain_is(mesh: Plant) -> None:
    await mesh.write("""---
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: other.example}
""")
    assert mesh.parts.world.mesh.config.spec.trust_domain == "mesh.local"
    before = mesh.parts.world.mesh.config
    await mesh.write(service("web"))
    assert mesh.parts.world.mesh.config is before


async def test_revisions_are_remembered_by_resource_until_it_is_deleted(mesh: Plant) -> None:
    ref = Ref(Kind.SERVICE, "shop", "web")
    first = await mesh.write(service("web"))
    second = await mesh.write(service("web", 81))
    assert mesh.parts.world.written[ref] == (second.revision, first.revision)
    await mesh.write("", ref)
    assert ref not in mesh.parts.world.written
    assert Name("shop", "web") not in mesh.parts.world.mesh.services


def test_what_a_proxy_that_is_away_serves_is_not_known() -> None:
    proxy, stream = Proxy("p"), Woken()
    proxy.opened(stream, at=5.0)
    proxy.progress.live = 7
    proxy.left(stream)
    assert not proxy.is_connected
    assert proxy.progress.live == -1


def fails(*_: object, **__: object) -> None:
    raise ZeroDivisionError("no way")


class Woken:
    def wake(self) -> None:
        pass


class Flaky(MemoryStore):
    """Fails to be read until it is healed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self._is_ill = True

    def heal(self) -> None:
        def well() -> None:
            self._is_ill = False

        asyncio.get_running_loop().call_later(0.05, well)

    async def snapshot(self):
        self.asked += 1
        if self._is_ill:
            raise StoreError("not now")
        return await super().snapshot()
