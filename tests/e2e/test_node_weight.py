"""What one more workload costs a machine, counted and not weighed: descriptors, listeners, clusters; and no thread."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.conftest import StartMesh
from e2e.mesh import ON_THE_NODE, Instance, Mesh
from e2e.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

MORE = 6

AGENT_DESCRIPTORS = 6
"""The connection of its runner, and sockets at which its names are asked: by UDP and TCP, of IPv4 and IPv6; and one
to spare."""

ENVOY_DESCRIPTORS = 5
"""Sockets on which it listens: what the workload calls and what calls it, of IPv4 and IPv6, and its mesh port."""

LISTENERS, CLUSTERS = 4, 2
"""Beside these listeners one for calls within the machine; to itself by HTTP/1.1 and by HTTP/2."""

MOST_THREADS = 20
"""Of the agent, whoever sits there: gRPC's, and those that wait for disks and for other namespaces."""


@dataclass(frozen=True)
class Burden:
    """How much there is of what grows."""

    agent: int
    envoy: int
    listeners: int
    clusters: int


def burden(first: Instance, agent: int) -> Burden:
    held = first.admin.dump()
    return Burden(
        agent=descriptors(agent),
        envoy=descriptors(first.seat.envoy_pid),
        listeners=len(held["listeners"]),
        clusters=sum(name.startswith("inbound/") for name in held["clusters"]),  # a Service outlives who made it
    )


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_one_more_workload_costs_a_few_sockets_and_what_left_costs_nothing(start_mesh: StartMesh) -> None:
    mesh = start_mesh()
    first = started(mesh, "first", "second")[0]
    agent = mesh.agent()
    assert agent
    before = burden(first, agent.pid)
    more = started(mesh, *(f"more-{number}" for number in range(MORE)))
    allowed = Burden(
        agent=before.agent + MORE * AGENT_DESCRIPTORS,
        envoy=before.envoy + MORE * ENVOY_DESCRIPTORS,
        listeners=before.listeners + MORE * LISTENERS,
        clusters=before.clusters + MORE * CLUSTERS,
    )
    until(lambda: within(burden(first, agent.pid), allowed), f"no more than {allowed}")
    assert len(list(Path(f"/proc/{agent.pid}/task").iterdir())) <= MOST_THREADS
    for each in more:
        each.terminate()
    for each in more:
        each.wait()
    until(lambda: within(burden(first, agent.pid), before), f"again no more than {before}")


def within(found: Burden, most: Burden) -> bool:
    return all(getattr(found, name) <= getattr(most, name) for name in Burden.__dataclass_fields__)


def started(mesh: Mesh, *names: str) -> list[Instance]:
    found = [mesh.run(name, options=ON_THE_NODE) for name in names]
    mesh.await_ready(*found)
    until(mesh.is_in_sync, "every proxy is in sync")
    return found
