import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ALONE = 'mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec "$@"'


@pytest.mark.parametrize(
    ("scenario", "at_least"),
    [("prepare", 14), ("adopt", 1), ("address", 1), ("release", 4), ("return", 1), ("sweep", 2), ("cleanup", 5)],
)
def test_killed_at_any_step_it_converges_and_leaves_nothing(scenario: str, at_least: int, tmp_path: Path):
    done = alone("killed.py", scenario, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= at_least


def test_what_is_excluded_leaves_the_machine_by_its_own_address_and_nothing_else_does(tmp_path: Path):
    done = alone("beyond.py", str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_who_has_only_an_address_is_captured_by_it(tmp_path: Path):
    done = alone("addressed.py", str(tmp_path))
    assert done.returncode == 0, done.stderr


def alone(program: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run one of these on a machine with no network but its own."""
    return subprocess.run(
        [
            *("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", ALONE, "sh", sys.executable),
            str(Path(__file__).with_name(program)),
            *words,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
