"""Clients as people use them, unchanged: through ``<SERVICE>_URL`` and through the proxy variables.

Each runs as a program in the environment that ``masche run`` gave to a job, and says what the server saw.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from e2e.mesh import SERVERS, Instance, Mesh, service
from e2e.waiting import until

CLIENTS = Path(__file__).with_name("clients")
CALLER = "spiffe://mesh.local/ns/shop/sa/caller"
UPLOADED = hashlib.sha256(b"m" * 1_000_000).hexdigest()
STREAMED = hashlib.sha256(b"c" * 300_000).hexdigest()

GREETER = """
apiVersion: v1
kind: Service
metadata: {name: greeter, namespace: shop}
spec:
  selector: {app: greeter}
  ports: [{name: grpc, port: 80, targetPort: grpc, appProtocol: grpc}]
"""


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Go client, built once."""
    binary = tmp_path_factory.mktemp("go") / "client"
    subprocess.run(["go", "build", "-o", binary, CLIENTS / "call_with_go.go"], check=True, timeout=100)
    return str(binary)


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    """A job, in whose environment the clients run."""
    mesh.apply(service("web") + GREETER)
    web = mesh.run("web", [sys.executable, str(SERVERS / "web.py")], options=["--health", "http:/"])
    greeter = mesh.run("greeter", [sys.executable, str(SERVERS / "greeter.py")], protocol="grpc")
    caller = mesh.run("caller", [sys.executable, str(CLIENTS / "idle.py")], has_port=False)
    mesh.await_ready(web, greeter)
    until(lambda: caller.reaches("web"), "web answers the caller")
    until(mesh.is_in_sync, "every proxy is in sync")
    return caller


def run(command: list[str], caller: Instance) -> dict[str, Any]:
    """Run a client as the caller and return what it says."""
    ended = subprocess.run(
        command, env=caller.environment, cwd=CLIENTS, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr or ended.stdout
    return json.loads(ended.stdout)


def python(name: str, *words: str) -> list[str]:
    return [sys.executable, f"call_with_{name}.py", *words]


def assert_served(seen: Mapping[str, Any], *, by: str = "web-1") -> None:
    """The right service answered, and knows over mutual TLS who called."""
    assert seen["name"] == by
    assert dict(seen["headers"])["host"] in {"web", "web:80", "web.shop"}
    shown = [value for name, value in seen["headers"] if name == "x-forwarded-client-cert"]
    assert len(shown) == 1
    assert f"URI={CALLER}" in shown[0]


def assert_intact(told: Mapping[str, Any]) -> None:
    """All of what a client did."""
    for what in ("get", "upload", "chunked"):
        assert_served(told[what])
    assert (told["get"]["method"], told["get"]["target"]) == ("GET", "/a/b?c=d")
    assert (told["upload"]["length"], told["upload"]["sha256"]) == (1_000_000, UPLOADED)
    assert (told["chunked"]["length"], told["chunked"]["sha256"]) == (300_000, STREAMED)
    assert ["transfer-encoding", "chunked"] in told["chunked"]["headers"]
    assert told["download"] == 1_000_000
    assert told["reused"] is not False, "a second request took a new connection"


@pytest.mark.parametrize("way", ["url", "proxy", "connect"])
def test_curl(caller: Instance, way: str):
    assert_intact(run(python("curl", way), caller))


@pytest.mark.parametrize("way", ["url", "proxy"])
@pytest.mark.parametrize("client", ["requests", "httpx", "aiohttp"])
def test_a_python_client(caller: Instance, client: str, way: str):
    assert_intact(run(python(client, way), caller))


def test_aiohttp_that_trusts_the_environment_still_calls_local_urls_directly(caller: Instance):
    assert_intact(run(python("aiohttp", "url", "trust_env"), caller))


@pytest.mark.parametrize("way", ["url", "proxy", "connect"])
def test_node(caller: Instance, way: str):
    assert_intact(run(["node", "call_with_node.mjs", way], caller))


@pytest.mark.parametrize("way", ["url", "proxy", "connect"])
def test_go(caller: Instance, go_client: str, way: str):
    assert_intact(run([go_client, way], caller))


@pytest.mark.parametrize("way", ["url", "proxy"])
def test_grpcio(caller: Instance, way: str):
    told = run(python("grpcio", way), caller)
    assert told["get"]["name"] == "greeter-1"
    metadata = dict(told["get"]["metadata"])
    assert f"URI={CALLER}" in metadata["x-forwarded-client-cert"]
    assert metadata["x-mine"] == "yes"
    assert told["get"]["length"] == 1_000_000
    assert ["served-by", "greeter-1"] in told["trailers"]
    assert told["conversation"] == ["you said one", "you said two", "you said three"]
    assert (told["total"], told["count"]) == (300_000, 1_000)
