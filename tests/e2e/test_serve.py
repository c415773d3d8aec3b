"""Applications that serve by the library, called by sidecars: who gets in, what is said, and that nothing is lost."""

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from e2e.intruder import REQUEST, Certificate, encrypted, plaintext
from e2e.load import Load
from e2e.mesh import Instance, Mesh, free_port, service
from e2e.served import Served, serve, start
from e2e.waiting import until
from masche.cli.stage import shown_certificate
from masche.model.refs import Kind

PLANE = ("--leaf-ttl", "20s")
CERTIFICATES = 3 if os.environ.get("MASCHE_LONG") == "1" else 2  # each is shown for 10 s
CALLER = "spiffe://mesh.local/ns/shop/sa/caller"
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{from: [{source: {principals: ["mesh.local/ns/shop/sa/caller"]}}], to: [{operation: {paths: [/secret]}}]}]
"""
PEERS = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: peers, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  mtls: {mode: PERMISSIVE}
"""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    mesh.apply("---".join(service(name, target="http") for name in ("orders", "other")))
    one = mesh.run("caller", has_port=True)
    mesh.await_ready(one)
    return one


@pytest.fixture(scope="module")
def orders(mesh: Mesh, caller: Instance) -> Served:
    one = serve(mesh, "orders", "--health", "http:/healthz").await_ready()
    until(lambda: caller.reaches("orders"), "orders answers its caller")
    return one


def test_a_sidecar_calls_it_over_mutual_tls_and_it_knows_its_caller(orders: Served, caller: Instance):
    answer = caller.call("orders", "/a//b?x=1")
    assert (answer.status, answer.seen["peer"], answer.seen["path"]) == (200, CALLER, "/a/b")
    [certificate] = answer.seen_header("x-forwarded-client-cert")
    assert certificate.startswith("By=spiffe://mesh.local/ns/shop/sa/orders;Hash=")
    assert certificate.endswith(f";URI={CALLER}")
    assert not [name for name, _ in answer.seen["headers"] if name.startswith("x-masche-")]
    assert "x-masche-service-us" not in answer.headers
    told = orders.status()
    assert told
    assert (told.placement, told.service, told.state) == ("library", "shop/orders", "READY")


def test_a_policy_refuses_with_the_name_of_its_rule(mesh: Mesh, orders: Served, caller: Instance):
    mesh.apply(DENY)
    refused = caller.call("orders", "/secret")
    assert (refused.status, refused.body) == (403, b"RBAC: access denied")
    assert refused.headers["x-masche-denied"] == "shop/no-secrets rules[0]"
    assert caller.call("orders", "/open").status == 200
    until(lambda: "shop/no-secrets rules[0]" in orders.text, "the log names the rule")

    def is_counted() -> bool:
        edges = mesh.client.edges(window=30).edges
        return any(
            each.denied_per_second > 0 and (each.source, each.destination) == ("shop/caller", "shop/orders")
            for each in edges
        )

    until(is_counted, "the denial is counted on its edge")
    mesh.delete(Kind.AUTHORIZATION_POLICY, "no-secrets")
    assert caller.call("orders", "/secret").status == 200


def test_strangers_and_plaintext_do_not_get_in_but_by_permission(mesh: Mesh, orders: Served, caller: Instance):
    foreign = Certificate.of_another_authority(mesh.folder, CALLER)
    assert plaintext("127.0.0.1", orders.port, REQUEST) == b""
    assert encrypted("127.0.0.1", orders.port, REQUEST) == b""
    assert encrypted("127.0.0.1", orders.port, REQUEST, certificate=foreign) == b""
    mesh.apply(PEERS)
    until(lambda: plaintext("127.0.0.1", orders.port, REQUEST).startswith(b"HTTP/1.1 200"), "plaintext is taken")
    assert b'"peer": null' in plaintext("127.0.0.1", orders.port, REQUEST)
    assert caller.call("orders").seen["peer"] == CALLER
    mesh.delete(Kind.PEER_AUTHENTICATION, "peers")
    until(lambda: plaintext("127.0.0.1", orders.port, REQUEST) == b"", "plaintext is refused again")


def test_a_websocket_is_judged_and_carried(orders: Served, caller: Instance):
    parts = urlsplit(caller.url("orders"))
    with socket.create_connection((parts.hostname or "", parts.port or 80), 10) as connection:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /chat HTTP/1.1",
            f"host: {parts.netloc}",
            "connection: upgrade",
            "upgrade: websocket",
            f"sec-websocket-key: {key}",
            "sec-websocket-version: 13",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        found = b""
        while b"\r\n\r\n" not in found:
            found += connection.recv(4096)
        assert found.startswith(b"HTTP/1.1 101")
        connection.sendall(bytes([0x81, 0x80 | 2, 0, 0, 0, 0]) + b"hi")
        said = found.partition(b"\r\n\r\n")[2]
        while f"hi from {CALLER}".encode() not in said:
            more = connection.recv(4096)
            assert more
            said += more


def test_certificates_rotate_under_load_without_a_restart_and_no_call_fails(orders: Served, caller: Instance):
    pid = caller.call("orders").seen["pid"]
    seen: set[bytes] = set()
    with Load(caller.url("orders"), rate=100) as kept, Load(caller.url("orders"), rate=20, is_fresh=True) as fresh:
        end = time.monotonic() + 40
        while len(seen) < CERTIFICATES and time.monotonic() < end:
            seen.add(shown_certificate("127.0.0.1", orders.port))
            kept.lasts(0.5)
    kept.assert_none_failed()
    fresh.assert_none_failed()
    assert len(seen) >= CERTIFICATES
    assert caller.call("orders").seen["pid"] == pid


def by_uvicorn(mesh: Mesh, name: str) -> Served:
    return serve(mesh, "other", name=name)


def by_hypercorn(mesh: Mesh, name: str) -> Served:
    return start(mesh, "other", [sys.executable, "served.py"], port=free_port(), name=name)


def by_gunicorn(mesh: Mesh, name: str) -> Served:
    port = free_port()
    worker = ["-k", "masche.library.gunicorn.Worker", "--threads", "8", "--bind", f"0.0.0.0:{port}"]
    return start(mesh, "other", [sys.executable, "-m", "gunicorn", *worker, "served:wsgi"], port=port, name=name)


@pytest.mark.parametrize("serving", [by_uvicorn, by_hypercorn, by_gunicorn])
def test_it_leaves_in_order_and_no_call_is_lost(mesh: Mesh, caller: Instance, serving: Callable[[Mesh, str], Served]):
    names = {f"{serving.__name__}-{number}" for number in (1, 2)}
    first, second = (serving(mesh, name) for name in sorted(names))
    first.await_ready()
    second.await_ready()
    until(lambda: {caller.call("other").seen["server"] for _ in range(8)} == names, "both answer")
    with Load(caller.url("other", "/slow/20"), rate=100) as load:
        load.lasts(1.0)
        assert first.end() == 0
        left_at = time.monotonic()
        load.lasts(1.0)
    load.assert_none_failed()
    assert second.is_ready()
    assert first.name not in {caller.call("other").seen["server"] for _ in range(8)}
    assert load.made(left_at) > 50
    until(lambda: first.status() is None, "nobody knows it any more")
    assert second.end() == 0


def test_a_wsgi_application_is_recognised_and_knows_its_caller(mesh: Mesh, caller: Instance):
    one = serve(mesh, "wsgi", application="served:wsgi").await_ready()
    until(lambda: caller_reaches(caller, "wsgi"), "wsgi answers its caller")
    answer = by_proxy(caller, "wsgi", "/a")
    assert (answer["peer"], answer["path"]) == (CALLER, "/a")
    assert one.end() == 0


def start_gunicorn(mesh: Mesh, service: str, *, threads: int) -> Served:
    port = free_port()
    worker = ["-k", "masche.library.gunicorn.Worker", "--threads", str(threads), "--bind", f"0.0.0.0:{port}"]
    return start(mesh, service, [sys.executable, "-m", "gunicorn", *worker, "served:wsgi"], port=port).await_ready()


def test_gunicorn_serves_in_the_mesh_and_leaves_in_order(mesh: Mesh, caller: Instance):
    one = start_gunicorn(mesh, "green", threads=4)
    until(lambda: caller_reaches(caller, "green"), "green answers its caller")
    assert by_proxy(caller, "green", "/a//b")["peer"] == CALLER
    assert plaintext("127.0.0.1", one.port, REQUEST) == b""
    assert one.end() == 0
    until(lambda: one.status() is None, "nobody knows it any more")


def test_strangers_who_stall_in_the_handshake_hold_no_thread_of_gunicorn(mesh: Mesh, caller: Instance):
    one = start_gunicorn(mesh, "stalled", threads=2)
    until(lambda: caller_reaches(caller, "stalled"), "it answers its caller")
    with ExitStack() as stack:
        strangers = [stack.enter_context(socket.create_connection(("127.0.0.1", one.port), 30)) for _ in range(8)]
        for each in strangers:
            each.sendall(b"\x16\x03\x01\x02\x00\x01")
        for _ in range(4):
            shown_certificate("127.0.0.1", one.port)  # who comes after them gets in
        assert by_proxy(caller, "stalled", "/a")["peer"] == CALLER
        strangers[0].settimeout(0)
        with pytest.raises(BlockingIOError):
            strangers[0].recv(1)
        strangers[0].settimeout(60)
        for each in strangers:
            assert each.recv(100) == b"", "whoever takes too long is thrown out"
    assert one.end() == 0


def test_gunicorn_with_several_workers_is_refused_with_the_reason(mesh: Mesh, caller: Instance):
    port = free_port()
    worker = ["-k", "masche.library.gunicorn.Worker", "--workers", "2", "--bind", f"0.0.0.0:{port}"]
    one = start(mesh, "crowd", [sys.executable, "-m", "gunicorn", *worker, "served:wsgi"], port=port)
    assert one.process.wait(20) != 0
    assert "takes one worker" in one.text


def test_hypercorn_serves_in_the_mesh_and_leaves_in_order(mesh: Mesh, caller: Instance):
    port = free_port()
    one = start(mesh, "corn", [sys.executable, "served.py"], port=port).await_ready()
    until(lambda: caller_reaches(caller, "corn"), "corn answers its caller")
    assert by_proxy(caller, "corn", "/a")["peer"] == CALLER
    assert plaintext("127.0.0.1", port, REQUEST) == b""
    assert one.end() == 0
    until(lambda: one.status() is None, "nobody knows it any more")


def test_a_port_that_is_taken_and_a_module_that_is_not_there_are_said(mesh: Mesh, orders: Served):
    taken = mesh.masche("serve", "json:dumps", "--service", "x", "--port", str(orders.port))
    assert taken.returncode == 1
    assert f"port {orders.port} of 0.0.0.0 is taken" in taken.stderr
    missing = mesh.masche("serve", "nowhere.to:app")
    assert missing.returncode == 1
    assert "there is no module 'nowhere.to'" in missing.stderr


SCRIPT = """
import httpx
from masche.library.httpx import Transport

with httpx.Client(transport=Transport()) as client:
    for path in ("/a", "/secret"):
        answer = client.get(f"http://orders{path}")
        print(answer.status_code, answer.headers.get("x-masche-denied", ""), answer.text)
"""


def test_a_script_with_the_library_calls_it_with_no_proxy_between(mesh: Mesh, orders: Served):
    mesh.apply(DENY.replace("sa/caller", "sa/script"))
    environment = mesh._environment(mesh.data) | {"MASCHE_SERVICE_ACCOUNT": "script", "MASCHE_NAMESPACE": "shop"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    [first, second] = done.stdout.splitlines()
    assert first.startswith("200 ")
    assert '"peer": "spiffe://mesh.local/ns/shop/sa/script"' in first
    assert second == "403 shop/no-secrets rules[0] RBAC: access denied"
    mesh.delete(Kind.AUTHORIZATION_POLICY, "no-secrets")


def by_proxy(caller: Instance, name: str, path: str) -> dict[str, object]:
    """Call a service by its name through the caller's explicit proxy."""
    proxy = urlsplit(caller.environment["HTTP_PROXY"])
    connection = http.client.HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=10)
    try:
        connection.request("GET", f"http://{name}{path}")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return json.loads(body)
    finally:
        connection.close()


def caller_reaches(caller: Instance, name: str) -> bool:
    try:
        return bool(by_proxy(caller, name, "/"))
    except AssertionError:
        return False
