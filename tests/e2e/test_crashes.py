"""Envoys, agents and applications die, or start while nobody is there to tell them anything. Items A7, A8."""

import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from e2e.calling import status_of
from e2e.conftest import StartMesh
from e2e.load import Load
from e2e.mesh import Instance, Mesh, free_port, service
from e2e.waiting import holds, until
from masche.agent.folders import Folders
from masche.agent.processes import identify
from masche.agent.stopping import stop_agent

IS_LONG = os.environ.get("MASCHE_LONG") == "1"
KILLS = 20 if IS_LONG else 10
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def instances(mesh: Mesh) -> dict[str, Instance]:
    mesh.apply(service("orders") + service("other"))
    found = {name: mesh.run(name, is_recorded=True) for name in ("orders", "other", "caller", "bystander")}
    mesh.await_ready(*found.values())
    until(lambda: found["caller"].reaches("orders") and found["bystander"].reaches("other"), "everybody answers")
    return found


def kill_envoy(instance: Instance) -> int:
    pid = instance.seat.envoy_pid
    os.kill(pid, signal.SIGKILL)
    return pid


@dataclass(frozen=True, slots=True)
class Return:
    """How an Envoy came back: the seconds from the kill until another one ran, served, and let a call through."""

    ran: float
    served: float
    answered: float


def killed(instance: Instance, url: str) -> Return:
    pid, began = kill_envoy(instance), time.monotonic()

    def passed(condition: Callable[[], bool], what: str) -> float:
        until(condition, what)
        return time.monotonic() - began

    return Return(
        passed(lambda: (seat := instance.find_seat()) is not None and seat.envoy_pid not in {0, pid}, "another runs"),
        passed(instance.admin.is_live, "it has its configuration"),
        passed(lambda: status_of(url) == 200, "a call is answered again"),
    )


@pytest.mark.parametrize("victim", ["orders", "caller"])
def test_a_killed_envoy_is_back_within_two_seconds_and_disturbs_nobody_else(
    instances: dict[str, Instance], victim: str
) -> None:
    """The median of them, for the machine may have other things to do; in the long form every single one."""
    caller, application = instances["caller"], instances[victim].process.pid
    returns: list[Return] = []
    with Load(instances["bystander"].url("other"), rate=100) as load:
        for _ in range(KILLS):
            returns.append(killed(instances[victim], caller.url("orders")))
            until(lambda: instances[victim].seat.phase == "READY", "it is ready")
    load.assert_none_failed()
    took = [each.answered for each in returns]
    assert (max(took) if IS_LONG else statistics.median(took)) < 2.0, returns
    assert instances[victim].process.pid == application
    assert instances[victim].process.poll() is None
    assert identify(application)


def test_nothing_gets_around_an_envoy_that_is_dead(instances: dict[str, Instance]) -> None:
    """Between death and return its port is closed; no plaintext gets in before, meanwhile or after."""
    orders = instances["orders"]
    port, pid = orders.mesh_port, kill_envoy(orders)
    tried = 0
    while orders.seat.envoy_pid in {0, pid}:
        assert status_of(f"http://127.0.0.1:{port}/around", within=0.2) == 0
        tried += 1
    assert tried
    until(lambda: instances["caller"].reaches("orders"), "orders answers again")
    assert status_of(f"http://127.0.0.1:{port}/around") == 0
    assert b"sa/caller" in orders.received
    assert b"/around" not in orders.received


def test_a_killed_agent_is_back_and_no_call_failed(mesh: Mesh, instances: dict[str, Instance]) -> None:
    envoys = {name: each.seat.envoy_pid for name, each in instances.items()}
    agent = mesh.agent()
    assert agent
    with Load(instances["caller"].url("orders"), rate=200) as load:
        load.lasts(0.3)
        os.kill(agent.pid, signal.SIGKILL)
        until(lambda: (found := mesh.agent()) and found.pid != agent.pid and len(found.seats) == 4, "another agent")
        until(mesh.is_in_sync, "everybody is in sync again")
        load.lasts(1)
    load.assert_none_failed()
    until(lambda: {name: each.seat.envoy_pid for name, each in instances.items()} == envoys, "it adopted every Envoy")
    until(lambda: len(mesh.ready("orders")) == 1, "the control plane knows it as ready")


def test_an_application_that_hangs_is_taken_out_and_comes_back(mesh: Mesh, instances: dict[str, Instance]) -> None:
    second = mesh.run("orders", name="hanging", options=["--health", "http:/healthz"])
    mesh.await_ready(second)
    child = until(lambda: _child(second), "its application runs")
    with Load(instances["caller"].url("orders"), rate=100) as load:
        until(lambda: load.servers()["hanging"], "it gets calls")
        os.kill(child, signal.SIGSTOP)
        until(lambda: second.seat.phase == "UNHEALTHY", "its agent notices")
        until(lambda: len(mesh.ready("orders")) == 1, "the control plane takes it out")
        out = time.monotonic()
        load.lasts(1)
        assert not load.servers(out + 0.5)["hanging"]
        assert not load.failed(out + 0.5)
        os.kill(child, signal.SIGCONT)
        until(lambda: load.servers(out + 1)["hanging"], "it gets calls again")
    second.terminate()
    assert second.wait() in {0, 143}


def _child(instance: Instance) -> int:
    children = (f"/proc/{instance.process.pid}/task/{instance.process.pid}/children",)
    with open(*children) as file:  # noqa: PTH123 - a file of /proc
        return int((file.read().split() or ["0"])[0])


# -- without a control plane ----------------------------------------------------------------------------------------


@pytest.fixture
def lonely(start_mesh: StartMesh) -> Mesh:
    mesh = start_mesh()
    mesh.apply(service("orders"))
    return mesh


def test_a_workload_that_was_never_seen_does_not_start_without_a_control_plane(lonely: Mesh) -> None:
    lonely.kill_plane()
    stranger = lonely.run("orders", options=["--start-timeout", "4s"])
    until(lambda: "no control plane runs on" in stranger.text, "it says what it waits for")

    def is_closed() -> bool:
        seat = stranger.find_seat()
        ports = [stranger.app_port, *([seat.ports[f"inbound/{stranger.app_port}"]] if seat else [])]
        return (seat is None or seat.phase != "READY") and all(
            status_of(f"http://127.0.0.1:{port}/", within=1) == 0 for port in ports
        )

    holds(is_closed, "something of it answers", lasting=1.5)
    assert stranger.wait() == 125
    assert not (lonely.folder / "orders-1.env").exists(), "the application was started"


def test_a_workload_that_was_seen_before_serves_from_what_it_had(lonely: Mesh) -> None:
    """After a restart of the application, of the agent and of Envoy, with a certificate that is still good."""
    orders, port = lonely.run("orders"), free_port()
    first = lonely.run("caller", port=port)
    lonely.await_ready(orders, first)
    until(lambda: first.reaches("orders"), "orders answers")
    url, workload = first.url("orders"), first.seat.workload
    first.terminate()
    first.wait()
    lonely.kill_plane()
    second = lonely.run("caller", port=port)
    until(lambda: (seat := second.find_seat()) and seat.phase == "READY", "it is ready without a control plane")
    assert "last good configuration" in second.text
    assert (second.url("orders"), second.seat.workload) == (url, workload)
    answer = second.call("orders")
    assert answer.status == 200
    assert "sa/caller" in answer.seen_header("x-forwarded-client-cert")[0]
    envoy = second.seat.envoy_pid
    with Load(url, rate=100) as load:
        lonely.start_plane()
        until(lambda: lonely.is_in_sync() and len(lonely.status().proxies) == 2, "both join the control plane")
        load.lasts(0.5)
    load.assert_none_failed()
    assert second.seat.envoy_pid == envoy


def test_an_agent_starts_again_without_a_control_plane(lonely: Mesh) -> None:
    orders, caller = lonely.run("orders"), lonely.run("caller")
    lonely.await_ready(orders, caller)
    until(lambda: caller.reaches("orders"), "orders answers")
    lonely.kill_plane()
    agent = lonely.agent()
    assert agent
    with Load(caller.url("orders"), rate=100) as load:
        os.kill(agent.pid, signal.SIGKILL)
        until(lambda: (found := lonely.agent()) and found.pid != agent.pid and len(found.seats) == 2, "another agent")
        load.lasts(1)
        lonely.start_plane()
        until(lambda: lonely.is_in_sync() and len(lonely.status().proxies) == 2, "both are back")
    load.assert_none_failed()


def test_a_machine_that_ends_in_order_leaves_nothing_registered(lonely: Mesh) -> None:
    orders = lonely.run("orders")
    lonely.await_ready(orders)
    orders.terminate()
    assert orders.wait() in {0, 143}
    until(lambda: not lonely.status().proxies, "nothing is registered, long before a lease ends", within=10)
    assert stop_agent(Folders(lonely.data))
