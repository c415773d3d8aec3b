"""A real API over a loopback socket, in front of a control plane in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from masche.testing.api import RunningApi, running_api
from masche.testing.plane import FakePlane


@pytest.fixture
def plane() -> FakePlane:
    return FakePlane()


@pytest.fixture
def dashboard(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>masche</title>")
    (folder / "assets" / "app.js").write_text("export {}")
    (tmp_path / "secret.txt").write_text("not for you")
    return folder


@pytest.fixture
def api(plane: FakePlane, tmp_path: Path, dashboard: Path) -> Iterator[RunningApi]:
    with running_api(plane, tmp_path / "data", static_dir=dashboard) as running:
        yield running
