"""One control plane for all tests of a module, and one of its own for a test that ends it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from library.life.mesh import Mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    made = Mesh(tmp_path_factory.mktemp("m"))
    try:
        made.up()
        yield made
    finally:
        made.close()


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[Mesh]:
    """It does not run yet."""
    made = Mesh(tmp_path)
    try:
        yield made
    finally:
        made.close()
