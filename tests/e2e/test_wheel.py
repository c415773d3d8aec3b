"""The built wheel in an empty environment, far from the checkout: what a user gets from pip."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv" / "bin" / "uv"


def ran(*command: object, cwd: Path, within: float = 300.0) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MASCHE", "VIRTUAL_ENV"))}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=within, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = ran(UV, "build", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stderr
    [found] = folder.glob("masche-*.whl")
    return found


def environment(wheel: Path, folder: Path, extra: str) -> Path:
    made = ran(UV, "venv", "--python", ROOT / ".venv" / "bin" / "python", folder / "env", cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "env" / "bin" / "python"
    installed = ran(UV, "pip", "install", "--python", python, f"{wheel}{extra}", cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return folder / "env" / "bin" / "masche"


def test_without_extras_masche_says_the_one_line_that_installs_the_rest(wheel: Path, tmp_path: Path) -> None:
    masche = environment(wheel, tmp_path, "")
    said = ran(masche, "demo", cwd=tmp_path)
    assert said.returncode == 2
    assert "pip install 'masche[mesh]'" in said.stdout + said.stderr
    assert len((said.stdout + said.stderr).strip().splitlines()) == 1


LIBRARY = """
from masche.library import asgi, foreign, httpx, peer, resident, tcp, wsgi
resident.load()
import masche.library.life.entry, masche.link.joining, masche.link.probe
try:
    from masche.library import grpc
except ModuleNotFoundError as error:
    print(error)
"""
GRPC = """
from masche.library import grpc
import masche.library.life.outlet
"""


def test_the_library_works_with_what_the_wheel_alone_brings(wheel: Path, tmp_path: Path) -> None:
    python = environment(wheel, tmp_path, "").with_name("python")
    loaded = ran(python, "-W", "error", "-c", LIBRARY, cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert "pip install 'masche[grpc]'" in loaded.stdout
    installed = ran(UV, "pip", "install", "--python", python, f"{wheel}[grpc]", cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    loaded = ran(python, "-W", "error", "-c", GRPC, cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_the_demo_of_the_installed_wheel_keeps_every_promise_and_leaves_nothing_behind(
    wheel: Path, tmp_path: Path
) -> None:
    masche = environment(wheel, tmp_path, "[mesh]")
    played = ran(masche, "demo", "--fast", cwd=tmp_path, within=240)
    assert played.returncode == 0, played.stdout + played.stderr
    assert re.search(r"^\d+ calls in \d+ s, \d failed.*\.$", played.stdout, re.MULTILINE), played.stdout
    assert played.stdout.count("✓") >= 16
    assert still_running(str(tmp_path)) == []


def still_running(mark: str) -> list[str]:
    """The command lines of processes that were started from the environment of this test."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in words:
                found.append(words)
    return found
