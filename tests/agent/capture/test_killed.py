import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ALONE = 'mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec "$@"'


@pytest.mark.parametrize(
    ("scenario", "at_least"),
    [("prepare", 14), ("adopt", 1), ("release", 4), ("return", 1), ("sweep", 2), ("cleanup", 5)],
)
def test_killed_at_any_step_it_converges_and_leaves_nothing(scenario: str, at_least: int, tmp_path: Path):
    program = [sys.executable, str(Path(__file__).with_name("killed.py")), scenario, str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", ALONE, "sh", *program],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= at_least
