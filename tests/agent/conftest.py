import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.world import World, world


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose sockets have short paths, unlike those of tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="masche-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def machine(short_path: Path) -> AsyncIterator[World]:
    async with world(short_path) as one:
        yield one
