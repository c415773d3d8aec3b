"""With a folder as the truth the store remembers it, deletes what the folder once held, and nothing else."""

import os
from pathlib import Path

from control.plant import Plant, eventually, plant, service, sidecar
from masche.registry.memory import MemoryStore


def write(folder: Path, name: str, text: str) -> None:
    """A file that is old enough to count as whole."""
    (folder / name).write_text(text)
    os.utime(folder / name, (1.0 + len(text), 1.0))


def services(mesh: Plant) -> set[str]:
    return {name.name for name in mesh.parts.world.newest.services}


async def test_what_is_in_the_folder_is_carried_out_and_what_leaves_it_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    write(folder, "a.yaml", service("web"))
    async with plant(tmp_path / "data", static=folder) as mesh:
        await eventually(lambda: services(mesh) == {"web"})
        write(folder, "b.yaml", service("orders"))
        await eventually(lambda: services(mesh) == {"web", "orders"})
        (folder / "a.yaml").unlink()
        await eventually(lambda: services(mesh) == {"orders"})


async def test_what_was_deleted_while_nobody_looked_is_deleted_at_the_next_start(tmp_path: Path) -> None:
    folder, store = tmp_path / "mesh", MemoryStore()
    folder.mkdir()
    write(folder, "a.yaml", service("web") + service("orders"))
    async with plant(tmp_path / "one", static=folder, store=store) as mesh:
        await eventually(lambda: services(mesh) == {"web", "orders"})
    write(folder, "a.yaml", service("orders"))
    async with plant(tmp_path / "two", static=folder, store=store) as mesh:
        await eventually(lambda: services(mesh) == {"orders"})


async def test_what_agents_register_is_beside_the_folder_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    write(folder, "a.yaml", service("web"))
    async with plant(tmp_path / "data", static=folder) as mesh, mesh.agent() as agent:
        await eventually(lambda: services(mesh) == {"web"})
        await agent.enrols(sidecar("orders", wish="orders"))
        (folder / "a.yaml").unlink()
        await eventually(lambda: services(mesh) == {"orders"})
        assert {name.name for name in mesh.parts.world.newest.workloads} == {"orders"}


async def test_a_broken_file_counts_as_it_last_was_and_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    write(folder, "a.yaml", service("web"))
    async with plant(tmp_path / "data", static=folder) as mesh:
        await eventually(lambda: services(mesh) == {"web"})
        write(folder, "a.yaml", "kind: Nonsense\n")
        write(folder, "b.yaml", service("orders"))
        await eventually(lambda: services(mesh) == {"web", "orders"})
        findings = (await mesh.plane.status()).plane.findings
        assert any(found.place and found.place.file.endswith("a.yaml") for found in findings)
        found = {each.code: each for each in (await mesh.plane.check()).findings}
        assert "Nonsense" in found["resources"].message
