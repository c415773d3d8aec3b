from collections.abc import Iterator

import pytest

from live.mesh import Live, living


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """Real Envoys that carry out one mesh after another."""
    with living() as running:
        yield running
