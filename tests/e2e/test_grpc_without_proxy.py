"""gRPC's own xDS client and server in the mesh, with no code of ours but the bootstrap that ``masche run`` writes."""

import contextlib
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grpc
import pytest

from e2e.calling import call
from e2e.mesh import SERVERS, Instance, Mesh, free_port
from e2e.reaching import addr
from e2e.test_clients import CLIENTS
from e2e.waiting import holds, until
from live.programs import CALLER, Program
from masche.api.client import RefusalError
from masche.model.refs import Kind

PLANE = ("--leaf-ttl", "20s")
XDS_SERVER = (sys.executable, str(SERVERS / "xds_greeter.py"))
GREETER = (sys.executable, str(SERVERS / "greeter.py"))
JOINED_CALLER = (sys.executable, str(CLIENTS / "joined_caller.py"))
GUARDED_SERVER = (sys.executable, str(SERVERS / "guarded_greeter.py"))
IDLE = (sys.executable, str(CLIENTS / "idle.py"))
LIBRARY = ("--placement", "library")
WHO = "/tests.Greeter/WhoAmI"


GUARDED = """
apiVersion: v1
kind: Service
metadata: {name: guarded, namespace: shop}
spec: {selector: {app: guarded}, ports: [{name: grpc, port: 80, targetPort: grpc, appProtocol: grpc}]}
"""


@pytest.fixture(scope="module")
def orders(mesh: Mesh) -> Instance:
    """A server that uses gRPC's xDS server."""
    return mesh.run("orders", XDS_SERVER, options=LIBRARY)


@pytest.fixture(scope="module")
def greeter(mesh: Mesh) -> Instance:
    """A server behind a sidecar."""
    return mesh.run("greeter", GREETER, protocol="grpc")


@pytest.fixture(scope="module")
def proxied(mesh: Mesh, orders: Instance, greeter: Instance) -> Instance:
    """A caller behind a sidecar, which has a local port for each service that there is when it starts."""
    mesh.await_ready(orders, greeter)
    mesh.apply(GUARDED)
    return mesh.run("shopper", IDLE, has_port=False)


@pytest.fixture(scope="module")
def web(mesh: Mesh, orders: Instance, greeter: Instance, proxied: Instance) -> Iterator[Program]:
    """A caller that uses gRPC's xDS client."""
    caller = mesh.run("web", IDLE, has_port=False, options=LIBRARY)
    mesh.await_ready(orders, greeter, proxied)
    program = Program(CALLER, caller.environment)
    try:
        yield program
    finally:
        program.close()


def who(web: Program, **question: Any) -> dict[str, Any]:
    answer = web.ask(target="orders:80", method=WHO, **question)
    assert answer["code"] == "OK", answer
    return json.loads(answer["body"])


@contextlib.contextmanager
def calling(web: Program) -> Generator[list[dict[str, Any]]]:
    """Call without a pause while the block runs; what was answered is in the list."""
    answers: list[dict[str, Any]] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            answers.extend(web.ask(target="orders:80", times=8, timeout=5, wait=False))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield answers
    finally:
        over.set()
        caller.join()


def test_two_programs_without_a_proxy_prove_who_they_are_to_each_other(web: Program):
    assert who(web)["peer"] == ["spiffe://mesh.local/ns/shop/sa/web"]
    assert web.ask(target="orders.shop.svc.cluster.local:80", body="hello")["body"] == "hello"


def test_a_program_without_a_proxy_calls_one_behind_a_sidecar(web: Program):
    answer = web.ask(target="greeter:80", method="/tests.Greeter/Describe", body="hello")
    assert answer["code"] == "OK", answer
    seen = dict(json.loads(answer["body"])["metadata"])
    assert seen["x-forwarded-client-cert"].endswith("URI=spiffe://mesh.local/ns/shop/sa/web")


def test_a_program_behind_a_sidecar_calls_one_without_a_proxy(web: Program, proxied: Instance):
    host, port = addr(proxied, "orders")
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        answer = json.loads(channel.unary_unary(WHO)(b"", timeout=10, wait_for_ready=True))
    assert answer["peer"] == ["spiffe://mesh.local/ns/shop/sa/shopper"]


def test_nobody_without_a_certificate_of_the_mesh_reaches_its_port(web: Program, orders: Instance):
    with grpc.insecure_channel(f"127.0.0.1:{orders.app_port}") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(WHO)(b"", timeout=3)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-web, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{from: [{source: {principals: ["mesh.local/ns/shop/sa/web"]}}], to: [{operation: {paths: ["*/WhoAmI"]}}]}]
"""


def test_a_policy_denies_and_lifting_it_allows(mesh: Mesh, web: Program, proxied: Instance):
    def code(method: str = WHO) -> str:
        return web.ask(target="orders:80", method=method, timeout=5)["code"]

    assert code() == "OK"
    mesh.apply(DENY)
    until(lambda: code() == "PERMISSION_DENIED", "the policy holds")
    assert code("/tests.Greeter/Echo") == "OK"
    mesh.delete(Kind.AUTHORIZATION_POLICY, "not-web")
    until(lambda: code() == "OK", "the policy is lifted")


def test_a_replica_comes_and_goes_while_calls_go_on_and_none_fails(mesh: Mesh, web: Program, orders: Instance):
    assert who(web)["name"] == orders.name
    with calling(web) as answers:
        second = mesh.run("orders", XDS_SERVER, options=LIBRARY)
        mesh.await_ready(second)
        until(lambda: {each.get("peer") for each in answers[-40:]} == {orders.name, second.name}, "both are called")
        files = second.seat_folder / "certificates"
        assert list(files.iterdir())
        second.terminate()
        assert second.wait() == 0
        assert not list(files.iterdir()), "its key is gone with it"
        until(lambda: {each.get("peer") for each in answers[-40:]} == {orders.name}, "one is called")
    failed = [each for each in answers if each["code"] != "OK"]
    assert not failed, failed[:3]
    assert len(answers) > 100


def test_its_certificate_is_renewed_in_files_that_are_its_users_alone(web: Program, orders: Instance):
    folder = orders.seat_folder / "certificates"
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    first = who(web, fresh=True)["certificate"]
    until(lambda: who(web, fresh=True)["certificate"] != first, "the caller shows another certificate", within=30)
    assert orders.seat.not_after > time.time()


def test_a_server_guarded_by_the_library_serves_both_and_obeys_policies(mesh: Mesh, web: Program, proxied: Instance):
    port = free_port()
    who_it_is = {"MASCHE_SERVICE": "guarded", "MASCHE_NAMESPACE": "shop", "MASCHE_DATA": str(mesh.data)}
    server = Program(GUARDED_SERVER, {**os.environ, **who_it_is, "PORT": str(port), "NAME": "guarded-1"})
    try:
        server.until(lambda: server.said)
        until(lambda: web.ask(target="guarded:80", method=WHO, timeout=5)["code"] == "OK", "it answers")
        answer = json.loads(web.ask(target="guarded:80", method=WHO)["body"])
        assert answer == {"name": "guarded-1", "peer": ["spiffe://mesh.local/ns/shop/sa/web"]}
        host, number = addr(proxied, "guarded")
        with grpc.insecure_channel(f"{host}:{number}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            answer = json.loads(channel.unary_unary(WHO)(b"", timeout=10, wait_for_ready=True))
        assert answer["peer"] == ["spiffe://mesh.local/ns/shop/sa/shopper"]
        mesh.apply(DENY.replace("not-web", "not-here").replace("app: orders", "app: guarded"))
        denied = web.ask(target="guarded:80", method=WHO, timeout=5)
        assert denied["code"] == "PERMISSION_DENIED"
        assert denied["trailers"]["x-masche-denied"] == "shop/not-here rules[0]"
        assert server.end() == 0
        assert server.said[-1] == {"left": True}
    finally:
        server.close()
        with contextlib.suppress(RefusalError):
            mesh.delete(Kind.AUTHORIZATION_POLICY, "not-here")


def test_a_client_that_joins_by_itself_finds_its_servers_by_xds(mesh: Mesh, web: Program, orders: Instance):
    who_it_is = {"MASCHE_SERVICE_ACCOUNT": "loner", "MASCHE_NAMESPACE": "shop", "MASCHE_DATA": str(mesh.data)}
    loner = Program(JOINED_CALLER, {**os.environ, **who_it_is})
    try:
        answer = loner.ask()
        assert (answer["name"], answer["peer"]) == (orders.name, ["spiffe://mesh.local/ns/shop/sa/loner"])
        second = mesh.run("orders", XDS_SERVER, options=LIBRARY)
        mesh.await_ready(second)
        until(lambda: loner.ask()["name"] == second.name, "it hears of another instance")
        beside = next(each for each in mesh.status().proxies if each.workload.endswith("-grpc"))
        assert beside.is_in_sync, [(each.proxy, each.is_connected, each.is_in_sync) for each in mesh.status().proxies]
        second.terminate()
        assert second.wait() == 0
        loner.finish()
    finally:
        loner.close()
    until(lambda: not [each for each in mesh.status().proxies if "loner" in each.proxy], "it has left")


PER_TRY = """
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {name: per-try, namespace: shop}
spec: {targetRefs: [{kind: Service, name: orders}], timeouts: {perTry: 1s, request: 9s}}
"""


def test_what_it_ignores_is_said_of_the_resource_while_it_is_there(mesh: Mesh, web: Program):
    said = mesh.masche("apply", "-f", "-", stdin=PER_TRY)
    try:
        assert said.returncode == 0, said.stderr
        told = " ".join(mesh.masche("describe", "trafficpolicy", "per-try", "-n", "shop").stdout.split())
        for text in (said.stdout + said.stderr, told):
            flat = " ".join(text.split())
            assert "spec.timeouts.perTry" in flat
            assert "a try has no time of its own" in flat
            assert "timeouts.request" not in flat.replace("write timeouts.request", "")
    finally:
        mesh.delete(Kind.TRAFFIC_POLICY, "per-try")


def test_status_shows_its_placement_and_that_it_is_in_sync(mesh: Mesh, web: Program, orders: Instance):
    found = orders.status()
    assert found
    assert found.placement == "library"
    assert found.is_in_sync
    until(lambda: (now := orders.status()) and now.certificate_expires_at > time.time(), "its certificate is shown")
    assert mesh.masche("status").stdout.count("library") >= 2


def test_a_dead_agent_costs_no_call_and_the_next_one_takes_the_seats_again(mesh: Mesh, web: Program, orders: Instance):
    assert who(web)["name"] == orders.name
    before = mesh.agent()
    assert before
    with calling(web) as answers:
        os.kill(before.pid, signal.SIGKILL)
        until(lambda: (now := mesh.agent()) and now.pid != before.pid and orders.find_seat(), "another agent is there")
        mesh.await_ready(orders)
        mesh.apply(DENY.replace("WhoAmI", "Nothing"))
    assert {each["code"] for each in answers} == {"OK"}
    until(
        lambda: web.ask(target="orders:80", method="/tests.Greeter/Nothing", timeout=5)["code"] == "PERMISSION_DENIED",
        "what is new comes by the new agent",
    )
    mesh.delete(Kind.AUTHORIZATION_POLICY, "not-web")


def test_an_agent_without_an_envoy_serves_programs_and_says_why_it_serves_nobody_else(
    start_mesh: Callable[..., Mesh], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MASCHE_ENVOY", "/nowhere/envoy")
    mesh = start_mesh()
    orders = mesh.run("orders", XDS_SERVER, options=LIBRARY)
    mesh.await_ready(orders)
    agent = mesh.agent()
    assert agent
    assert call(agent.readiness).status == 200
    refused = mesh.run("web", IDLE, has_port=False)
    assert refused.wait() == 125
    assert "/nowhere/envoy is not an executable file" in refused.text
    asked = mesh.run("asked", XDS_SERVER, options=(*LIBRARY, "--health", "grpc"))
    assert asked.wait() == 125
    assert "use tcp or none" in asked.text


def test_calls_go_on_without_a_control_plane_and_follow_the_next_one(mesh: Mesh, web: Program, orders: Instance):
    assert who(web)["name"] == orders.name
    mesh.kill_plane()
    holds(lambda: web.ask(target="orders:80", timeout=5)["code"] == "OK", "calls go on", lasting=1.5)
    mesh.start_plane()
    mesh.await_ready(orders)
    second = mesh.run("orders", XDS_SERVER, options=LIBRARY)
    mesh.await_ready(second)
    until(lambda: web.ask(target="orders:80", timeout=5).get("peer") == second.name, "the new one is called")
    second.terminate()
    assert second.wait() == 0
