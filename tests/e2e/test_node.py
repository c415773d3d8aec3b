"""Workloads that the machine's one Envoy serves: called by name, known by their identity, in any combination."""

import http.client
import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.calling import status_of
from e2e.conftest import StartMesh
from e2e.intruder import plaintext
from e2e.load import Load
from e2e.mesh import ON_THE_NODE, SERVERS, Instance, Mesh, service
from e2e.test_clients import CLIENTS, GREETER, assert_intact, python
from e2e.waiting import until
from masche.agent.capture.sockets import in_namespace
from masche.agent.folders import Folders

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

TCP = """
apiVersion: v1
kind: Service
metadata: {name: first, namespace: shop}
spec:
  selector: {app: first}
  ports: [{name: main, port: 25, targetPort: tcp, appProtocol: tcp}]
---
"""


def identity(name: str) -> str:
    return f"spiffe://mesh.local/ns/shop/sa/{name}"


@pytest.fixture(scope="module")
def instances(mesh: Mesh) -> dict[str, Instance]:
    names = ("orders", "aside", "caller", "beside")
    mesh.apply("".join(map(service, (*names[:2], "web", "socket"))) + TCP + GREETER)
    found = {
        "orders": mesh.run("orders", options=ON_THE_NODE, is_recorded=True),
        "caller": mesh.run("caller", options=ON_THE_NODE),
        "aside": mesh.run("aside"),
        "beside": mesh.run("beside"),
    }
    for name, server, protocol in (
        ("web", "web.py", ""),
        ("greeter", "greeter.py", "grpc"),
        ("first", "bytes_echo.py", "tcp"),
        ("socket", "socket_echo.py", ""),
    ):
        command = [sys.executable, str(SERVERS / server)]
        env = {"GREETING": "220 hello"} if name == "first" else {}
        found[name] = mesh.run(name, command, protocol=protocol, options=ON_THE_NODE, env=env)
    mesh.await_ready(*found.values())
    for caller in ("caller", "beside"):
        until(lambda caller=caller: found[caller].reaches("orders"), f"orders answers {caller}")
    until(mesh.is_in_sync, "every proxy is in sync")
    return found


def test_one_envoy_serves_all_of_them(mesh: Mesh, instances: dict[str, Instance]) -> None:
    sidecars = {instances[name].seat.envoy_pid for name in ("aside", "beside")}
    node = {one.seat.envoy_pid for name, one in instances.items() if name not in {"aside", "beside"}}
    assert (len(node), len(sidecars), node & sidecars) == (1, 2, set())
    placements = {one.service: one.placement for one in mesh.status().proxies}
    assert placements["shop/orders"] == "node"


@pytest.mark.parametrize(
    ("caller", "callee"), [("caller", "orders"), ("caller", "aside"), ("beside", "orders"), ("caller", "caller")]
)
def test_both_ends_know_each_other_whatever_stands_between(
    instances: dict[str, Instance], caller: str, callee: str
) -> None:
    if callee == caller:
        instances[caller].mesh.apply(service("caller"))
    url = instances[caller].url(callee) if caller != callee else "http://caller.shop.mesh/"
    answer = until(
        lambda: (got := _get(instances[caller], url)) and got.get("name") and got, f"{callee} answers {caller}"
    )
    shown = [value for name, value in answer["headers"] if name.lower() == "x-forwarded-client-cert"]
    assert [_without_hash(each) for each in shown] == [f"By={identity(callee)};URI={identity(caller)}"]


def _without_hash(shown: str) -> str:
    """What was shown of a certificate, if there was one, and of who called."""
    return re.sub("Hash=[0-9a-f]+;", "", shown)


def _get(caller: Instance, url: str, **headers: str) -> dict:
    words = [word for name, value in headers.items() for word in ("-H", f"{name.replace('_', '-')}: {value}")]
    said = subprocess.run(
        ["nsenter", f"--net={caller.netns or '/proc/self/ns/net'}", "curl", "-s", "-m", "5", *words, url],
        capture_output=True,
        check=False,
    ).stdout
    return json.loads(said) if said.startswith(b"{") else {}


@pytest.mark.parametrize(
    "name", ["orders", "orders.shop", "orders.shop.svc", "orders.shop.mesh", "orders.shop.svc.cluster.local", "ORDERS."]
)
def test_a_service_is_called_by_any_of_its_names(instances: dict[str, Instance], name: str) -> None:
    assert _get(instances["caller"], f"http://{name}/here")["target"] == "/here"


@pytest.mark.parametrize("client", ["curl", "requests", "httpx", "aiohttp", "node"])
def test_clients_in_any_language_go_to_the_mesh_and_know_nothing_of_it(
    instances: dict[str, Instance], client: str
) -> None:
    command = ["node", "call_with_node.mjs", "url"] if client == "node" else python(client, "url")
    assert_intact(_told(instances["caller"], command))


def _told(caller: Instance, command: list[str]) -> dict:
    ended = subprocess.run(
        ["nsenter", f"--net={caller.netns}", *command],
        env=caller.environment,
        cwd=CLIENTS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr or ended.stdout
    return json.loads(ended.stdout)


def test_grpc_streams_in_all_four_ways(instances: dict[str, Instance]) -> None:
    told = _told(instances["caller"], python("grpcio", "url"))
    assert f"URI={identity('caller')}" in dict(told["get"]["metadata"])["x-forwarded-client-cert"]
    assert told["conversation"] == ["you said one", "you said two", "you said three"]
    assert (told["total"], told["count"]) == (300_000, 1_000)


def test_a_server_that_speaks_first_is_heard_at_once(instances: dict[str, Instance]) -> None:
    def greeted() -> bytes:
        with socket.create_connection(("first", 25), timeout=5) as connection:
            return connection.recv(100)

    assert instances["caller"].within(greeted).startswith(b"220 hello")


def test_a_web_socket_is_opened_and_echoes(instances: dict[str, Instance]) -> None:
    def asked() -> bytes:
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        with socket.create_connection(("socket", 80), timeout=5) as connection:
            connection.sendall(
                b"GET / HTTP/1.1\r\nHost: socket\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key.encode() + b"\r\n\r\n"
            )
            return connection.recv(4096)

    assert instances["caller"].within(asked).startswith(b"HTTP/1.1 101")


# -- what must not be --------------------------------------------------


def test_what_a_caller_says_of_itself_reaches_nobody(instances: dict[str, Instance]) -> None:
    forged = f"By=x;URI={identity('admin')}"
    seen = _get(
        instances["caller"],
        "http://orders/forged",
        x_forwarded_client_cert=forged,
        x_masche_peer=identity("admin"),
        x_envoy_peer_metadata="admin",
        x_masche_service_us="1",
    )
    assert "admin" not in json.dumps(seen)
    assert f"URI={identity('caller')}" in json.dumps(seen)


def test_plaintext_reaches_no_application_from_anywhere(instances: dict[str, Instance]) -> None:
    """Item D2: not at its mesh port, not at its own address, neither from the host nor from another workload."""
    orders, caller = instances["orders"], instances["caller"]
    request = b"GET /in-the-clear HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"
    inbound = orders.status()
    assert inbound
    places = [("127.0.0.1", orders.mesh_port), (orders.seat.address, orders.app_port), (orders.seat.address, 15006)]
    for namespace in ("", caller.netns):
        for host, port in places:
            assert not in_namespace(namespace, lambda host=host, port=port: _said(host, port, request))
    assert b"in-the-clear" not in orders.received


def _said(host: str, port: int, request: bytes) -> bool:
    try:
        answer = plaintext(host, port, request, within=1.0)
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200")


def test_nobody_else_of_the_host_reaches_an_application_without_its_proxy(instances: dict[str, Instance]) -> None:
    orders = instances["orders"]
    assert status_of(f"http://{orders.seat.address}:{orders.app_port}/around", within=1) != 200
    assert b"/around" not in orders.received


# -- changes --------------------------------------------------


def test_a_rollout_fails_no_call(mesh: Mesh, instances: dict[str, Instance]) -> None:
    """Another instance comes, the first one leaves in order, on the same Envoy."""
    mesh.apply(service("rolling"))
    first = mesh.run("rolling", name="rolling-old", options=ON_THE_NODE)
    mesh.await_ready(first)
    caller = instances["caller"]
    url = "http://rolling/"
    until(lambda: caller.within(lambda: status_of(url)) == 200, "it answers")
    for is_fresh in (False, True):
        name = f"rolling-new-{is_fresh}"
        with Load(url, rate=100, is_fresh=is_fresh, namespace=caller.netns) as load:
            load.lasts(0.3)
            second = mesh.run("rolling", name=name, options=ON_THE_NODE)
            mesh.await_ready(second)
            until(lambda load=load, name=name: load.servers()[name], "the new one is called")
            first.terminate()
            assert first.wait() in {0, 143}
            load.lasts(0.5)
        load.assert_none_failed()
        first = second
    first.terminate()
    first.wait()


def test_who_comes_and_goes_disturbs_nobody(mesh: Mesh, instances: dict[str, Instance]) -> None:
    """By Envoy's own counters: no listener of the others is changed, none of their connections is closed."""
    caller, admin = instances["caller"], instances["caller"].admin
    connection = caller.within(_connected)
    before = admin.stats(r"listener_manager\.listener_(modified|in_place_updated)$")
    visitor = mesh.run("visitor", options=ON_THE_NODE)
    mesh.await_ready(visitor)
    visitor.terminate()
    visitor.wait()
    until(lambda: not any("visitor" in name for name, _, _ in admin.listening()), "its listeners are gone")
    assert admin.stats(r"listener_manager\.listener_(modified|in_place_updated)$") == before
    connection.request("GET", "/still")
    assert connection.getresponse().status == 200
    connection.close()


def _connected() -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("orders", 80, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().read()
    return connection


def test_the_namespace_of_who_left_is_gone(mesh: Mesh) -> None:
    visitor = mesh.run("leaving", options=ON_THE_NODE)
    mesh.await_ready(visitor)
    namespace = visitor.netns
    visitor.terminate()
    visitor.wait()
    names = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert namespace.rpartition("/")[2] not in names


def test_envoy_is_given_nothing_that_it_warns_of(mesh: Mesh, instances: dict[str, Instance]) -> None:
    """Fields that are a work in progress or deprecated are not what a mesh should stand on."""
    for log in Folders(mesh.data).agent.rglob("envoy.log"):
        said = log.read_text()
        assert "work-in-progress" not in said, log
        assert "deprecated" not in said.lower(), log


# -- both ways of one machine --------------------------------------------------


def encrypted(start_mesh: StartMesh) -> tuple[Mesh, Instance, Instance]:
    """A mesh that encrypts what stays on a machine, ``orders`` in it, and who calls it."""
    mesh = start_mesh()
    mesh.apply(
        service("orders")
        + "apiVersion: masche.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {sameMachine: tls}\n"
    )
    orders, caller = mesh.run("orders", options=ON_THE_NODE), mesh.run("caller", options=ON_THE_NODE)
    mesh.await_ready(orders, caller)
    until(lambda: caller.reaches("orders"), "orders answers")
    return mesh, orders, caller


def test_calls_within_a_machine_are_encrypted_where_that_is_asked_for(start_mesh: StartMesh) -> None:
    _, orders, caller = encrypted(start_mesh)
    before = orders.admin.stats(r"listener\..*\.ssl\.handshake$")
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: caller.reaches("orders"), range(8)))
    assert sum(orders.admin.stats(r"listener\..*\.ssl\.handshake$").values()) >= sum(before.values()) > 0
    seen = caller.call("orders").seen_header("x-forwarded-client-cert")
    assert [_without_hash(each) for each in seen] == [f"By={identity('orders')};URI={identity('caller')}"]


def test_envoy_forgets_the_secret_of_who_left_and_learns_that_of_who_comes_back(start_mesh: StartMesh) -> None:
    mesh, orders, caller = encrypted(start_mesh)
    assert _secrets(orders) == {"caller", "orders"}
    caller.terminate()
    caller.wait()
    until(lambda: _secrets(orders) == {"orders"}, "the caller's secret is forgotten")
    again = mesh.run("caller", options=ON_THE_NODE)
    mesh.await_ready(again)
    until(lambda: again.reaches("orders"), "orders answers who came back")
    seen = again.call("orders").seen_header("x-forwarded-client-cert")
    assert [_without_hash(each) for each in seen] == [f"By={identity('orders')};URI={identity('caller')}"]
    assert _secrets(orders) == {"caller", "orders"}


def _secrets(instance: Instance) -> set[str]:
    """Whose certificates its Envoy holds."""
    dump = json.loads(instance.admin.ask("/config_dump"))["configs"]
    kept = (each for part in dump for each in part.get("dynamic_active_secrets", ()))
    return {each["name"].split("/")[2].rpartition("-")[0] for each in kept if each["name"].startswith("workload/")}
