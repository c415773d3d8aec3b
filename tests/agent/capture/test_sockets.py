import socket
import subprocess
import threading
from pathlib import Path

import pytest

from masche.agent.capture.sockets import in_namespace, open_in

pytestmark = pytest.mark.root

OWN = Path("/proc/thread-self/ns/net")


def test_a_socket_stays_in_the_namespace_in_which_it_was_opened(netns: Path):
    with open_in(netns) as inside, socket.socket() as outside:
        inside.bind(("127.0.0.1", 4711))
        inside.listen()
        outside.settimeout(5)
        assert outside.connect_ex(("127.0.0.1", 4711)) != 0
        with open_in(str(netns)) as beside:
            assert beside.connect_ex(("127.0.0.1", 4711)) == 0


def test_who_asked_stays_where_it_was_and_no_thread_is_left(netns: Path):
    before, threads = OWN.stat().st_ino, threading.active_count()
    assert in_namespace(netns, lambda: OWN.stat().st_ino) == netns.stat().st_ino
    assert OWN.stat().st_ino == before
    assert threading.active_count() == threads


def test_an_empty_path_is_our_own_namespace():
    assert in_namespace("", lambda: OWN.stat().st_ino) == OWN.stat().st_ino


def test_what_goes_wrong_inside_is_raised_outside(netns: Path, tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        in_namespace(netns, lambda: 1 / 0)
    with pytest.raises(FileNotFoundError):
        open_in(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        open_in(tmp_path / "file")


def test_ipv6_and_datagrams_are_opened_as_asked(netns: Path):
    with open_in(netns, socket.AF_INET6, socket.SOCK_DGRAM) as inside:
        inside.bind(("::1", 53))
        assert inside.type == socket.SOCK_DGRAM
        looked = subprocess.run(
            ["ip", "netns", "exec", netns.name, "ss", "-Hlnu"], capture_output=True, text=True, check=True
        )
        assert "[::1]:53" in looked.stdout
