"""What grpcio's own xDS client and server make of what the compiler tells them, in processes without code of ours."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc as grpcio
import pytest
from grpc_meshes import CANARY, ORDERS, a_mesh, policy, route, workload

from live.mesh import free_port
from live.plane import Plane, Stream
from live.programs import CALLER, SERVER, Program
from masche.compiler.endpoints import endpoints
from masche.compiler.proxyless import grpc, grpc_endpoints
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.identity import keys, shown
from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.steering import NO_STEERING, Steer, Steering
from masche.model.vantage import Dialect, Placement, Seat, SeatPort
from masche.wire import grpc_bootstrap
from masche.xds.wanted import Wanted


@dataclass
class World:
    """A control plane, an authority, and the programs that are told what a mesh means for them."""

    folder: Path
    plane: Plane
    stack: ExitStack
    authority: Authority
    programs: dict[str, int]
    steering: Steering = NO_STEERING

    def show(self, workload: str, account: str) -> None:
        """Give a workload the certificate of an account."""
        key = keys.generate()
        identity = SpiffeId.of_workload("mesh.local", "shop", account)
        issued = self.authority.sign(keys.signing_request(key), identity, now=time.time())
        files = {
            grpc_bootstrap.CERTIFICATE: issued.chain.encode(),
            grpc_bootstrap.KEY: keys.private_pem(key).reveal(),
            grpc_bootstrap.ROOTS: self.authority.bundle.pem.encode(),
        }
        shown.show(self.folder / workload, files)

    def start(self, workload: str, command: tuple[str, ...], account: str = "", port: int = 0) -> Program:
        self.programs[workload] = port
        self.show(workload, account or workload.partition("-")[0])
        file = self.folder / f"{workload}.json"
        body = grpc_bootstrap.bootstrap(
            node_id=workload,
            cluster=workload,
            zone="",
            server=f"unix:{self.plane.path}",
            certificates=self.folder / workload / shown.CURRENT,
        )
        file.write_bytes(body)
        given = {"GRPC_XDS_BOOTSTRAP": str(file), "HOST": "127.0.0.1", "PORT": str(port), "NAME": workload}
        program = Program(command, {**os.environ, **given})
        self.stack.callback(program.close)
        return program

    def tell(self, mesh: Mesh, *workloads: str) -> None:
        """Tell programs what a mesh means for them, and wait until they have it."""
        self.plane.tell({name: self.wanted(mesh, name) for name in workloads})

    def wanted(self, mesh: Mesh, workload: str) -> Wanted:
        found = mesh.workloads[Name("shop", workload)]
        told = view(mesh, stand(mesh, found, placement=Placement.LIBRARY, dialect=Dialect.GRPC))
        port = self.programs.get(workload, 0)
        ports = (SeatPort(name="grpc", app_port=port, mesh_port=port),) if port else ()
        seat = Seat(workload=found.name, bind="127.0.0.1", ports=ports)
        instances = (endpoints(mesh, self.steering, each.service, "") for each in told.clusters)
        return Wanted.of((*grpc.blobs(told), *grpc.listeners(told, seat), *map(grpc_endpoints.blob, instances)))

    def mesh(self, more: str = "") -> Mesh:
        return a_mesh(ORDERS + "".join(workload(*each) for each in self.programs.items()) + more)


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="mg") as name, ExitStack() as stack:
        folder = Path(name)
        plane = stack.enter_context(Plane(folder / "xds.sock"))
        authority = Authority.open(folder / "ca", "mesh.local", now=time.time(), audit=lambda _: None)
        yield World(folder, plane, stack, authority, {})


def test_a_client_and_a_server_of_grpcio_prove_who_they_are_to_each_other(world: World):
    server = world.start("orders-1", SERVER, port=free_port())
    caller = world.start("web", CALLER)
    world.plane.worlds |= {name: world.wanted(world.mesh(), name) for name in ("orders-1", "web")}
    server.until(lambda: server.said)
    answer = caller.ask(target="orders:80", method="/tests.Greeter/WhoAmI")
    assert answer["code"] == "OK", answer
    assert json.loads(answer["body"])["peer"] == ["spiffe://mesh.local/ns/shop/sa/web"]
    assert not world.plane.rejected
    for name in ("orders", "orders.shop", "orders.shop:80", "orders.shop.svc.cluster.local:80"):
        assert caller.ask(target=name, body="hello")["body"] == "hello"


def serving(world: World, *names: str) -> None:
    """Tell everybody the mesh, and wait until every server named serves."""
    world.plane.worlds |= {name: world.wanted(world.mesh(), name) for name in world.programs}
    for stream in tuple(world.plane.streams.values()):
        world.plane.run(_woken(stream))


def settled(ask: Callable[[], str]) -> str:
    """What is answered from now on: gRPC acknowledges what it was told some milliseconds before it goes by it."""
    answers: list[str] = []
    end = time.monotonic() + 5
    while len(answers) < 3 or len(set(answers[-3:])) > 1:
        assert time.monotonic() < end, answers
        answers.append(ask())
        time.sleep(0.005)
    return answers[-1]


async def _woken(stream: Stream) -> None:
    stream.wake()


def test_a_server_with_another_identity_than_its_service_has_is_sent_nothing(world: World):
    impostor = world.start("orders-1", SERVER, account="intruder", port=free_port())
    caller = world.start("web", CALLER)
    serving(world)
    impostor.until(lambda: impostor.said)
    answer = caller.ask(target="orders:80", wait=False, timeout=5)
    assert answer["code"] == "UNAVAILABLE"
    assert "Hostname Verification" in answer["details"] or "certificate" in answer["details"].lower(), answer


ALLOW = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  action: {action}
  rules: [{rule}]
"""


def test_policies_hold_from_the_call_after_they_are_live_and_no_longer(world: World):
    server = world.start("orders-1", SERVER, port=free_port())
    caller = world.start("web", CALLER)
    serving(world)
    server.until(lambda: server.said)

    def answer(rule: str, action: str = "DENY", **call: Any) -> str:
        world.tell(world.mesh(ALLOW.format(name="one", action=action, rule=rule)), "orders-1", "web")
        return settled(lambda: caller.ask(target="orders:80", timeout=5, **call)["code"])

    web = 'from: [{source: {principals: ["mesh.local/ns/shop/sa/web"]}}]'
    other = 'from: [{source: {principals: ["mesh.local/ns/shop/sa/other"]}}]'
    assert caller.ask(target="orders:80")["code"] == "OK"
    assert answer(f"{{{web}}}") == "PERMISSION_DENIED"
    assert answer(f"{{{other}}}") == "OK"
    assert answer(f"{{{web}}}", "ALLOW") == "OK"
    assert answer(f"{{{other}}}", "ALLOW") == "PERMISSION_DENIED"
    assert answer('{from: [{source: {namespaces: ["shop"]}}]}') == "PERMISSION_DENIED"
    assert answer('{from: [{source: {notNamespaces: ["shop"]}}]}') == "OK"
    assert answer('{to: [{operation: {paths: ["/tests.Greeter/*"]}}]}') == "PERMISSION_DENIED"
    assert answer('{to: [{operation: {paths: ["/tests.Greeter/{*}"]}}]}') == "PERMISSION_DENIED"
    assert answer('{to: [{operation: {paths: ["/{**}/Echo"]}}]}') == "PERMISSION_DENIED"
    assert answer('{to: [{operation: {paths: ["/{*}"]}}]}') == "OK"
    assert answer('{to: [{operation: {methods: ["POST"]}}]}') == "PERMISSION_DENIED"
    assert answer('{to: [{operation: {methods: ["GET"]}}]}') == "OK"
    assert answer('{to: [{operation: {hosts: ["ORDERS:80"]}}]}') == "PERMISSION_DENIED"
    assert answer('{to: [{operation: {ports: ["1"]}}]}') == "OK"
    gold = '{when: [{key: "request.headers[x-tier]", values: ["gold"]}]}'
    assert answer(gold) == "OK"
    assert answer(gold, metadata=[("x-tier", "gold")]) == "PERMISSION_DENIED"
    assert answer(gold, "ALLOW", metadata=[("x-tier", "gold")]) == "OK"
    assert answer('{when: [{key: "request.headers[x-tier]", values: ["*"]}]}', metadata=[("x-tier", "")]) != "OK"
    assert answer('{when: [{key: "source.ip", values: ["127.0.0.0/8"]}]}') == "PERMISSION_DENIED"
    assert answer('{when: [{key: "request.headers[grpc-timeout]", values: ["*"]}]}', "ALLOW") == "PERMISSION_DENIED"
    assert answer("{}") == "PERMISSION_DENIED"
    assert answer("", "ALLOW") == "PERMISSION_DENIED"
    world.tell(world.mesh(), "orders-1", "web")
    assert settled(lambda: caller.ask(target="orders:80")["code"]) == "OK"


TO_ORDERS, TO_CANARY = "{name: orders, port: 80}", "{name: canary, port: 80}"


def test_routes_decide_by_path_and_metadata_and_split_by_weight(world: World):
    servers = [world.start(name, SERVER, port=free_port()) for name in ("orders-1", "canary-1")]
    caller = world.start("web", CALLER)
    world.plane.worlds |= {name: world.wanted(world.mesh(CANARY), name) for name in world.programs}
    for server in servers:
        server.until(lambda server=server: server.said)

    def routed(rules: str) -> None:
        world.tell(world.mesh(CANARY + route(rules)), "web")
        settled(peer)

    def peer(**call: Any) -> str:
        answer = caller.ask(target="orders:80", **{"wait": False, "timeout": 5, **call})
        return answer["peer"] if answer["code"] == "OK" else answer["code"]

    assert peer(wait=True) == "orders-1"
    routed(
        f"[{{matches: [{{path: {{type: Exact, value: /tests.Greeter/WhoAmI}}}}], backendRefs: [{TO_CANARY}]}},"
        f" {{matches: [{{headers: [{{name: X-Tier, value: gold}}]}}], backendRefs: [{TO_CANARY}]}},"
        f" {{matches: [{{headers: [{{name: x-tier, type: RegularExpression, value: 's.*'}}]}}],"
        f" backendRefs: [{{name: nobody, port: 80}}]}},"
        f" {{matches: [{{path: {{type: PathPrefix, value: /other}}}}, {{method: GET}},"
        f" {{queryParams: [{{name: a, value: b}}]}}], backendRefs: [{TO_CANARY}]}},"
        f" {{backendRefs: [{TO_ORDERS}]}}]"
    )
    assert peer() == "orders-1"
    assert peer(method="/tests.Greeter/WhoAmI") == "canary-1"
    assert peer(metadata=[("x-tier", "gold")]) == "canary-1"
    assert peer(metadata=[("x-tier", "golden")]) == "orders-1"
    assert peer(metadata=[("x-tier", "silver")]) == "UNAVAILABLE"
    routed(f"[{{matches: [{{path: {{value: /tests.Greeter}}}}], backendRefs: [{TO_CANARY}]}}]")
    assert peer() == "canary-1"
    routed(f"[{{matches: [{{path: {{value: /tests.Greet}}}}], backendRefs: [{TO_CANARY}]}}]")
    assert peer() == "UNAVAILABLE"
    routed(
        "[{backendRefs: [{name: orders, port: 80, weight: 1}, {name: canary, port: 80, weight: 3}],"
        " timeouts: {request: 1s}}]"
    )
    answers = caller.ask(target="orders:80", timeout=5, times=200)
    assert {each["code"] for each in answers} == {"OK"}, answers
    peers = [each["peer"] for each in answers]
    assert 110 < peers.count("canary-1") < 185
    began = time.monotonic()
    assert peer(method="/tests.Greeter/Hang", timeout=10) == "DEADLINE_EXCEEDED"
    assert 1 <= time.monotonic() - began < 8, "the caller's own time ended it"
    routed("[{backendRefs: [{name: nobody, port: 80}]}]")
    assert peer(timeout=30) == "UNAVAILABLE", "and at once, not when the caller's time is over"


def test_endpoints_come_and_go_while_calls_go_on(world: World):
    world.start("orders-1", SERVER, port=free_port())
    caller = world.start("web", CALLER)
    serving(world)

    def peers() -> set[str]:
        return {each.get("peer", each["code"]) for each in caller.ask(target="orders:80", timeout=5, times=40)}

    assert peers() == {"orders-1"}
    world.start("orders-2", SERVER, port=free_port())
    serving(world)
    caller.until(lambda: peers() == {"orders-1", "orders-2"})
    del world.programs["orders-1"]
    serving(world)
    caller.until(lambda: peers() == {"orders-2"})


@pytest.mark.parametrize("algorithm", ["LeastRequest", "RoundRobin", "Random"])
def test_every_policy_of_a_service_is_taken_by_the_client(world: World, algorithm: str):
    world.start("orders-1", SERVER, port=free_port())
    caller = world.start("web", CALLER)
    serving(world)
    assert caller.ask(target="orders:80")["code"] == "OK"
    spec = f"""loadBalancing: {{algorithm: {algorithm}}}
  timeouts: {{request: 2s, perTry: 1s}}
  circuitBreaker: {{maxRequests: 1}}
  outlierEjection: {{errorPercent: 50, consecutiveErrors: 3}}
  retryBudget: {{percent: 30}}"""
    world.tell(world.mesh(policy(spec)), "web")
    assert caller.ask(target="orders:80")["code"] == "OK"
    answers = caller.ask(target="orders:80", method="/tests.Greeter/Hang", times=4)
    assert sorted(each["code"] for each in answers) == ["DEADLINE_EXCEEDED"] + ["UNAVAILABLE"] * 3


@pytest.mark.parametrize("algorithm", ["RingHash", "Maglev"])
def test_a_hash_keeps_equal_calls_at_one_instance(world: World, algorithm: str):
    servers = [world.start(f"orders-{number}", SERVER, port=free_port()) for number in range(1, 4)]
    caller = world.start("web", CALLER)
    spec = f"loadBalancing: {{algorithm: {algorithm}, hashOn: {{type: Header, name: x-user}}}}"
    serving(world)
    for server in servers:
        server.until(lambda server=server: server.said)
    assert caller.ask(target="orders:80")["code"] == "OK"
    world.tell(world.mesh(policy(spec)), "web")

    def peers(user: str) -> set[str]:
        return {each["peer"] for each in caller.ask(target="orders:80", metadata=[("x-user", user)], times=10)}

    users = tuple(map(str, range(12)))
    caller.until(lambda: all(len(peers(user)) == 1 for user in users))  # once gRPC goes by what it acknowledged
    before = [peers(user) for user in users]
    assert [peers(user) for user in users] == before
    assert len(set[str]().union(*before)) > 1


def test_measured_weights_of_instances_are_heeded_and_change_while_calls_go_on(world: World):
    servers = [world.start(f"orders-{number}", SERVER, port=free_port()) for number in range(1, 4)]
    caller = world.start("web", CALLER)
    serving(world)
    for server in servers:
        server.until(lambda server=server: server.said)
    assert caller.ask(target="orders:80")["code"] == "OK"

    def measured() -> list[float]:
        answers = caller.ask(target="orders:80", times=400, wait=False)
        assert {each["code"] for each in answers} == {"OK"}, answers
        peers = [each["peer"] for each in answers]
        return [peers.count(f"orders-{number}") / len(peers) for number in range(1, 4)]

    def come_to(weights: tuple[int, ...]) -> None:
        """Shares are as the weights say, to 7 percent, once gRPC goes by them."""
        named = tuple((f"shop/orders-{number}", weight) for number, weight in enumerate(weights, 1))
        world.steering = Steering(steers={(PortRef("shop", "orders", 80), ""): Steer(weights=named)})
        world.tell(world.mesh(), "web")
        wanted = [weight / sum(weights) for weight in weights]
        caller.until(lambda: all(abs(one - other) < 0.07 for one, other in zip(measured(), wanted, strict=True)))

    for weights in ((20, 100, 80), (300, 50, 50), (100, 100, 100)):
        come_to(weights)


PEER_AUTHENTICATION = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: mode}}
spec: {{mtls: {{mode: {mode}}}}}
"""


def test_a_server_takes_plaintext_only_where_nothing_else_is_wanted(world: World):
    port = free_port()
    server = world.start("orders-1", SERVER, port=port)
    serving(world)
    server.until(lambda: server.said)

    def plaintext(mode: str) -> str:
        world.tell(world.mesh(PEER_AUTHENTICATION.format(mode=mode)), "orders-1")
        return settled(partial(_in_plaintext, port))

    assert plaintext("STRICT") == "UNAVAILABLE"
    assert plaintext("DISABLE") == "OK"
    assert plaintext("PERMISSIVE") == "UNAVAILABLE"


def _in_plaintext(port: int) -> str:
    with grpcio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            channel.unary_unary("/tests.Greeter/Echo")(b"", timeout=3)
        except grpcio.RpcError as error:
            code: grpcio.StatusCode = error.code()
            return code.name
    return "OK"


def test_who_cannot_be_reached_as_a_program_is_left_out_and_the_rest_is_called(world: World):
    world.start("orders-1", SERVER, port=free_port())
    caller = world.start("web", CALLER)
    serving(world)
    outside = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mode}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: masche.dev/v1
kind: Workload
metadata: {name: bare, labels: {app: orders}}
spec: {address: 127.0.0.1, tls: DISABLE, ports: [{name: grpc, port: 9}]}
"""
    assert caller.ask(target="orders:80")["code"] == "OK"
    world.tell(world.mesh(outside), "web")
    answers = caller.ask(target="orders:80", times=40, wait=False)
    assert {each.get("peer") for each in answers} == {"orders-1"}
