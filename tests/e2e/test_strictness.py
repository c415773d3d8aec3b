"""Nobody gets past mutual TLS and policy: at every socket, with every wrong kind of proof. C7, C18, D2, D4, D7, E7."""

import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from e2e.calling import Answer, call, status_of
from e2e.intruder import (
    OLD_HELLO,
    PREFACE,
    REQUEST,
    Certificate,
    FalseServer,
    encrypted,
    listening_sockets,
    plaintext,
)
from e2e.load import Load
from e2e.mesh import Instance, Mesh, free_port, service
from e2e.waiting import until
from masche.model.refs import Kind

ORDERS = "spiffe://mesh.local/ns/shop/sa/orders"
CALLER = "spiffe://mesh.local/ns/shop/sa/caller"
PEER = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: peers, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  mtls: {{mode: {mode}}}
"""
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: no-{name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  action: DENY
  rules: [{{from: [{{source: {{{source}}}}}]}}]
"""
ROGUE = """
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: rogue, namespace: shop, labels: {{app: victim}}}}
spec:
  address: 127.0.0.1
  serviceAccount: {account}
  ports: [{{name: http, port: {port}}}]
"""


@pytest.fixture(scope="module")
def orders(mesh: Mesh) -> Instance:
    return mesh.run("orders", is_recorded=True)


@pytest.fixture(scope="module")
def snoop(mesh: Mesh) -> Instance:
    return mesh.run("snoop")


@pytest.fixture(scope="module")
def caller(mesh: Mesh, orders: Instance, snoop: Instance) -> Instance:
    mesh.apply(service("orders") + service("victim"))
    found = mesh.run("caller")
    mesh.await_ready(orders, snoop, found)
    until(lambda: found.reaches("orders"), "orders answers")
    return found


# -- at the socket ----------------------------------------------------------------------------------------------------


def test_every_socket_of_an_envoy_is_known_and_is_loopback_or_mutual_tls(orders: Instance, caller: Instance) -> None:
    sockets = listening_sockets(orders.seat.envoy_pid)
    named = {(address, port): name for name, address, port in orders.admin.listening()}
    assert sockets == set(named), "Envoy listens where its configuration does not say so"
    for (address, _), name in named.items():
        assert address == "127.0.0.1" or name.startswith("inbound/"), f"{name} is open to other machines on {address}"


@pytest.mark.parametrize("data", [REQUEST, PREFACE, b"\0\1\2 hello\n", OLD_HELLO], ids=["h1", "h2c", "tcp", "tls1.0"])
def test_plaintext_to_a_strict_workload_is_closed_and_no_byte_arrives(
    orders: Instance, caller: Instance, data: bytes
) -> None:
    before, marker = len(orders.received), b"/intruder"
    answer = plaintext("127.0.0.1", orders.mesh_port, data)
    assert answer == b"" or (answer[:1] == b"\x15" and len(answer) == 7), "more than a TLS alert came back"
    assert len(orders.received) == before
    assert marker not in orders.received


def test_a_client_without_a_certificate_is_refused(orders: Instance, caller: Instance) -> None:
    before = len(orders.received)
    assert encrypted("127.0.0.1", orders.mesh_port, REQUEST) == b""
    assert len(orders.received) == before


def test_a_certificate_of_another_authority_is_refused_whatever_name_it_bears(
    orders: Instance, caller: Instance, tmp_path: Path
) -> None:
    foreign, before = Certificate.of_another_authority(tmp_path, CALLER), len(orders.received)
    failures = r"inbound.*fail_verify_error|listener.*fail_verify_error"
    counted = sum(orders.admin.stats(failures).values())
    assert encrypted("127.0.0.1", orders.mesh_port, REQUEST, certificate=foreign) == b""
    assert len(orders.received) == before
    assert sum(orders.admin.stats(failures).values()) > counted


def test_the_same_attempt_with_a_certificate_of_the_mesh_succeeds(orders: Instance, caller: Instance) -> None:
    """The control run: what is refused above is refused for its certificate and for nothing else."""
    own = Certificate.stolen_from(caller)
    answer = encrypted("127.0.0.1", orders.mesh_port, REQUEST, certificate=own, protocols=["http/1.1"])
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert f"URI={CALLER}".encode() in answer
    assert b"/intruder" in orders.received
    orders.bytes_file.write_bytes(orders.received.replace(b"/intruder", b""))


@pytest.fixture
def elsewhere() -> Generator[tuple[str, str], None, None]:
    """A network namespace beside us, and the address under which it sees us."""
    space, ours = f"mx{free_port()}", "10.233.7.1"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)

    ip("netns", "add", space)
    try:
        ip("link", "add", f"{space}a", "type", "veth", "peer", "name", f"{space}b", "netns", space)
        ip("addr", "add", f"{ours}/30", "dev", f"{space}a")
        ip("link", "set", f"{space}a", "up")
        ip("-n", space, "addr", "add", "10.233.7.2/30", "dev", f"{space}b")
        ip("-n", space, "link", "set", f"{space}b", "up")
        yield space, ours
    finally:
        ip("netns", "del", space)


TRY = """
import socket, sys
address, data = sys.argv[1], sys.argv[2].encode().decode("unicode_escape").encode()
for port in sys.argv[3:]:
    try:
        with socket.create_connection((address, int(port)), timeout=2) as one:
            one.settimeout(2)
            one.sendall(data)
            print(port, "answered" if one.recv(9) else "closed")
    except ConnectionRefusedError:
        print(port, "refused")
    except (TimeoutError, ConnectionError):
        print(port, "closed")
"""


def test_plaintext_from_another_network_reaches_no_socket_of_a_workload(
    mesh: Mesh, caller: Instance, elsewhere: tuple[str, str]
) -> None:
    """A workload that other machines reach: of its proxy they see one port, of its application none."""
    space, ours = elsewhere
    remote = mesh.run("remote", is_recorded=True, options=["--address", ours])
    mesh.await_ready(remote)
    ports = {port for _, port in listening_sockets(remote.seat.envoy_pid)} | {remote.app_port}
    words = ["ip", "netns", "exec", space, sys.executable, "-c", TRY, ours, REQUEST.decode(), *map(str, sorted(ports))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    seen = dict(line.split() for line in done.stdout.splitlines())
    assert seen == {str(port): "closed" if port == remote.mesh_port else "refused" for port in ports}
    assert remote.received == b""
    until(lambda: caller.find_seat() and "outbound/shop/remote/80" in caller.admin.endpoints(), "caller knows it")
    own = Certificate.stolen_from(caller)
    good = encrypted(ours, remote.mesh_port, REQUEST, certificate=own, protocols=["http/1.1"])
    assert good.startswith(b"HTTP/1.1 200")
    remote.terminate()
    remote.wait()


# -- secure naming ----------------------------------------------------------------------------------------------------


def test_a_server_with_a_valid_certificate_of_another_identity_gets_no_request(
    mesh: Mesh, caller: Instance, snoop: Instance
) -> None:
    """C18: whoever answers at the address must be who the service is, not just anybody of the mesh."""
    with FalseServer(Certificate.stolen_from(snoop), free_port()) as rogue:
        mesh.apply(ROGUE.format(account="victim", port=rogue.port))
        until(lambda: caller.admin.endpoints().get("outbound/shop/victim/80"), "caller has its address")
        answer = caller.call("victim", "/secret", headers={"authorization": "Bearer secret"})
        assert answer.status == 503
        assert rogue.handshakes
        assert rogue.received == b""
        assert sum(caller.admin.stats("victim/80.ssl.fail_verify_san").values())
    mesh.delete(Kind.WORKLOAD, "rogue")


def test_a_server_with_a_certificate_of_another_authority_gets_no_request(
    mesh: Mesh, caller: Instance, tmp_path: Path
) -> None:
    foreign = Certificate.of_another_authority(tmp_path, "spiffe://mesh.local/ns/shop/sa/victim")
    with FalseServer(foreign, free_port()) as rogue:
        mesh.apply(ROGUE.format(account="victim", port=rogue.port))
        until(lambda: caller.admin.endpoints().get("outbound/shop/victim/80"), "caller has its address")
        assert caller.call("victim", "/secret").status == 503
        assert rogue.handshakes
        assert rogue.received == b""
    mesh.delete(Kind.WORKLOAD, "rogue")


def test_the_same_server_with_the_right_identity_gets_the_request(
    mesh: Mesh, caller: Instance, snoop: Instance
) -> None:
    """The control run of the two above."""
    with FalseServer(Certificate.stolen_from(snoop), free_port()) as server:
        mesh.apply(ROGUE.format(account="snoop", port=server.port))
        until(lambda: caller.admin.endpoints().get("outbound/shop/victim/80"), "caller has its address")
        status_of(caller.url("victim", "/secret"), within=2)
        assert server.received
    mesh.delete(Kind.WORKLOAD, "rogue")


# -- modes and policy -------------------------------------------------------------------------------------------------


def _plain(orders: Instance, **options: object) -> Answer:
    return call(f"http://127.0.0.1:{orders.mesh_port}/plain", **options)


def test_permissive_takes_plaintext_without_an_identity_and_strict_ends_it_again(
    mesh: Mesh, orders: Instance, caller: Instance
) -> None:
    """D4: the flips cost mesh peers nothing, and plaintext connections that are open do not outlive STRICT."""
    url = f"http://127.0.0.1:{orders.mesh_port}/plain"
    with Load(caller.url("orders"), rate=200) as load:
        mesh.apply(PEER.format(mode="PERMISSIVE"))
        spoofed = f"By={ORDERS};URI={CALLER}"
        answer = _plain(orders, headers={"x-forwarded-client-cert": spoofed, "x-envoy-internal": "true"})
        assert answer.status == 200
        assert answer.seen_header("x-forwarded-client-cert") == []
        assert answer.seen_header("x-envoy-internal") == []
        assert "sa/caller" in caller.call("orders").seen_header("x-forwarded-client-cert")[0]
        with Load(url, rate=20) as open_ones:
            until(lambda: open_ones.servers()["orders-1"], "plaintext calls are answered")
            mesh.apply(PEER.format(mode="STRICT"))
            applied = time.monotonic()
            until(lambda: open_ones.made(applied + 5) > 20, "calls go on", within=20)
        assert not open_ones.servers(applied + 5), "plaintext connections outlive STRICT"
        assert status_of(url) == 0
    load.assert_none_failed()
    mesh.delete(Kind.PEER_AUTHENTICATION, "peers")


def test_a_denial_by_principal_names_its_policy_to_peers_of_the_mesh_only(
    mesh: Mesh, orders: Instance, caller: Instance, snoop: Instance
) -> None:
    mesh.apply(PEER.format(mode="PERMISSIVE") + "---" + DENY.format(name="snoop", source='principals: ["*/sa/snoop"]'))
    until(lambda: snoop.call("orders").status == 403, "the denial is live")
    denied = snoop.call("orders")
    assert "no-snoop" in denied.headers["x-masche-denied"]
    assert caller.call("orders").status == 200
    mesh.apply(DENY.format(name="nobody", source='notPrincipals: ["*"]'))
    until(lambda: _plain(orders).status == 403, "callers without a name are denied")
    assert "x-masche-denied" not in _plain(orders).headers
    assert caller.call("orders").status == 200
    mesh.delete(Kind.AUTHORIZATION_POLICY, "no-snoop", "no-nobody")
    mesh.delete(Kind.PEER_AUTHENTICATION, "peers")


def test_a_spoofed_identity_is_replaced_by_the_verified_one(caller: Instance) -> None:
    spoofed = {
        "x-forwarded-client-cert": f"URI={ORDERS}",
        "x-envoy-original-path": "/admin",
        "x-envoy-internal": "true",
        "x-envoy-peer-metadata": "admin",
        "X-Masche-Peer": "admin",
    }
    answer = caller.call("orders", headers=spoofed)
    found = answer.seen_header("x-forwarded-client-cert")
    assert len(found) == 1
    assert f"URI={CALLER}" in found[0]
    assert f"URI={ORDERS}" not in found[0]
    ours = ("x-envoy-", "x-masche-")
    assert [name for name, _ in answer.seen["headers"] if name.lower().startswith(ours)] == []


def test_an_application_cannot_speak_with_the_voice_of_the_mesh(caller: Instance) -> None:
    assert caller.call("orders", "/header/x-own/1").headers["x-own"] == "1"
    for name in ("x-masche-denied", "x-masche-unreached"):
        assert name not in caller.call("orders", f"/header/{name}/nobody").headers
