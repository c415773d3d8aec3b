"""Programs with the library call workloads behind the one Envoy of a machine: as sidecars call sidecars.

Mutual TLS with the workload that is meant, though one Envoy answers for all; it sees who calls, and its policies hold.
"""

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
import requests

from conformance import test_authorization_in_envoy as istio
from conformance.cases import Case
from live.library import facade
from live.mesh import PROXIES, Live, here
from live.test_detours import LEDGER, SERVICE, WEB, workload
from masche.library import tcp
from masche.library.httpx import Transport
from masche.library.requests import Adapter
from masche.model.refs import Name
from masche.model.view import Endpoints
from masche.testing.check_placement import Asked, check_placement
from parity import test_cases, test_stories
from parity.nodes import NODES, Machine, machine
from parity.placements import Libraries, Sidecars
from stories import loader

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node(live: Live) -> Iterator[Machine]:
    with machine(live) as found:
        yield found


def compare(node: Machine, every: list[Asked]) -> None:
    node.load(is_local=True)
    with Sidecars(node.live) as sidecars, Libraries(node.live, moved=(PROXIES, NODES)) as calling:
        check_placement(calling, sidecars, every)
    node.empty()


@pytest.mark.parametrize("name", test_stories.STORIES)
def test_the_library_calls_workloads_of_a_node_as_sidecars_call_sidecars(name: str, live: Live, node: Machine) -> None:
    mesh = loader.read_mesh(here((loader.ROOT / name / "mesh.yaml").read_text()), file=name)
    live.load(mesh, {asked.source for asked in test_stories.requests(name)})
    compare(node, [found for asked in test_stories.requests(name) if (found := test_stories.put(live, asked))])


@pytest.mark.parametrize("group", test_cases.POLICIES)
def test_a_node_refuses_programs_whom_sidecars_refuse(group: Case, live: Live, node: Machine) -> None:
    live.load(istio.with_policies(group["policies"]), istio.CALLERS)
    compare(node, [*test_cases.told_by(group)])


@pytest.fixture
def on_a_node(live: Live, node: Machine) -> Iterator[Machine]:
    """Workloads behind one Envoy, and ``web``, which is a program with the library."""
    of = "app: {}".format
    everybody = workload("web", 11, "a", label=of("web")) + workload("orders", 12, "a", label=of("orders"))
    everybody += SERVICE + LEDGER + workload("ledger", 15, "a", label=of("ledger"))
    live.load(loader.read_mesh(here(everybody), file="node.yaml"), set())
    node.load(is_local=True)
    yield node
    node.empty()


def test_both_ends_know_each_other_by_requests_and_by_connections(on_a_node: Machine) -> None:
    live = on_a_node.live
    mesh = facade(live, WEB, moved=on_a_node._moved)
    live.forget()
    with requests.Session() as session:
        session.mount("http://", Adapter(mesh))
        answer = session.get("http://orders/a").json()
    assert (answer["peer"], answer["workload"]) == ("spiffe://mesh.local/ns/shop/sa/web", "orders-1")
    with tcp.connect("ledger", 81, timeout=10, facade=mesh) as connection:
        assert connection.peer == "spiffe://mesh.local/ns/shop/sa/ledger"
        connection.sendall(b"hello")
        assert b'"ledger-1"' in connection.recv()


def test_another_workload_of_the_same_node_is_refused(on_a_node: Machine) -> None:
    """One Envoy shows many certificates; at each address the one that belongs there."""
    live = on_a_node.live
    ledger = live.mesh.workloads[Name("shop", "ledger-1")].spec

    def misled(found: Endpoints) -> Endpoints:
        moved = on_a_node._moved(found)
        (locality,) = moved.localities
        (endpoint,) = locality.endpoints
        wrong = replace(endpoint, address=ledger.address.replace(PROXIES, NODES), port=ledger.ports[0].mesh_port or 0)
        return replace(moved, localities=(replace(locality, endpoints=(wrong,)),))

    with (
        httpx.Client(transport=Transport(facade=facade(live, WEB, moved=misled))) as client,
        pytest.raises(httpx.ConnectError, match="sa/ledger answered"),
    ):
        client.get("http://orders/")
