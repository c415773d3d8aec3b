"""A dead agent's workloads go after their lease; what is held back is said."""

from pathlib import Path

import pytest

from control.plant import Plant, eventually, plant, service, sidecar
from masche.control import vigil as module
from masche.link.messages import Heartbeat
from masche.model.ports import StoreError
from masche.model.refs import Name
from masche.model.resources.workload import WorkloadState
from masche.registry.memory import MemoryStore

LEASE = 0.4


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.02)


def state(mesh: Plant, name: str) -> WorkloadState | None:
    found = mesh.parts.world.newest.workloads.get(Name("shop", name))
    return found.state if found else None


async def test_a_silent_instance_is_marked_after_its_lease_and_removed_one_lease_later(tmp_path: Path) -> None:
    async with plant(tmp_path, lease=LEASE) as mesh:
        await mesh.write(service("web"))
        async with mesh.agent("m1") as first, mesh.agent("m2") as second:
            await first.enrols(*(sidecar(f"web-{n}", app="web", port=21000 + 10 * n) for n in range(3)))
            await second.enrols(sidecar("web-9", app="web", port=25000))
            seen: set[WorkloadState | None] = set()

            def is_gone() -> bool:
                first.say(Heartbeat())
                seen.add(state(mesh, "web-9"))
                return state(mesh, "web-9") is None

            await eventually(is_gone)
            assert {WorkloadState.READY, WorkloadState.UNHEALTHY, None} <= seen
            assert all(state(mesh, f"web-{n}") is WorkloadState.READY for n in range(3))
            assert any("lease expired" in message for message in mesh.happened("lease"))


async def test_an_agent_that_is_back_has_its_instance_ready_again(tmp_path: Path) -> None:
    async with plant(tmp_path, lease=LEASE) as mesh:
        await mesh.write(service("web"))
        async with mesh.agent("m1") as first, mesh.agent("m2") as second:
            await first.enrols(*(sidecar(f"web-{n}", app="web", port=21000 + 10 * n) for n in range(3)))
            await second.enrols(sidecar("web-9", app="web", port=25000))

            def is_marked() -> bool:
                first.say(Heartbeat())
                return state(mesh, "web-9") is WorkloadState.UNHEALTHY

            await eventually(is_marked)

            def is_ready() -> bool:
                first.say(Heartbeat())
                second.say(Heartbeat())
                return state(mesh, "web-9") is WorkloadState.READY

            await eventually(is_ready)


async def test_when_all_fall_silent_nothing_is_removed_and_everybody_is_told(tmp_path: Path) -> None:
    async with plant(tmp_path, lease=LEASE) as mesh:
        await mesh.write(service("web"))
        async with mesh.agent("m1") as agent:
            await agent.enrols(*(sidecar(f"web-{n}", app="web", port=21000 + 10 * n) for n in range(4)))
        await eventually(lambda: mesh.happened("lease-held"))
        facts = (await mesh.plane.status()).plane.leases
        assert facts.held_back == 4
        assert "is the network cut?" in facts.reason
        assert len(mesh.parts.world.newest.workloads) == 4
        held = len(mesh.happened("lease-held"))
        found = {each.code: each for each in (await mesh.plane.check()).findings}
        assert "4 held back" in found["leases"].message
        assert len(mesh.happened("lease-held")) == held, "it is said once"


async def test_leases_are_not_counted_before_a_whole_lease_was_survived(tmp_path: Path) -> None:
    async with plant(tmp_path, lease=60.0) as mesh:
        await mesh.parts.world.synced.wait()
        facts = (await mesh.plane.status()).plane.leases
        assert not facts.is_counting
        assert "whole lease" in facts.reason


async def test_a_write_that_fails_begins_the_count_anew(tmp_path: Path) -> None:
    store = MemoryStore()
    async with plant(tmp_path, store=store, lease=LEASE) as mesh:
        await mesh.write(service("web"))
        async with mesh.agent("m1") as first, mesh.agent("m2") as second:
            await first.enrols(*(sidecar(f"web-{n}", app="web", port=21000 + 10 * n) for n in range(3)))
            await second.enrols(sidecar("web-9", app="web", port=25000))
            store.fail(StoreError("the disk is full"))

            def is_told() -> bool:
                first.say(Heartbeat())
                return bool(mesh.happened("store-failed"))

            await eventually(is_told)
            assert not mesh.parts.vigil.facts().is_counting
            assert state(mesh, "web-9") is WorkloadState.READY
            store.fail(None)


async def test_a_judgement_of_an_older_mesh_is_not_written(tmp_path: Path) -> None:
    """An agent that spoke between the look and the write is not written over."""
    async with plant(tmp_path, lease=LEASE) as mesh:
        await mesh.write(service("web"))
        async with mesh.agent("m1") as agent:
            await agent.enrols(sidecar("web-1", app="web"))
            vigil, world = mesh.parts.vigil, mesh.parts.world
            marked = module.MarkUnhealthy(workload=Name("shop", "web-1"), reason="lease expired")
            world._heard -= 1
            await vigil._carry_out((marked,))
            assert (await mesh.store.snapshot()).revision == world.newest_revision + 1
            world._heard += 1
            await vigil._carry_out((marked,))
            await eventually(lambda: state(mesh, "web-1") is not None)
            assert mesh.happened("lease")
