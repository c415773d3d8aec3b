"""Commands that go on until someone stops them, as real processes, on a terminal and into pipes."""

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from masche.api import messages as m
from masche.api import traffic as t
from masche.cli.exits import Exit
from masche.testing.api import RunningApi, running_api
from masche.testing.plane import FakePlane

RATE = t.Rate(requests_per_second=12.5, success=1.0, p50_ms=1.2, p95_ms=3.4, p99_ms=5.6)


def start(data: Path, *words: str, stdout: int = subprocess.PIPE, **env: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "masche", *words]
    environment = {**os.environ, "MASCHE_DATA": str(data), "PYTHONUNBUFFERED": "1", **env}
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environment)


def end(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    return process.returncode, said.decode()


def on_terminal(data: Path, seen: Callable[[bytes], bool], *words: str, **env: str) -> bytes:
    """Run on a pseudo-terminal until it ends or, once ``seen``, press Ctrl-C; return what was drawn."""
    ours, theirs = pty.openpty()
    process = start(data, *words, stdout=theirs, TERM="xterm", COLUMNS="120", **env)
    os.close(theirs)
    drawn = b""
    deadline = threading.Timer(20, process.kill)
    deadline.start()
    try:
        while not seen(drawn):
            drawn += os.read(ours, 65536)
        code, said = end(process)
    except OSError:  # the other end closed: it ended by itself
        _, errors = process.communicate(timeout=10)
        code, said = process.returncode, errors.decode()
    finally:
        deadline.cancel()
        os.close(ours)
    assert code in {Exit.INTERRUPTED, Exit.OK}, said
    assert "Traceback" not in said
    return drawn


def never(_: bytes) -> bool:
    return False


@pytest.fixture
def traffic(plane: FakePlane) -> None:
    edge = t.Edge(source="shop/web", destination="shop/orders", port=80, protocol="http", rate=RATE)
    plane.traffic = t.Edges(at=1.0, window=10.0, edges=(edge,))


@pytest.mark.usefixtures("traffic")
def test_top_draws_on_a_terminal_until_ctrl_c(api: RunningApi):
    drawn = on_terminal(api.data, lambda seen: seen.count(b"shop/orders") >= 2, "top")
    assert b"\x1b[?1049h" in drawn  # the second screen, which leaves the first as it was


@pytest.mark.usefixtures("traffic")
def test_no_color_is_respected(api: RunningApi):
    coloured = on_terminal(api.data, never, "top", "--once")
    plain = on_terminal(api.data, never, "top", "--once", NO_COLOR="1")
    assert b"\x1b[32m" in coloured
    assert b"\x1b[3" not in plain


def test_events_are_followed_one_json_per_line_and_ctrl_c_ends_it(api: RunningApi, plane: FakePlane):
    process = start(api.data, "events", "--follow", "-o", "json")
    assert process.stdout is not None
    api.call(lambda: plane.happen("tick", "first"))
    assert b'"message":"first"' in process.stdout.readline()
    api.call(lambda: plane.happen("tick", "second"))
    assert b'"message":"second"' in process.stdout.readline()
    assert end(process) == (Exit.INTERRUPTED, "")


def test_following_survives_a_control_plane_that_restarts(plane: FakePlane, tmp_path: Path):
    with running_api(plane, tmp_path) as api:
        process = start(tmp_path, "events", "--follow")
        assert process.stdout is not None
        api.call(lambda: plane.happen("tick", "before"))
        assert b"before" in process.stdout.readline()
        port = api.listening.port
    again = FakePlane(log=list(plane.log))
    with running_api(again, tmp_path, port=port) as api:
        api.call(lambda: again.happen("tick", "after"))
        assert b"after" in process.stdout.readline()
        code, said = end(process)
    assert code == Exit.INTERRUPTED
    assert "trying again" in said


def test_apply_waits_for_a_control_plane_that_restarts(plane: FakePlane, tmp_path: Path):
    file = tmp_path / "orders.yaml"
    file.write_text("kind: Service\nmetadata: {name: orders, namespace: shop}\n")
    plane.rollouts = [m.Rollout(revision=1, state=m.RolloutState.PENDING)]
    data = tmp_path / "data"
    with running_api(plane, data) as api:
        process = start(data, "apply", "-f", str(file))
        assert process.stdout is not None
        assert b"created" in process.stdout.readline()
        port = api.listening.port
    again = FakePlane(items=dict(plane.items), revision=1)
    with running_api(again, data, port=port):
        said, _ = process.communicate(timeout=15)
    assert process.returncode == Exit.OK
    assert b"revision 1 is live" in said


def test_a_reader_that_goes_away_causes_no_traceback(api: RunningApi):
    reading, writing = os.pipe()
    os.close(reading)
    process = start(api.data, "status", stdout=writing)
    os.close(writing)
    _, said = process.communicate(timeout=10)
    assert b"Traceback" not in said


def test_an_interrupted_wait_ends_with_130(api: RunningApi, plane: FakePlane, tmp_path: Path):
    file = tmp_path / "orders.yaml"
    file.write_text("kind: Service\nmetadata: {name: orders, namespace: shop}\n")
    plane.rollouts = [m.Rollout(revision=1, state=m.RolloutState.PENDING)]
    process = start(api.data, "apply", "-f", str(file))
    assert process.stdout is not None
    assert b"created" in process.stdout.readline()
    assert end(process) == (Exit.INTERRUPTED, "")
