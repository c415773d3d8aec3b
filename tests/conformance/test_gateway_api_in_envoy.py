"""What the Gateway API's own suite asks of an implementation, asked of real Envoys: inside the mesh and at a Gateway.

Cases are grouped by their manifests, so that each set is loaded once.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from conformance.cases import OWN, SAMPLES, Case, a_mesh, faults, loaded, read, ways
from live.mesh import Live
from masche.model.refs import Name

INFRA = "gateway-conformance-infra"
CLIENT = Name(INFRA, "client-1")


class Group:
    """Cases that share their manifests and where they are asked."""

    def __init__(self, topology: Path, files: tuple[Path, ...], placement: str, cases: list[Case]) -> None:
        self.files, self.placement, self.cases = (topology, *files), placement, cases

    def __repr__(self) -> str:
        return f"{'+'.join(file.stem for file in self.files[1:]) or 'nothing'} at {self.placement}"


def groups() -> Iterator[Group]:
    """The sample cases: those of the mesh, and the core's both in the mesh and at a gateway."""
    every = [*read(OWN / "mesh.yaml"), *read(OWN / "core.yaml")]
    keys = (("mesh", "manifests"), ("core-as-mesh", "mesh_manifests"), ("gateway", "manifests"))
    for placement, key in keys:
        prefix = "mesh/" if placement == "mesh" else "core/"
        cases = [case for case in every if case["id"].startswith(prefix) and key in case]
        topology = SAMPLES / f"{prefix.rstrip('/')}-topology.yaml"
        for files, some in groupby(sorted(cases, key=lambda case: case[key]), key=lambda case: case[key]):
            yield Group(topology, tuple(SAMPLES / file for file in files), placement, list(some))


@pytest.mark.parametrize("group", [*groups()], ids=repr)
def test_envoy_does_what_the_gateway_api_demands(group: Group, live: Live):
    mesh = a_mesh(loaded(*group.files))
    gateways = {CLIENT: Name(INFRA, "same-namespace")} if group.placement == "gateway" else {}
    live.load(mesh, {caller(case) for case in group.cases}, gateways)
    wrong = [f"{case['id']} by {way}: {fault}" for case in group.cases for way, fault in asked(live, group, case)]
    assert not wrong, "\n".join(wrong)


def asked(live: Live, group: Group, case: Case) -> Iterator[tuple[str, str]]:
    """Ask one case in all ways that its placement has."""
    host = case["request"].get(
        "host", {"core-as-mesh": "frontend", "gateway": "example.com"}.get(group.placement, "echo")
    )
    if group.placement == "gateway":
        to = live.standing[CLIENT].gateway(80)
        assert to
        yield from (("gateway", fault) for fault in faults(live, case, to, host))
        return
    standing = live.standing[caller(case)]
    bare, _, port = host.partition(":")
    for way, to, is_absolute in ways(standing, bare, int(port or 0)):
        yield from ((way, fault) for fault in faults(live, case, to, host, is_absolute=is_absolute))


def caller(case: Case) -> Name:
    """The Workload that makes the request."""
    pod = case.get("client", {"pod": "client", "namespace": INFRA})
    return Name(pod["namespace"], f"{pod['pod']}-1")
