"""Other machines of the mesh: how they join, what their credential lets them run, and how they are shut out. C11."""

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.calling import status_of
from e2e.conftest import StartMesh
from e2e.load import Load
from e2e.mesh import Instance, Mesh, service
from e2e.waiting import until

pytestmark = pytest.mark.timeout(200)


def token(mesh: Mesh, *options: str) -> str:
    made = mesh.masche("token", "create", "-n", "shop", *options)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="module")
def second(mesh: Mesh) -> Path:
    """The data folder of a second machine that joined."""
    data, given = mesh.folder / "e", token(mesh, "--service-account", "orders", "--service-account", "web")
    joined = mesh.masche("join", "--machine", "second", data=data, stdin=given)
    assert joined.returncode == 0, joined.stderr
    assert "joined mesh.local as machine second" in joined.stderr
    again = mesh.masche("join", "--machine", "third", data=mesh.folder / "f", stdin=given)
    assert again.returncode == 1, "a join string was good twice"
    assert "did not join" in again.stderr
    return data


@pytest.fixture(scope="module")
def instances(mesh: Mesh, second: Path) -> tuple[Instance, Instance, Instance]:
    mesh.apply(service("orders"))
    found = mesh.run("orders"), mesh.run("orders", data=second), mesh.run("caller")
    mesh.await_ready(*found)
    return found


def test_workloads_of_a_second_machine_are_reached_and_its_agent_uses_mutual_tls(
    mesh: Mesh, instances: tuple[Instance, Instance, Instance], second: Path
) -> None:
    here, there, caller = instances
    with Load(caller.url("orders"), rate=100) as load:
        until(lambda: {here.name, there.name} <= set(load.servers()), "both machines serve")
    load.assert_none_failed()
    agent = mesh.agent(second)
    assert agent
    assert agent.is_connected
    assert agent.control.startswith("127.0.0.1:")
    status = there.status()
    assert status
    assert status.machine == "second"
    machines = {each.machine: each for each in mesh.client.machines().machines}
    assert machines["second"].is_connected
    assert machines["second"].service_accounts == ("orders", "web")


def test_a_second_machine_survives_the_control_plane_and_finds_it_again(
    mesh: Mesh, instances: tuple[Instance, Instance, Instance]
) -> None:
    *_, caller = instances
    with Load(caller.url("orders"), rate=100) as load:
        mesh.kill_plane()
        load.lasts(1)
        mesh.start_plane()
        until(lambda: mesh.is_in_sync() and len(mesh.ready("orders")) == 2, "both machines are back")
        load.lasts(0.5)
    load.assert_none_failed()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"namespace": "bank"}, "may run workloads of shop, not of the namespace bank"),
        ({"options": ["--service-account", "payment"]}, "may run the service accounts orders, web, not payment"),
    ],
    ids=["namespace", "service account"],
)
def test_a_machine_runs_nothing_that_its_credential_does_not_list(
    mesh: Mesh, second: Path, options: dict[str, object], words: str
) -> None:
    wrong = mesh.run("web", name=f"wrong-{'-'.join(options)}", data=second, **options)
    assert wrong.wait() == 125
    assert words in wrong.text
    assert not (mesh.folder / f"{wrong.name}.env").exists(), "the application was started"


def test_of_many_uses_of_one_join_string_at_once_exactly_one_succeeds(mesh: Mesh, tmp_path: Path) -> None:
    given = token(mesh)
    words = [sys.executable, "-m", "masche", "join", "--machine", "racer", "--data"]
    joins = [
        subprocess.Popen([*words, str(tmp_path / str(number))], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(4)
    ]
    for each in joins:
        assert each.stdin
        each.stdin.write(given.encode())
        each.stdin.close()
        each.stdin = None
    said = [each.communicate(timeout=30)[1] for each in joins]
    assert sorted(each.returncode for each in joins) == [0, 1, 1, 1], said


@pytest.mark.parametrize("spoil", ["pin", "token", "empty", "expired"])
def test_a_join_string_that_is_not_right_is_refused_in_words(mesh: Mesh, tmp_path: Path, spoil: str) -> None:
    given = token(mesh, "--ttl", "1ms" if spoil == "expired" else "1h")
    address, _, rest = given.partition("#")
    pin, _, secret = rest.partition(".")
    wrong = {
        "pin": f"{address}#{'0' * len(pin)}.{secret}",
        "token": f"{address}#{pin}.{'A' * len(secret)}",
        "empty": "",
        "expired": given,
    }[spoil]
    refused = mesh.masche("join", data=tmp_path / "x", stdin=wrong)
    assert refused.returncode == 1
    assert "this machine did not join: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {path.name for path in (tmp_path / "x").glob("machine/*")} <= {"lock"}, "something was kept"


def test_a_machine_that_never_joined_runs_nothing(mesh: Mesh, tmp_path: Path) -> None:
    stray = mesh.run("orders", name="stray", data=tmp_path / "s", options=["--start-timeout", "5s"])
    assert stray.wait() == 125
    assert "masche join" in stray.text


def test_a_revoked_machine_is_shut_out(mesh: Mesh, start_mesh: StartMesh) -> None:
    """In a mesh of its own, as it is for good."""
    one = start_mesh()
    data = one.folder / "e"
    assert one.masche("join", "--machine", "banned", data=data, stdin=token(one)).returncode == 0
    there = one.run("orders", data=data)
    one.await_ready(there)
    workload = there.seat.workload
    assert one.masche("cert", "revoke", "banned").returncode == 0

    def is_out() -> bool:
        found = [each for each in one.status().proxies if each.workload == workload]
        return not any(each.is_connected for each in found)

    until(is_out, "its streams are closed", within=30)
    assert workload not in {each.workload for each in one.status().proxies}, "it is still listed"
    caller = one.run("caller")
    one.await_ready(caller)
    assert status_of(caller.url("orders")) == 503
    another = one.run("web", data=data, options=["--start-timeout", "3s"])
    assert another.wait() == 125


def test_a_machine_joins_while_its_agent_waits_for_a_control_plane(mesh: Mesh) -> None:
    data = mesh.folder / "late"
    waiting = mesh.run("web", name="late", data=data)
    until(lambda: "no control plane runs on" in waiting.text, "it waits, and says for what")
    joined = mesh.masche("join", data=data, stdin=token(mesh))
    assert joined.returncode == 0, joined.stderr
    mesh.await_ready(waiting)
