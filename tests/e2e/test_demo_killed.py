"""A demonstration that is killed leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e import remains
from e2e.waiting import until
from masche.agent.capture.names import NAMESPACES, names_of


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
        until(lambda: not remains.processes(folder), "every process has ended", within=120)
        until(lambda: not folder.exists(), "its folder is gone")
    finally:
        remains.end([*remains.processes(folder)])


@pytest.mark.root
@pytest.mark.timeout(300)
def test_a_demo_of_machines_that_is_killed_leaves_no_namespace_either(tmp_path: Path) -> None:
    """Killed as soon as a workload has a network namespace of its own, while others are still being made."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "masche", "demo", "--machines", "3"],
        env={**os.environ, "TMPDIR": str(tmp_path), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = until(lambda: next(tmp_path.glob("masche-demo-*"), None), "it makes its folder")
    machines = f"md{demo.pid % 100_000}-"
    workloads = [names_of(folder / zone).namespaces for zone in ("vienna", "milan", "zurich")]

    def left() -> list[str]:
        return [each.name for each in NAMESPACES.iterdir() if each.name.startswith((machines, *workloads))]

    try:
        until(lambda: any(name.startswith(tuple(workloads)) for name in left()), "a workload has its own", within=120)
        demo.kill()
        demo.wait()
        until(lambda: not remains.processes(folder), "every process has ended", within=120)
        until(lambda: not folder.exists() and not left(), "folder and namespaces are gone", within=60)
    finally:
        remains.end([*remains.processes(folder)])
