"""The command line against a real API over a loopback socket, in front of a control plane in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from runner_types import Masche

from masche.cli.main import cli
from masche.testing.api import RunningApi, running_api
from masche.testing.plane import FakePlane


@pytest.fixture
def plane() -> FakePlane:
    return FakePlane()


@pytest.fixture
def api(plane: FakePlane, tmp_path: Path) -> Iterator[RunningApi]:
    with running_api(plane, tmp_path / "data") as running:
        yield running


@pytest.fixture
def masche(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Masche:
    """Run a command on the test's data folder."""
    monkeypatch.setenv("MASCHE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MASCHE_DEBUG", raising=False)

    def run(*words: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(cli, list(words), input=stdin, prog_name="masche")
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def orders(tmp_path: Path) -> str:
    file = tmp_path / "orders.yaml"
    file.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop, labels: {tier: back}}\n"
        "spec: {selector: {app: orders}, ports: [{name: http, port: 80}]}\n"
    )
    return str(file)
