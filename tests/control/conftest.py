"""One control plane per test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.plant import Plant, plant


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Plant]:
    async with plant(tmp_path) as made:
        yield made
