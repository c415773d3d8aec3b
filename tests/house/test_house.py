"""Rules about the repository itself."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "masche"
LONGEST_FILE = 500

NOT_OURS = re.compile(r"/work/|/root/\.|\.\./shared")
"""Paths of one machine, which mean nothing on any other."""


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for path in tracked():
        if path.suffix in {".xz", ".png", ".lock"} or path.is_relative_to(SOURCE / "api" / "static"):
            continue
        found.append((path, path.read_text(encoding="utf-8")))
    return found


def modules() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(SOURCE)]


def test_package_files_are_empty() -> None:
    assert [path for path in modules() if path.name == "__init__.py" and path.read_text().strip()] == []


def test_no_module_is_longer_than_one_can_read() -> None:
    assert [(path, n) for path in modules() if (n := len(path.read_text().splitlines())) > LONGEST_FILE] == []


def test_every_module_opens_with_its_idea() -> None:
    silent = [p for p in modules() if p.name != "__init__.py" and not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


def test_no_module_is_named_after_nothing() -> None:
    nothing = {"utils", "helpers", "common", "base", "misc", "manager"}
    assert [path for path in modules() if path.stem in nothing] == []


def test_no_file_names_a_path_of_one_machine() -> None:
    here = Path(__file__)
    assert [(path, found[0]) for path, text in texts() if path != here and (found := NOT_OURS.search(text))] == []


def test_nobody_waits_in_a_way_that_may_swallow_a_cancellation() -> None:
    """``asyncio.wait_for`` does until Python 3.12 (gh-86296); ``asyncio.timeout`` never does."""
    shop = SOURCE / "cli" / "shop"  # programs of a user
    found = [str(path) for path in modules() if "asyncio.wait_for(" in path.read_text(encoding="utf-8")]
    assert [path for path in found if not Path(path).is_relative_to(shop)] == []


def test_every_exception_to_a_rule_is_argued_where_it_stands() -> None:
    bare = re.compile(
        r"#\s*(noqa(: ?[A-Z0-9, ]+)?|type: ignore(\[[^]]*\])?|pyright: ignore(\[[^]]*\])?)\s*$", re.MULTILINE
    )
    assert [(path, found[0]) for path, text in texts() if path.suffix == ".py" and (found := bare.search(text))] == []


@pytest.mark.parametrize("word", ["pydantic", "yaml", "starlette", "uvicorn", "click", "rich", "httpx"])
def test_what_only_the_control_plane_needs_is_an_extra(word: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    base = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    assert word not in base
