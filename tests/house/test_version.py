"""The release that a process says it is."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import masche.version

ASKED = "import sys, masche.version as found; print(found.VERSION, 'importlib.metadata' in sys.modules)"


def said(path: Path) -> list[str]:
    """What a Python says that finds packages here and nowhere else."""
    program = f"import sys; sys.path[:0] = [{str(Path(masche.version.__file__).parents[1])!r}, {str(path)!r}]; {ASKED}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()


def test_it_is_what_the_metadata_of_the_package_says() -> None:
    assert version("masche") == masche.version.VERSION


def test_the_metadata_are_found_without_being_read(tmp_path: Path) -> None:
    (tmp_path / "masche-7.1rc1.dist-info").mkdir()
    assert said(tmp_path) == ["7.1rc1", "False"]


def test_without_metadata_it_is_a_checkout(tmp_path: Path) -> None:
    assert said(tmp_path / "nowhere") == ["0+checkout", "True"]
