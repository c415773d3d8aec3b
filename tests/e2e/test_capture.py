"""An application with its sidecar in a network namespace of its own: what it sees, and what is seen of it."""

import json
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.captured import (
    SYSTEM_PYTHON,
    calls,
    calls_from,
    greeter,
    greeting,
    inside,
    is_open,
    looked_up,
    plain,
    status,
    tried_by_an_ordinary_user,
    typical_wait,
)
from e2e.conftest import StartMesh, living
from e2e.mesh import NAMESPACE, SERVERS, Instance, Mesh, service
from e2e.waiting import until
from masche.agent.capture import apply
from masche.agent.capture.names import names_of, path_of
from masche.agent.capture.ranges import GATEWAY
from masche.agent.folders import Folders
from masche.agent.stopping import stop_agent

pytestmark = pytest.mark.root

WAYS = {"sidecar": ("--capture",), "node": ("--placement", "node")}
"""The placements that capture, as they are asked for."""

APP = (SYSTEM_PYTHON, str(SERVERS / "app.py"))

TCP = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  selector: {app: db}
  ports: [{name: main, port: 5432, targetPort: tcp, appProtocol: tcp}]
"""

RULES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payment, namespace: shop}
spec:
  selector: {matchLabels: {app: payment}}
  action: DENY
  rules: [{from: [{source: {notPrincipals: [mesh.local/ns/shop/sa/orders]}}]}]
"""

INTRUDER = """
import ctypes, json, os, socket, sys

def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"

def connected(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)

def entered(path):
    with open(path) as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")

def spoofed(address, port):
    with socket.socket() as one:
        one.settimeout(1)
        one.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND, which needs no privilege
        one.bind((address, 0))
        one.connect(("240.64.0.1", 80))

given = json.loads(sys.argv[1])
found = {path: tried(lambda: connected(path)) for path in given["sockets"]}
found |= {path: tried(lambda: open(path).read()) for path in given["files"]}
found |= {path: tried(lambda: entered(path)) for path in given["namespaces"]}
found["raw"] = tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
found["spoofed"] = tried(lambda: spoofed(given["address"], 80))
found["who"] = os.getuid()
print(json.dumps(found))
"""


@pytest.fixture
def netns() -> Iterator[Path]:
    name = f"n3t{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield path_of(name)
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture(scope="module", params=WAYS)
def town(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """Three applications that ordinary users run, captured in one way or the other.

    They write beside the data folder, in a place to which they have a way; those of pytest are closed to them.
    """
    with tempfile.TemporaryDirectory(prefix="masche-town-") as folder, living(Path(folder)) as mesh:
        _settle(mesh, (*WAYS[request.param], "--user", "nobody"))
        yield mesh


def _settle(mesh: Mesh, options: tuple[str, ...]) -> None:
    _open_to_ordinary_users(mesh)
    mesh.apply(service("orders") + service("payment") + TCP)
    app, greets = (_readable(mesh, one) for one in ("app.py", "greets.py"))
    orders = mesh.run("orders", app, options=options, is_recorded=True)
    payment = mesh.run("payment", app, options=options, is_recorded=True)
    db = mesh.run("db", greets, options=options, protocol="tcp")
    mesh.await_ready(orders, payment, db)
    mesh.apply(RULES)


def _readable(mesh: Mesh, program: str) -> tuple[str, ...]:
    """How anybody starts a copy of a program, wherever the tests themselves are kept."""
    copy = mesh.folder / program
    copy.write_bytes((SERVERS / program).read_bytes())
    copy.chmod(0o644)
    return (SYSTEM_PYTHON, str(copy))


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def captured(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The options that ask for capture."""
    return request.param


def _open_to_ordinary_users(mesh: Mesh) -> None:
    """Let anybody write beside the data folder, which stays closed, what an application remembers for the test."""
    mesh.folder.chmod(0o1777)


def of(mesh: Mesh, name: str) -> Instance:
    return next(each for each in mesh.instances if each.service == name)


@pytest.mark.parametrize("name", ["payment", "payment.shop", "payment.shop.mesh", "payment.shop.svc.cluster.local"])
def test_a_captured_application_calls_by_name_and_is_known_at_the_other_end(town: Mesh, name: str):
    answer = calls(of(town, "orders"), f"http://{name}/pay")
    assert answer.status == 200
    assert answer.seen["name"] == "payment-1"
    assert "URI=spiffe://mesh.local/ns/shop/sa/orders" in answer.seen_header("x-forwarded-client-cert")[0]
    assert status(of(town, "db"), f"http://{name}/pay") == 403


def test_who_runs_it_as_an_ordinary_user_is_not_warned(town: Mesh):
    assert "--user NAME" not in of(town, "orders").text


def test_it_is_told_names_and_no_ports_of_a_proxy(town: Mesh):
    sheet = of(town, "orders").environment
    assert sheet["PAYMENT_URL"] == "http://payment.shop.mesh:80"
    assert sheet["DB_ADDR"] == "db.shop.mesh:5432"
    assert "HTTP_PROXY" not in sheet
    assert (sheet["USER"], sheet["HOST"]) == ("nobody", "0.0.0.0")
    assert calls(of(town, "orders"), sheet["PAYMENT_URL"]).status == 200


def test_a_workload_that_calls_itself_is_answered(town: Mesh):
    orders = of(town, "orders")
    assert calls(orders, "http://orders/").seen["name"] == "orders-1"
    assert calls(orders, f"http://127.0.0.1:{orders.app_port}/").seen["name"] == "orders-1"
    assert calls(orders, f"http://{orders.seat.address}:{orders.app_port}/").seen["name"] == "orders-1"


def test_servers_that_speak_first_are_heard_without_a_stall_in_the_mesh_and_beyond(town: Mesh):
    orders = of(town, "orders")
    assert greeting(orders, "db", 5432) == "hello from db-1"
    assert typical_wait(orders, "db", 5432) < 0.1
    machine = ".".join((*orders.seat.address.split(".")[:2], "0", str(GATEWAY)))
    with greeter(machine, "outside") as port:
        assert greeting(orders, machine, port) == "hello from outside"
        assert typical_wait(orders, machine, port) < 0.1


def test_nobody_reaches_the_application_around_its_proxy(town: Mesh):
    orders, payment = of(town, "orders"), of(town, "payment")
    before = payment.received
    assert plain(payment.seat.address, payment.app_port) == b""
    assert status(orders, f"http://{payment.seat.address}:{payment.app_port}/", within=5) == 0
    assert payment.received == before


def test_an_ordinary_user_inside_cannot_become_another_workload(town: Mesh):
    orders, payment = of(town, "orders"), of(town, "payment")
    folders = Folders(town.data)
    sockets = [str(folders.control_socket), *map(str, folders.sockets.glob("*.sock"))]
    sockets += map(str, folders.sockets.glob("*.admin"))
    assert len(sockets) >= 4
    files = [str(each) for folder in (orders.seat_folder, payment.seat_folder) for each in folder.glob("*.json")]
    assert any(each.endswith("identity.json") for each in files)
    namespaces = [inside(payment), "/proc/1/ns/net"]
    given = {"sockets": sockets, "files": files, "namespaces": namespaces, "address": payment.seat.address}
    found = tried_by_an_ordinary_user(orders, INTRUDER, json.dumps(given))
    assert found.pop("who") not in {0, os.getuid()}
    assert found.pop("spoofed") in {"TimeoutError", "timeout", "OSError", "ConnectionRefusedError"}
    assert set(found.values()) == {"PermissionError"}, found
    assert len(found) == len(sockets) + len(files) + len(namespaces) + 1


def test_while_its_envoy_is_down_nothing_passes_in_either_direction(start_mesh: StartMesh, captured: tuple[str, ...]):
    mesh = start_mesh()
    mesh.apply(service("orders") + service("payment"))
    orders = mesh.run("orders", APP, options=captured, is_recorded=True)
    payment = mesh.run("payment", APP, options=captured)
    mesh.await_ready(orders, payment)
    namespace, received, there = inside(orders), orders.received, payment.seat.address
    own = orders.seat.address
    pid = orders.seat.envoy_pid
    agent = mesh.agent()
    assert agent
    os.kill(agent.pid, signal.SIGSTOP)  # so that nobody brings Envoy back while we look
    try:
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_open(namespace, "240.64.0.1", 80), "Envoy is gone, and its sockets with it")
        for address, port in (("240.64.0.1", 80), ("192.0.2.1", 80), (there, payment.app_port)):
            assert not is_open(namespace, address, port)
        assert plain(own, orders.app_port) == b""
        assert orders.received == received
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    until(lambda: status(orders, "http://payment/") == 200, "calls go on once Envoy is back")


def test_in_an_adopted_namespace_only_a_table_is_added_and_it_goes_again(
    start_mesh: StartMesh, netns: Path, captured: tuple[str, ...]
):
    mesh = start_mesh()
    inner = "link add out0 type veth peer name out1\nlink set out0 addrgenmode none\n"
    inner += "link set out1 addrgenmode none\naddr add 10.9.9.9/24 dev out0\nlink set out0 up\n"
    inner += "link set out1 up\nroute add default dev out0\n"
    subprocess.run(["ip", "-n", netns.name, "-batch", "-"], input=inner, text=True, check=True)
    before = _everything(netns)
    mesh.apply(service("orders") + service("payment"))
    orders = mesh.run("orders", APP, options=(*captured, "--netns", netns.name))
    payment = mesh.run("payment", APP)
    mesh.await_ready(orders, payment)
    assert inside(orders) == str(netns)
    assert calls(orders, "http://payment/").status == 200
    refused = mesh.run("refused", APP, options=(*captured, "--netns", netns.name))
    assert refused.wait() == 125
    assert "belongs to shop/orders-" in refused.text
    orders.terminate()
    assert orders.wait() == 0
    assert _everything(netns) == before


def _everything(netns: Path) -> str:
    looks = ("ip -br addr", "ip route show table all", "nft list ruleset", "ss -Hlntu")
    said = [
        subprocess.run(["nsenter", f"--net={netns}", *look.split()], capture_output=True, text=True, check=True).stdout
        for look in looks
    ]
    return "\n".join(said)


@pytest.fixture
def spare() -> Iterator[str]:
    """One more address of this machine, for a test alone."""
    address = f"198.18.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
    subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    yield address
    subprocess.run(["ip", "addr", "del", f"{address}/32", "dev", "lo"], check=True)


def test_who_has_only_an_address_is_known_by_it(start_mesh: StartMesh, captured: tuple[str, ...], spare: str):
    mesh = start_mesh()
    mesh.apply(service("orders") + service("payment"))
    orders = mesh.run("orders", APP, options=(*captured, "--workload-address", spare))
    payment = mesh.run("payment", APP, options=captured)
    mesh.await_ready(orders, payment)
    assert orders.environment["HOST"] == spare
    answer = calls_from(spare, looked_up(spare, "payment.shop.mesh"))
    assert answer.seen["name"] == "payment-1"
    assert "URI=spiffe://mesh.local/ns/shop/sa/orders" in answer.seen_header("x-forwarded-client-cert")[0]
    answer = calls(payment, "http://orders/")
    assert answer.seen["name"] == "orders-1"
    assert "URI=spiffe://mesh.local/ns/shop/sa/payment" in answer.seen_header("x-forwarded-client-cert")[0]
    table = names_of(mesh.data).host_table
    assert table in _tables()
    orders.terminate()
    assert orders.wait() == 0
    assert table not in _tables()
    refused = mesh.run("refused", APP, options=(*captured, "--workload-address", "127.0.0.9"))
    assert refused.wait() == 125
    assert "ip address add" in refused.text


def _tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def test_cleanup_takes_away_what_was_left_of_killed_processes_and_refuses_while_they_run(
    start_mesh: StartMesh, captured: tuple[str, ...]
):
    mesh = start_mesh()
    mesh.apply(service("orders"))
    orders = mesh.run("orders", APP, options=captured)
    mesh.await_ready(orders)
    names = names_of(mesh.data)
    refused = mesh.masche("agent", "--cleanup")
    assert refused.returncode == 75
    agent = mesh.agent()
    assert agent
    assert f"kill {agent.pid}" in refused.stdout
    envoy = orders.seat.envoy_pid
    os.kill(agent.pid, signal.SIGSTOP)  # it must not see that its runner ends
    for pid in (orders.process.pid, agent.pid):
        os.kill(pid, signal.SIGKILL)
    orders.process.wait(20)
    assert apply.namespaces_like(names.namespaces)
    until(lambda: mesh.agent() is None and not Path(f"/proc/{agent.pid}/exe").exists(), "the agent is gone")
    cleaned = mesh.masche("agent", "--cleanup")
    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    assert f"(pid {envoy})" in cleaned.stdout
    assert not apply.namespaces_like(names.namespaces)
    assert not apply.links_like(names.links)
    assert not apply.has_link(names.bridge)
    assert not Folders(mesh.data).agent.exists()
    again = mesh.masche("agent", "--cleanup")
    assert again.returncode == 0
    assert "nothing" in again.stdout


def test_an_orderly_end_leaves_nothing(start_mesh: StartMesh, captured: tuple[str, ...]):
    mesh = start_mesh()
    mesh.apply(service("orders"))
    orders = mesh.run("orders", APP, options=captured)
    mesh.await_ready(orders)
    names = names_of(mesh.data)
    assert "--user NAME" in orders.text
    assert apply.namespaces_like(names.namespaces) == (f"{names.namespaces}{NAMESPACE}.{orders.seat.workload[5:]}",)
    orders.terminate()
    assert orders.wait() == 0
    assert not apply.namespaces_like(names.namespaces)
    assert not apply.links_like(names.links)
    assert not apply.has_link(names.bridge)


def test_an_agent_that_may_not_set_up_capture_says_what_it_lacks_and_what_works_instead(
    start_mesh: StartMesh, captured: tuple[str, ...]
):
    mesh = start_mesh()
    mesh.apply(service("orders"))
    without = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    refused = mesh.masche("run", "--service", "orders", *captured, "--", "true", under=without)
    assert stop_agent(Folders(mesh.data))
    assert refused.returncode == 125
    assert "has no CAP_SYS_ADMIN" in refused.stderr
    assert "--placement library" in refused.stderr
    assert not apply.namespaces_like(names_of(mesh.data).namespaces)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--netns", "there"), "--capture or --placement node"),
        (("--exclude-uid", "nobody"), "--capture or --placement node"),
        (("--capture", "--placement", "library"), "there is none"),
        (("--capture", "--strict"), "--strict"),
        (("--capture", "--exclude-outbound-address", "there"), "no address or network"),
        (("--capture", "--exclude-uid", "n3t-nobody"), "user of this machine"),
    ],
)
def test_what_cannot_be_had_together_is_said(words: tuple[str, ...], said: str, tmp_path: Path):
    done = Mesh(tmp_path).masche("run", "--service", "orders", *words, "--", "true")
    assert done.returncode == 2
    assert said in done.stderr
