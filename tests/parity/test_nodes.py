"""Every story and every case of the suites by the one Envoy of a machine: the same verdicts as by sidecars.

Once with calls inside of that Envoy, once with mutual TLS between its two sides (``sameMachine``).
"""

from collections.abc import Iterator

import pytest

from conformance import test_authorization_in_envoy as istio
from conformance import test_gateway_api_in_envoy as gateway_api
from conformance import test_gateway_api_more_in_envoy as more
from conformance.cases import Case, a_mesh, loaded
from live.mesh import Live, here
from masche.testing.check_placement import Asked, check_placement
from parity import test_cases, test_stories
from parity.nodes import LocalSidecars, Machine, Nodes, captured, machine
from stories import loader

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node(live: Live) -> Iterator[Machine]:
    with machine(live) as found:
        yield found


OF_ITS_OWN = "/source-ip"
"""Rules on the caller's address: inside of one Envoy that is the workload's own, behind a sidecar the machine's."""


def compare(node: Machine, every: list[Asked], *, differs: str = "") -> None:
    """``differs``: requests for paths that begin so are left out where calls stay inside of one Envoy."""
    every = captured(node.live, every)
    with LocalSidecars(node.live) as sidecars:
        for is_local in (True, False):
            some = [each for each in every if not (is_local and differs and each.target.startswith(differs))]
            with Nodes(node, is_local=is_local) as nodes:
                check_placement(nodes, sidecars, some)


@pytest.mark.parametrize("name", test_stories.STORIES)
def test_a_node_does_with_a_story_what_sidecars_do(name: str, live: Live, node: Machine) -> None:
    mesh = loader.read_mesh(here((loader.ROOT / name / "mesh.yaml").read_text()), file=name)
    every = test_stories.requests(name)
    live.load(mesh, {asked.source for asked in every})
    compare(node, [found for asked in every if (found := test_stories.put(live, asked))])


@pytest.mark.parametrize("group", test_cases.GROUPS, ids=repr)
def test_a_node_routes_as_sidecars_do(group: gateway_api.Group, live: Live, node: Machine) -> None:
    live.load(a_mesh(loaded(*group.files)), {gateway_api.caller(case) for case in group.cases})
    host = "frontend" if group.placement == "core-as-mesh" else "echo"
    compare(node, [test_cases.put(case, str(gateway_api.caller(case)), host) for case in group.cases])


@pytest.mark.parametrize("group", test_cases.MORE)
def test_a_node_routes_what_else_there_is_as_sidecars_do(group: Case, live: Live, node: Machine) -> None:
    live.load(more.a_world(group, {"group": "", "kind": "Service", "name": "frontend"}), {more.CLIENT})
    compare(node, [test_cases.put(case, str(more.CLIENT), "frontend") for case in group["cases"]])


@pytest.mark.parametrize("group", test_cases.POLICIES)
def test_a_node_refuses_whom_sidecars_refuse(group: Case, live: Live, node: Machine) -> None:
    live.load(istio.with_policies(group["policies"]), istio.CALLERS)
    compare(node, [*test_cases.told_by(group)], differs=OF_ITS_OWN)
