"""The control plane in memory keeps the promises of a real one."""

from masche.testing.check_plane import check_plane
from masche.testing.plane import FakePlane


async def test_the_control_plane_in_memory_passes_the_check_of_the_real_one():
    plane = FakePlane()
    await check_plane(plane)
    assert plane.items == {}
