"""The Envoy that the library is held against: one for each file of tests."""

from collections.abc import Iterator

import pytest

from live.mesh import Live, living


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living() as running:
        yield running
