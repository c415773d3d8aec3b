"""What one workload's place does not allow is refused for that workload alone: everybody else of its Envoy serves on.

Something in a namespace that was made by others has the port on which Envoy takes what leaves. Items B1, B2 on a node.
"""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from e2e.calling import status_of
from e2e.load import Load
from e2e.mesh import ON_THE_NODE, Instance, Mesh, service
from e2e.waiting import until
from masche.agent.capture.rules import OUTBOUND_PORT
from masche.agent.capture.sockets import open_in

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]

WORDS = "Address already in use"


@pytest.fixture
def adopted() -> Iterator[str]:
    """The name of a namespace that is not masche's, with a way out."""
    name = f"nr{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        setup = "link set lo up\nlink add out type veth peer name end\nlink set out up\nlink set end up\n"
        setup += "address add 10.77.0.2/24 dev out\nroute add default via 10.77.0.1\n"
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=setup, text=True, check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture(scope="module")
def others(mesh: Mesh) -> list[Instance]:
    mesh.apply(service("orders"))
    found = [mesh.run("orders", options=ON_THE_NODE), mesh.run("caller", options=ON_THE_NODE)]
    mesh.await_ready(*found)
    until(lambda: found[1].within(lambda: status_of("http://orders/")) == 200, "orders answers")
    return found


def taken(namespace: str) -> socket.socket:
    """Somebody who has Envoy's port there."""
    stranger = open_in(f"/var/run/netns/{namespace}")
    stranger.bind(("0.0.0.0", OUTBOUND_PORT))
    stranger.listen()
    return stranger


def findings(mesh: Mesh) -> dict[str, dict[str, str]]:
    told = json.loads(mesh.masche("check", "-o", "json").stdout)["findings"]
    return {each["code"]: each for each in told}


def test_a_refused_listener_of_one_workload_disturbs_nobody_is_named_and_heals(
    mesh: Mesh, others: list[Instance], adopted: str
) -> None:
    caller = others[1]
    with closing(taken(adopted)), Load("http://orders/", rate=50, namespace=caller.netns) as load:
        doomed = mesh.run("doomed", options=(*ON_THE_NODE, "--netns", adopted))
        until(lambda: WORDS in doomed.text, "whoever started it is told why it waits")
        seat = doomed.seat.workload
        until(lambda: WORDS in mesh.masche("status").stdout, "status says it")
        status = mesh.masche("status").stdout
        assert f"{seat} rejected capture/{seat}: " in status
        assert status.count(WORDS) == 1, "others are said to reject it"
        check = findings(mesh)
        assert check["rejections"]["level"] == "error"
        assert f"{seat} rejects capture/{seat}: " in check["rejections"]["message"]
        assert WORDS in check["rejections"]["message"]
        assert check["proxies"]["level"] == "ok", check["proxies"]
        assert [each.state for each in mesh.ready("orders")] == ["READY"]
        newcomer = mesh.run("orders", name="newcomer", options=ON_THE_NODE)
        mesh.await_ready(newcomer)
        until(lambda: load.servers()["newcomer"], "a newcomer is called")
    mesh.await_ready(doomed)
    assert WORDS not in mesh.masche("status").stdout
    assert findings(mesh)["rejections"]["level"] == "ok"
    assert doomed.reaches("orders")
    load.assert_none_failed()
    for each in (doomed, newcomer):
        each.terminate()
        assert each.wait() == 0
