"""What ``masche serve`` says before anybody calls."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("app", "is_told"), [("other", True), ("orders", False)])
def test_an_application_with_another_label_than_its_service_selects_by_is_told(
    tmp_path: Path, app: str, *, is_told: bool
):
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it ends by itself
        words = ["json:dumps", "--service", "orders", "--label", f"app={app}", "--data", str(tmp_path)]
        where = ["--host", "127.0.0.1", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(
            [sys.executable, "-m", "masche", "serve", *words, *where],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "is taken by another program" in ended.stderr
    assert ("its label is app=other" in ended.stderr) is is_told
