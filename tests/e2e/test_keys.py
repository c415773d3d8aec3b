"""Keys stay where they belong, even for who starts the mesh with umask 0. Items C19, G3, G4, G12."""

import base64
import http.client
import json
import re
import resource
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import remains
from e2e.intruder import PREFACE, encrypted, plaintext
from e2e.mesh import Instance, Mesh, free_port, service
from e2e.waiting import until

PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
PRIVATE = "private, in a Secret"
SECRET = """
apiVersion: v1
kind: Secret
metadata: {{name: hush, namespace: shop}}
type: Opaque
data: {{hush: {value}}}
"""


GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: masche, listeners: [{name: http, port: 80, protocol: HTTP}]}
"""


@pytest.fixture(scope="module")
def used(mesh: Mesh) -> Mesh:
    """A mesh in which everything was used once: two machines, a gateway, calls, an outage, a crash."""
    mesh.apply(service("orders") + GATEWAY)
    given = mesh.masche("token", "create", "-n", "shop").stdout
    assert mesh.masche("join", "--machine", "second", data=mesh.folder / "e", stdin=given).returncode == 0
    orders, there, caller = mesh.run("orders"), mesh.run("orders", data=mesh.folder / "e"), mesh.run("caller")
    mesh.gateway("edge", f"127.0.0.1:{free_port()}")
    mesh.await_ready(orders, there, caller)
    until(lambda: caller.reaches("orders") and len(mesh.status().proxies) == 4, "all of it runs")
    mesh.kill_plane()
    mesh.start_plane()
    until(mesh.is_in_sync, "everybody is back")
    return mesh


def _below(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def test_everything_in_a_data_folder_is_its_owners_alone(used: Mesh) -> None:
    folders = [used.data, used.folder / "e"]
    found = {path: stat.S_IMODE(path.lstat().st_mode) for folder in folders for path in _below(folder)}
    assert len(found) > 50
    open_to_others = {str(path): oct(mode) for path, mode in found.items() if mode & 0o077 and not path.is_symlink()}
    assert open_to_others == {}


def test_no_private_key_is_in_a_log_an_environment_or_an_argument(used: Mesh) -> None:
    logs = {path: path.read_bytes() for path in used.folder.rglob("*.log")}
    assert len(logs) > 8
    assert not [str(path) for path, text in logs.items() if PEM.search(text)]
    pids = remains.processes(used.folder)
    assert len(pids) > 10
    for pid in pids:
        for part in ("environ", "cmdline"):
            assert not PEM.search(Path(f"/proc/{pid}/{part}").read_bytes()), f"/proc/{pid}/{part}"


def test_keys_are_only_in_the_files_that_are_meant_to_hold_them(used: Mesh) -> None:
    files = [path for path in used.folder.rglob("*") if path.is_file() and PEM.search(path.read_bytes())]
    places = {re.sub(r"seats/[^/]+/", "seats/*/", str(path.relative_to(used.folder))) for path in files}
    expected = re.compile(r"d/authority/.*|[de]/agent/seats/\*/identity\.json|e/machine/.*")
    assert [place for place in places if not expected.fullmatch(place)] == []
    assert any(place.startswith("d/authority/") for place in places), "this test looks in the wrong place"


def test_an_envoy_is_asked_over_a_private_socket_only_and_never_shows_a_key(used: Mesh) -> None:
    orders: Instance = used.instances[0]
    assert stat.S_IMODE(orders.admin.path.stat().st_mode) & 0o077 == 0
    dump = orders.admin.ask("/config_dump?include_eds") + orders.admin.ask("/certs")
    assert b"spiffe://" in dump
    assert not PEM.search(dump)


def test_processes_that_hold_keys_leave_no_core_files(used: Mesh) -> None:
    assert used.plane
    agents = [found for data in (used.data, used.folder / "e") if (found := used.agent(data))]
    pids = [used.plane.pid, *(agent.pid for agent in agents)]
    pids += [seat.envoy_pid for agent in agents for seat in agent.seats]
    assert len(pids) >= 7
    for pid in pids:
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0), f"process {pid} may leave a core file"


def _ask(used: Mesh, path: str, **headers: str) -> tuple[int, bytes]:
    host, _, port = used.client.url.removeprefix("http://").rstrip("/").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


PATHS = (
    "/v1/status", "/v1/certificates", "/v1/machines", "/v1/tokens", "/v1/events", "/v1/check", "/v1/edges", "/v1/graph",
    "/v1/resources/Service", "/v1/resources/Workload", "/v1/resources/Secret", "/v1/resources/Secret/shop/hush",
    "/v1/resources/Secret/shop/hush/description",
)  # fmt: skip


def test_no_answer_of_the_api_holds_a_private_key_or_a_secrets_value(used: Mesh) -> None:
    value = base64.b64encode(PRIVATE.encode()).decode()
    given = used.folder / "secret.yaml"
    given.write_text(SECRET.format(value=value))
    applied = used.masche("apply", "-f", str(given), "--no-wait")
    token = next(path for path in used.data.rglob("token") if path.is_file()).read_text().strip()
    said = [applied.stdout + applied.stderr, used.masche("diff", "-f", str(given)).stdout]
    for path in PATHS:
        status, body = _ask(used, path, authorization=f"Bearer {token}")
        assert status == 200 or (path.startswith("/v1/resources/Secret/") and applied.returncode), (path, body)
        said.append(body.decode())
    text = "\n".join(said)
    assert not PEM.search(text.encode())
    assert value not in text
    assert PRIVATE not in text
    given.unlink()


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_token(used: Mesh, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic Zm9vOmJhcg=="}):
        status, body = _ask(used, path, **headers)
        assert status == 401, body
        assert b"shop" not in body


def test_strangers_on_the_ports_of_the_control_plane_learn_nothing(used: Mesh) -> None:
    """Neither agents' port nor door of new machines says anything to somebody without a certificate or a token."""
    port = int(used.status().plane.link_address.rpartition(":")[2])
    assert encrypted("127.0.0.1", port, PREFACE, protocols=["h2"]) == b""
    assert not plaintext("127.0.0.1", port, PREFACE).startswith(PREFACE[:3])
    said = encrypted("127.0.0.1", port + 1, PREFACE, protocols=["h2"])
    assert b"spiffe" not in said
    assert not PEM.search(said)


def test_a_key_that_others_may_read_stops_the_control_plane_with_a_cure(used: Mesh, tmp_path: Path) -> None:
    copy = tmp_path / "d"
    subprocess.run(["cp", "-a", used.data / "authority", tmp_path / "a"], check=True)
    copy.mkdir(mode=0o700)
    (tmp_path / "a").rename(copy / "authority")
    key = next(path for path in (copy / "authority").rglob("*") if path.is_file() and PEM.search(path.read_bytes()))
    key.chmod(0o644)
    done = used.masche("up", "--xds-port", "0", "--api-port", "0", "--metrics-port", "0", data=copy)
    assert done.returncode == 1
    assert key.name in done.stderr
    assert "Traceback" not in done.stderr
    assert json.dumps(str(key))[1:-1] in done.stderr
