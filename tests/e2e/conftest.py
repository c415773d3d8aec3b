"""Meshes for tests: one per module for tests that leave it as it was, and as many as a test starts for the others."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.mesh import Mesh

LIVING: list[Mesh] = []
TAIL = 2_500


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, None, None]:
    """What every process of the living meshes said last, when a test failed."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed or "e2e" not in item.nodeid:
        return
    for mesh in LIVING:
        for name, text in mesh.logs().items():
            report.sections.append((f"{mesh.folder.name}/{name}", text[-TAIL:]))


def _closed(mesh: Mesh) -> None:
    try:
        mesh.close()
    finally:
        LIVING.remove(mesh)


StartMesh = Callable[..., Mesh]


@pytest.fixture
def start_mesh(tmp_path_factory: pytest.TempPathFactory) -> Generator[StartMesh, None, None]:
    """Start a mesh of one's own, with options for ``masche up``; it ends with the test."""
    mine: list[Mesh] = []

    def start(*options: str) -> Mesh:
        mesh = Mesh(tmp_path_factory.mktemp("m"), options)
        mine.append(mesh)
        LIVING.append(mesh)
        mesh.start_plane()
        return mesh

    yield start
    for mesh in mine:
        _closed(mesh)


@pytest.fixture(scope="module")
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Mesh, None, None]:
    """The mesh of a module; its ``PLANE`` are the options of its control plane."""
    with living(tmp_path_factory.mktemp("m"), getattr(request.module, "PLANE", ())) as one:
        yield one


@contextmanager
def living(folder: Path, options: tuple[str, ...] = ()) -> Generator[Mesh, None, None]:
    """A mesh under this folder, for as long as it is needed."""
    one = Mesh(folder, options)
    LIVING.append(one)
    try:
        one.start_plane()
        yield one
    finally:
        _closed(one)
