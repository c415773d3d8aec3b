import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from masche.agent.capture.names import path_of


@pytest.fixture
def netns() -> Iterator[Path]:
    """An empty network namespace with nothing but loopback."""
    name = f"n3t{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield path_of(name)
    subprocess.run(["ip", "netns", "del", name], check=True)
