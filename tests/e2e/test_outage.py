"""The control plane goes away, in every way in which it can; the mesh does not notice. Items A1, A2, A4, A5, A10.

``MASCHE_LONG=1`` makes the outages a minute long.
"""

import http.client
import os
import signal
import threading
import time

import pytest

from e2e.conftest import StartMesh
from e2e.load import Load
from e2e.mesh import Instance, Mesh, service
from e2e.waiting import until
from e2e.watching import Watch
from masche.api.client import RefusalError, UnreachableError
from masche.api.messages import Document
from masche.model.refs import Kind

IS_LONG = os.environ.get("MASCHE_LONG") == "1"
OUTAGE = 60.0 if IS_LONG else 8.0
PLANE = ("--lease", "5s")  # shorter than the outages, so that a lease which were counted wrongly would show
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    mesh.apply(service("orders") + service("other"))
    instances = [mesh.run("orders"), mesh.run("orders"), mesh.run("other"), mesh.run("caller")]
    mesh.await_ready(*instances)
    until(lambda: len(instances[-1].admin.endpoints()["outbound/shop/orders/80"]) == 2, "caller knows both")
    until(lambda: instances[-1].reaches("orders"), "orders answers")
    return instances[-1]


def test_a_killed_control_plane_costs_no_call_and_returns_with_the_same_world(mesh: Mesh, caller: Instance) -> None:
    before = caller.admin.dump()
    states = {each.workload: (each.state, each.identity) for each in mesh.status().proxies}
    with Watch(caller.admin) as watch, Load(caller.url("orders"), rate=200) as load:
        load.lasts(1)
        mesh.kill_plane()
        load.lasts(OUTAGE)
        mesh.start_plane()
        came_back = time.monotonic()
        first = mesh.status()
        assert {each.workload for each in first.proxies} == set(states), "it forgot a workload over its restart"
        until(mesh.is_in_sync, "status is true again", within=15)
        assert time.monotonic() - came_back < 15
        load.lasts(2)
    load.assert_none_failed(at_least=int(OUTAGE * 180))
    assert set(load.servers()) == {"orders-1", "orders-2"}
    watch.assert_nothing_moved()
    assert caller.admin.dump() == before
    assert {each.workload: (each.state, each.identity) for each in mesh.status().proxies} == states


def test_a_frozen_control_plane_costs_no_call_and_thaws_without_moving_anything(mesh: Mesh, caller: Instance) -> None:
    before = caller.admin.dump()
    with Watch(caller.admin) as watch, Load(caller.url("orders"), rate=200) as load:
        load.lasts(1)
        mesh.signal_plane(signal.SIGSTOP)
        load.lasts(OUTAGE)
        mesh.signal_plane(signal.SIGCONT)
        until(mesh.is_in_sync, "status is true again", within=15)
        load.lasts(1)
    load.assert_none_failed(at_least=int(OUTAGE * 180))
    watch.assert_nothing_moved()
    assert caller.admin.dump() == before


def test_endpoints_survive_a_control_plane_that_restarts_again_and_again(mesh: Mesh, caller: Instance) -> None:
    with Watch(caller.admin) as watch, Load(caller.url("orders"), rate=100) as load:
        for pause in (0.0, 0.3, 1.2, 0.1, 2.0) * (4 if IS_LONG else 1):
            mesh.kill_plane()
            load.lasts(0.2)
            mesh.start_plane()
            load.lasts(pause)
        until(mesh.is_in_sync, "every proxy is in sync in the end", within=20)
    load.assert_none_failed(at_least=100)
    watch.assert_nothing_moved()


def test_a_workload_that_died_during_an_outage_is_shown_as_gone(mesh: Mesh, caller: Instance) -> None:
    victim = mesh.run("orders", name="victim")
    mesh.await_ready(victim)
    workload, mesh_port = victim.seat.workload, victim.mesh_port
    with Load(caller.url("orders"), rate=50) as load:
        until(lambda: load.servers()["victim"], "the victim has traffic")
        mesh.kill_plane()
        victim.terminate()
        victim.wait()
        mesh.start_plane()
        until(lambda: workload not in {each.workload for each in mesh.status().proxies}, "it is gone", within=40)
        cluster = "outbound/shop/orders/80"
        until(lambda: f"127.0.0.1:{mesh_port}" not in caller.admin.endpoints()[cluster], "callers know it")
        load.lasts(1)
    assert not load.failed(time.monotonic() - 1)


def test_a_kill_during_writes_loses_nothing_that_was_acknowledged(start_mesh: StartMesh) -> None:
    """H1, through the API of a real control plane; the store's own tests go deeper."""
    mesh, acknowledged = start_mesh(), dict[str, int]()

    def write() -> None:
        while True:
            name = f"written-{len(acknowledged)}"
            try:
                acknowledged[name] = mesh.client.apply([Document(file="x", text=service(name))]).revision
            except (UnreachableError, RefusalError, OSError, http.client.HTTPException):
                return

    for _ in range(20 if IS_LONG else 3):
        before, writer = len(acknowledged), threading.Thread(target=write)
        writer.start()
        until(lambda before=before: len(acknowledged) > before + 20, "writes are acknowledged")
        mesh.kill_plane()
        writer.join()
        mesh.start_plane()
        stored = {item.ref.name: item.revision for item in mesh.client.list(Kind.SERVICE, namespace="shop").items}
        assert {name: stored.get(name) for name in acknowledged} == acknowledged
        assert len(stored) <= len(acknowledged) + 1, "more was stored than was ever sent"
        assert mesh.status().plane.revision >= max(acknowledged.values())
    assert list(acknowledged.values()) == sorted(set(acknowledged.values())), "a revision was given twice"
