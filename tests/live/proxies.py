"""Real Envoys, each for one workload at a time: started once, told something else for every mesh."""

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from masche.agent.envoy import find
from masche.wire import bootstrap

DEADLINE = 15.0
T = TypeVar("T")


def eventually(found: Callable[[], T | None], within: float = DEADLINE) -> T:
    """Wait until there is something, and return it."""
    end = time.monotonic() + within
    while not (it := found()):
        assert time.monotonic() < end, f"nothing within {within} s"
        time.sleep(0.02)
    return it


class Proxy:
    """One Envoy process that asks the plane at ``xds_socket``."""

    def __init__(self, node_id: str, folder: Path, xds_socket: Path) -> None:
        self.node_id = node_id
        self._admin = folder / f"{node_id}.sock"
        self._log_path = folder / f"{node_id}.log"
        self._log = self._log_path.open("wb")
        config = folder / f"{node_id}.json"
        config.write_bytes(
            bootstrap.bootstrap(
                node_id=node_id, cluster="test", zone="", xds_socket=str(xds_socket), admin_socket=str(self._admin)
            )
        )
        command = [str(find()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        command += ["--drain-time-s", "0", "--drain-strategy", "immediate"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def ask(self, path: str) -> str:
        """Ask the admin interface."""
        connection = http.client.HTTPConnection("admin", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(5)
            connection.sock.connect(str(self._admin))
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def until_listening(self, names: set[str]) -> None:
        """Wait until exactly these listeners accept connections: those that were removed may do so for a while, as
        each of Envoy's threads closes its own socket.
        """
        end = time.monotonic() + DEADLINE
        found: set[str] = set()
        while time.monotonic() < end:
            assert self._process.poll() is None, self.log
            try:
                found = self._listeners()
            except (OSError, http.client.HTTPException):
                found = set()
            if found == names and not self._is_draining():
                return
            time.sleep(0.005)
        raise AssertionError(f"{self.node_id} listens to {sorted(found)} instead of {sorted(names)}:\n{self.log}")

    def _is_draining(self) -> bool:
        return not self.ask("/stats?filter=^listener_manager.total_listeners_draining$").strip().endswith(": 0")

    def _listeners(self) -> set[str]:
        statuses = json.loads(self.ask("/listeners?format=json")).get("listener_statuses", ())
        return {each["name"] for each in statuses}
