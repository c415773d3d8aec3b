"""Many identities on one Envoy are never mixed up, and a workload gets at nothing of another one. Item D9."""

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections import Counter

import pytest

from e2e.calling import status_of
from e2e.mesh import ON_THE_NODE, Instance, Mesh, service
from e2e.waiting import until
from masche.agent.capture.sockets import in_namespace
from masche.agent.folders import Folders

IS_LONG = os.environ.get("MASCHE_LONG") == "1"
CALLERS = 10
CALLS = 100_000 if IS_LONG else 10_000
pytestmark = [pytest.mark.root, pytest.mark.timeout(900 if IS_LONG else 240)]

ONLY_ONE = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-one, namespace: shop}
spec:
  selector: {matchLabels: {app: guarded}}
  rules: [{from: [{source: {principals: [mesh.local/ns/shop/sa/caller-0]}}]}]
"""


@pytest.fixture(scope="module")
def callers(mesh: Mesh) -> list[Instance]:
    mesh.apply(service("orders") + service("aside") + service("guarded"))
    callees = [mesh.run("orders", options=ON_THE_NODE), mesh.run("guarded", options=ON_THE_NODE), mesh.run("aside")]
    found = [mesh.run(f"caller-{index}", options=ON_THE_NODE) for index in range(CALLERS)]
    mesh.await_ready(*callees, *found)
    mesh.apply(ONLY_ONE)
    for each in found:
        until(lambda each=each: each.within(lambda: status_of("http://aside/")) == 200, "aside answers")
        until(lambda each=each: each.within(lambda: status_of("http://orders/")) == 200, "orders answers")
    return found


async def _call(address: str, streams: "tuple[asyncio.StreamReader, asyncio.StreamWriter] | None") -> tuple:
    """One request; on a new connection if there is none."""
    reader, writer = streams or await asyncio.open_connection(address, 80)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(next(line for line in head.lower().split("\r\n") if line.startswith("content-length")).split(":")[1])
    body = await reader.readexactly(length)
    shown = {name.lower(): value for name, value in json.loads(body)["headers"]}
    return shown["x-forwarded-client-cert"].rpartition("URI=")[2], (reader, writer)


async def _calls(address: str, count: int, each: int) -> Counter[str]:
    """``count`` calls, ``each`` on a connection of their own: the port that one leaves is soon somebody else's."""
    found: Counter[str] = Counter()
    for _ in range(count // each):
        streams = None
        for _ in range(each):
            peer, streams = await _call(address, streams)
            found[peer] += 1
        if streams:
            streams[1].close()
    return found


async def _together(address: str, count: int) -> Counter[str]:
    """Half of them on new connections each, half on connections that are kept for a while; four at a time."""
    parts = await asyncio.gather(*(_calls(address, count // 4, each) for each in (1, 1, 25, 25)))
    return sum(parts, Counter())


@pytest.mark.parametrize("callee", ["orders", "aside"])
def test_no_call_ever_arrives_under_the_identity_of_another(callers: list[Instance], callee: str) -> None:
    """Inside of one Envoy, and with mutual TLS from it to a sidecar: each of ten workloads calls at once."""
    address = callers[0].within(lambda: socket.gethostbyname(callee))
    seen: dict[str, Counter[str]] = {}

    def one(caller: Instance, namespace: str) -> None:
        seen[caller.service] = in_namespace(namespace, lambda: asyncio.run(_together(address, CALLS // 2 // CALLERS)))

    threads = [threading.Thread(target=one, args=(each, each.netns)) for each in callers]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    wanted = CALLS // 2 // CALLERS // 4 // 25 * 25 * 4
    assert seen.keys() == {each.service for each in callers}
    for name, peers in seen.items():
        assert peers.keys() == {f"spiffe://mesh.local/ns/shop/sa/{name}"}, peers
        assert peers.total() >= wanted


def test_a_policy_lets_in_whom_it_names_and_nobody_else_of_the_same_node(callers: list[Instance]) -> None:
    until(lambda: callers[1].within(lambda: status_of("http://guarded/")) == 403, "the policy holds")
    found = [each.within(lambda: status_of("http://guarded/")) for each in callers]
    assert found == [200, *[403] * (CALLERS - 1)]


INTRUSION = """
import json, socket, sys
got = []
for path in sys.argv[1:]:
    try:
        if path.endswith("json"):
            open(path)
        else:
            socket.socket(socket.AF_UNIX).connect(path)
    except PermissionError:
        continue
    got.append(path)
print(json.dumps(got))
"""


def test_a_user_of_a_workload_reaches_no_socket_and_no_key_of_the_agent(mesh: Mesh, callers: list[Instance]) -> None:
    """Neither Envoy's admin socket nor that of its secrets, nor the agent's, nor what is kept on disk."""
    folders = Folders(mesh.data)
    targets = [folders.agent_socket, folders.relay_socket, folders.names_socket, folders.sockets / "node.admin"]
    targets += [kept for each in folders.seats.iterdir() if (kept := each / "identity.json").exists()]
    assert len(targets) > CALLERS
    assert all(each.exists() for each in targets)
    inside = ["nsenter", f"--net={callers[0].netns}"]
    python = ["/usr/bin/python3", "-c", INTRUSION, *map(str, targets)]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    as_root = subprocess.run([*inside, *python], capture_output=True, text=True, check=True)
    as_user = subprocess.run([*inside, *user, *python], capture_output=True, text=True, check=True)
    assert (len(json.loads(as_root.stdout)), json.loads(as_user.stdout)) == (len(targets), [])


def test_a_check_has_every_workload_make_a_call_and_sees_as_whom(mesh: Mesh, callers: list[Instance]) -> None:
    told = json.loads(mesh.masche("check", "--identities", "-o", "json").stdout)["findings"]
    [finding] = [each for each in told if each["code"] == "identities"]
    assert (finding["level"], finding["message"]) == ("ok", f"{len(callers) + 2} asked")
