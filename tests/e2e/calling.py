"""One call at a time: over HTTP to a local port, to an Envoy's admin socket, or raw bytes at a socket."""

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; ``seen`` is the request as the application saw it, when it says so."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def seen(self) -> dict[str, Any]:
        return json.loads(self.body)

    def seen_header(self, name: str) -> list[str]:
        """Every value of one header that reached the application."""
        return [value for key, value in self.seen["headers"] if key.lower() == name]


def call(
    url: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    within: float = 10,
) -> Answer:
    """One request on a connection of its own; proxies of the environment are not consulted."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=within)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def status_of(url: str, **options: Any) -> int:
    """The status of one call; 0 when there was no answer."""
    try:
        return call(url, **options).status
    except (OSError, http.client.HTTPException):
        return 0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class Admin:
    """An Envoy's admin interface on its Unix socket."""

    path: Path

    def ask(self, target: str, *, method: str = "GET") -> bytes:
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, target)
            return connection.getresponse().read()
        finally:
            connection.close()

    def is_live(self) -> bool:
        """Whether Envoy has its configuration and serves."""
        try:
            return self.ask("/ready").startswith(b"LIVE")
        except (OSError, http.client.HTTPException):
            return False

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match the regular expression."""
        lines = self.ask(f"/stats?filter={pattern}").decode().splitlines()
        pairs = (line.rpartition(": ") for line in lines)
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    def dump(self) -> dict[str, dict[str, Any]]:
        """What Envoy holds now: ``listeners``, ``clusters``, ``routes``, each by name, without times."""
        held: dict[str, dict[str, Any]] = {"listeners": {}, "clusters": {}, "routes": {}}
        for part in json.loads(self.ask("/config_dump"))["configs"]:
            for each in part.get("dynamic_listeners", ()):
                if state := each.get("active_state"):
                    held["listeners"][each["name"]] = state["listener"]
            for each in part.get("dynamic_active_clusters", ()):
                held["clusters"][each["cluster"]["name"]] = each["cluster"]
            for each in part.get("dynamic_route_configs", ()):
                held["routes"][each["route_config"]["name"]] = each["route_config"]
        return held

    def endpoints(self) -> dict[str, set[str]]:
        """Cluster name -> addresses that it may use, healthy or not."""
        found: dict[str, set[str]] = {}
        for cluster in json.loads(self.ask("/clusters?format=json")).get("cluster_statuses", ()):
            hosts = [host["address"].get("socket_address") for host in cluster.get("host_statuses", ())]
            found[cluster["name"]] = {f"{host['address']}:{host['port_value']}" for host in hosts if host}
        return found

    def listening(self) -> list[tuple[str, str, int]]:
        """Name, address and port of every listener."""
        answer = json.loads(self.ask("/listeners?format=json"))
        found = []
        for each in answer.get("listener_statuses", ()):
            if at := each["local_address"].get("socket_address"):
                found.append((each["name"], at["address"], at["port_value"]))
        return found
