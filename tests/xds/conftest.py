"""A control plane for every test that asks for one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from xds_plane import Plane, Served, serving


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "xds.sock", Plane()) as running:
        yield running
