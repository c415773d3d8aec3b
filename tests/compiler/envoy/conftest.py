from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from envoy_rig import Envoy, remove, short_folder


@pytest.fixture
def start_envoy() -> Iterator[Callable[[], Envoy]]:
    """Start Envoys that end with the test."""
    with ExitStack() as stack:

        def start() -> Envoy:
            folder = short_folder()
            stack.callback(remove, folder)
            envoy = Envoy(folder)
            stack.callback(envoy.close)
            return envoy

        yield start


@pytest.fixture(scope="module")
def envoy() -> Iterator[Envoy]:
    """One Envoy for all tests of a module; each gives it a configuration of its own."""
    folder = short_folder()
    running = Envoy(folder)
    yield running
    running.close()
    remove(folder)
