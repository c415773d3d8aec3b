"""No figure is published as one of now that is older than what it measures."""

import subprocess
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Outdated = Callable[[Mapping[str, object]], str]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def outdated(monkeypatch: pytest.MonkeyPatch) -> Outdated:
    """Why a record must not be published."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    found: Outdated = import_module("publish").outdated
    return found


@pytest.fixture
def last_change() -> str:
    """The commit that last changed the licence, which nobody is changing now."""
    return git("log", "-1", "--format=%h", "--", "LICENSE")


def test_a_figure_as_old_as_what_it_measures_is_published(outdated: Outdated, last_change: str) -> None:
    assert outdated({"commit": last_change, "measures": ["LICENSE"]}) == ""


def test_a_figure_older_than_what_it_measures_is_not_and_the_change_is_named(
    outdated: Outdated, last_change: str
) -> None:
    said = outdated({"commit": last_change, "measures": ["LICENSE", "src/masche/compiler/steer"]})
    assert f"changes of what it measures since {last_change}, the last: " in said
    assert git("log", "-1", "--format=%h", "--", "src/masche/compiler/steer")[:7] in said or " M " in said


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"commit": "0123456789+", "measures": ["LICENSE"]}, "files that no commit has"),
        ({"commit": "0123456789", "measures": ["LICENSE"]}, "is not known"),
        ({"commit": "0123456789"}, "does not say what it measures"),
    ],
)
def test_a_figure_that_cannot_be_placed_is_not_published(
    outdated: Outdated, record: Mapping[str, object], why: str
) -> None:
    assert why in outdated(record)
