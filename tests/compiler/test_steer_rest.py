"""What is taken over, or not looked at, is what looking at everything would have given."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import a_mesh, service, workload

from masche.compiler.steer import steersman as module
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain, survey
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.resources.workload import Workload
from masche.model.steering import Steering

NAMES = [f"{app}-{number}" for app in ("orders", "web") for number in range(3)]
PORTS = (PortRef("shop", "orders", 80), PortRef("shop", "web", 80), PortRef("shop", "ghost", 80))
MADE = {
    (name, zone, state): workload(name, name.partition("-")[0], f", zone: {zone}", state=state)
    for name in NAMES
    for zone in "ab"
    for state in ("READY", "UNHEALTHY", "DRAINING")
}
EMPTY = a_mesh(service("orders") + service("web"))
WORKLOADS: Mapping[tuple[str, str, str], Workload] = {
    key: a_mesh(text).workloads[Name("shop", key[0])] for key, text in MADE.items()
}


def meshes(changes: list[list[tuple[str, str, str]]]) -> list[Mesh]:
    """One Mesh after the other; who is not named in a change stays the same object."""
    found, workloads = [EMPTY], dict[Name, Workload]()
    for some in changes:
        for key in some:
            workloads = {**workloads, Name("shop", key[0]): WORKLOADS[key]}
        found.append(replace(EMPTY, workloads=workloads))
    return found


@given(st.lists(st.lists(st.sampled_from(sorted(MADE)), max_size=3), max_size=6))
def test_a_terrain_that_takes_over_what_did_not_change_is_that_of_a_fresh_look(
    changes: list[list[tuple[str, str, str]]],
):
    before: Terrain | None = None
    for mesh in meshes(changes):
        before = survey(mesh, PORTS, before)
        assert before == survey(mesh, PORTS)


def test_a_port_whose_instances_did_not_change_keeps_its_ground():
    first, second = meshes([[("orders-0", "a", "READY"), ("web-0", "a", "READY")], [("orders-1", "a", "READY")]])[1:]
    before = survey(first, PORTS)
    after = survey(second, PORTS, before)
    assert after.ports[PORTS[1]] is before.ports[PORTS[1]]
    assert len(after.ports[PORTS[0]].sites) == 2


PORT = PORTS[0]
TERRAIN = Terrain(ports={PORT: Ground(sites=tuple(Site(name, "") for name in "abc"))})
SEENS = st.builds(
    Seen,
    workload=st.sampled_from("abc"),
    caller=st.sampled_from(["one", "two"]),
    answers=st.integers(0, 60),
    errors=st.integers(0, 20),
    latency_us=st.floats(0.0, 2e6),
    is_ejected=st.booleans(),
)


def decided(spells: list[tuple[list[Seen], int]]) -> list[Steering | None]:
    """What is decided in each second of reports that are followed by seconds of silence."""
    steersman, found, now = Steersman(), list[Steering | None](), 0.0
    for seens, silence in spells:
        steersman.saw((PORT, ""), seens, now=now)
        for _ in range(1 + silence):
            found.append(steersman.steer(TERRAIN, now=now).steering)
            now += 1.0
    return found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(SEENS, max_size=8), st.integers(0, 3) | st.integers(55, 70)), max_size=5))
def test_a_port_at_rest_that_is_not_looked_at_would_not_have_moved(spells: list[tuple[list[Seen], int]]):
    at_rest = decided(spells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WAKEFUL", float("inf"))
        assert decided(spells) == at_rest
