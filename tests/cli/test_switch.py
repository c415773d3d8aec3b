"""Simulated machines: what joins them is as slow as it is told to be, passes anything, and leaves nothing behind."""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from masche.agent.capture.names import NAMESPACES
from masche.agent.capture.sockets import in_namespace
from masche.cli import machines
from masche.cli.machines import Machine, Machines

PREFIX = f"n5m{os.getpid() % 10_000}"
ZONES = ("vienna", "milan", "zurich")


class Wire:
    def __init__(self) -> None:
        self.frames: list[tuple[str, str, bytes]] = []

    def __call__(self, source: str, target: str, frame: bytes) -> None:
        self.frames.append((source, target, frame))


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def made(tmp_path: Path, wire: Wire) -> Iterator[Machines]:
    with machines.opened(tmp_path, ZONES, prefix=PREFIX, tap=wire) as found:
        yield found
    left = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert PREFIX not in left
    assert not list(NAMESPACES.glob(f"{PREFIX}*"))


def path(machine: Machine) -> Path:
    return NAMESPACES / machine.namespace


def listening(machine: Machine) -> socket.socket:
    return in_namespace(path(machine), lambda: socket.create_server((machine.address, 9000), backlog=64))


def handshake(source: Path | str, target: Machine) -> float:
    """Milliseconds until a connection stands: one round trip."""

    def connected() -> float:
        began = time.perf_counter()
        with socket.create_connection((target.address, 9000), timeout=20):
            return 1000 * (time.perf_counter() - began)

    return in_namespace(source, connected)


@pytest.mark.root
def test_a_line_takes_as_long_as_it_is_told_to_and_the_others_do_not(made: Machines) -> None:
    vienna, milan, zurich = made
    with listening(milan):
        made.switch.delay("vienna", "milan", 0.1)
        slow = [handshake(path(vienna), milan) for _ in range(3)]
        assert min(slow) >= 200
        assert statistics.median(handshake(path(zurich), milan) for _ in range(5)) < 200
        assert statistics.median(handshake("", milan) for _ in range(5)) < 200
        made.switch.delay("vienna", "milan", 0.0)
        assert statistics.median(handshake(path(vienna), milan) for _ in range(5)) < 200


@pytest.mark.root
def test_bytes_pass_whole_and_in_order_and_are_seen(made: Machines, wire: Wire) -> None:
    vienna, milan, _ = made
    made.switch.delay("vienna", "milan", 0.002)
    sent = os.urandom(1 << 20) + b"a word that is seen"
    with listening(milan) as server:
        caller = in_namespace(path(vienna), lambda: socket.create_connection((milan.address, 9000), timeout=20))
        callee, (address, _) = server.accept()
        assert address == vienna.address
        callee.settimeout(20)
        got = b""
        with caller, callee:
            for at in range(0, len(sent), 1 << 16):
                caller.sendall(sent[at : at + (1 << 16)])
                while len(got) < min(at + (1 << 16), len(sent)):
                    got += callee.recv(1 << 16)
    assert got == sent
    assert any(b"word that is" in frame for *line, frame in wire.frames if line == ["vienna", "milan"])
    assert not any(b"word that is" in frame for *line, frame in wire.frames if "zurich" in line)


@pytest.mark.root
def test_what_a_killed_demonstration_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Whoever made the machines is gone, and so is whoever was to tidy up."""
    script = f"""
import os, pathlib
from masche.cli import machines
with machines.opened(pathlib.Path({str(tmp_path)!r}), ("vienna",), prefix={PREFIX!r}):
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert list(NAMESPACES.glob(f"{PREFIX}-*"))
    assert machines.sweep([tmp_path, tmp_path / "nothing"]) == [tmp_path]
    assert not list(NAMESPACES.glob(f"{PREFIX}-*"))


def test_machines_of_somebody_who_lives_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "end", lambda _: pytest.fail("they were ended"))
    owner = machines.identify(os.getpid())
    noted = {"owner": owner, "prefix": "nobody", "data": []}
    (tmp_path / "machines.json").write_text(json.dumps(noted))
    assert machines.sweep([tmp_path]) == []


def test_who_is_not_root_is_told_what_works_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo" in machines.what_lacks()
    assert "leave --machines out" in machines.what_lacks()
