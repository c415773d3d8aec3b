"""A host outside the mesh and beyond loopback: a network namespace of its own behind a pair of virtual interfaces."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

WITNESS = Path(__file__).with_name("servers") / "witness.py"
PORT = 8080


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def stranger() -> Generator[str]:
    """Run ``servers/witness.py`` in a namespace; yields its ``address:port``."""
    mark = os.getpid() % 60_000
    space, near, far = f"mt{mark}", f"mta{mark}", f"mtb{mark}"
    network = f"10.231.{mark % 250}"
    _ip("netns", "add", space)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        _ip("addr", "add", f"{network}.1/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", space, "addr", "add", f"{network}.2/30", "dev", far)
        _ip("-n", space, "link", "set", far, "up")
        words = ["ip", "netns", "exec", space, sys.executable, str(WITNESS), f"{network}.2", str(PORT)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as witness:
            try:
                assert witness.stdout
                assert witness.stdout.readline() == b"ready\n"
                yield f"{network}.2:{PORT}"
            finally:
                witness.terminate()
    finally:
        _ip("netns", "del", space)
