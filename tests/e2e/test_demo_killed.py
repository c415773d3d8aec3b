"""A demonstration that is killed leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

from e2e import remains
from e2e.waiting import until


def test_a_demo_that_is_killed_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "masche", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = until(lambda: next(tmp_path.glob("masche-demo-*"), None), "it makes its folder")

    def runs() -> bool:
        assert demo.poll() is None
        return any("/envoy " in words for words in remains.processes(folder).values())

    try:
        until(runs, "an Envoy runs", within=60)
        demo.kill()
        demo.wait()
        assert remains.processes(folder)
        until(lambda: not remains.processes(folder), "every process has ended", within=60)
        until(lambda: not folder.exists(), "its folder is gone")
    finally:
        remains.end([*remains.processes(folder)])
