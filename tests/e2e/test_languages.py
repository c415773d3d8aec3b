"""Services in several languages behind real sidecars, called over mutual TLS."""

import subprocess
from pathlib import Path

import pytest

from e2e.load import Load
from e2e.mesh import NODE_APP, SERVERS, Instance, Mesh, service
from e2e.waiting import until


@pytest.fixture(scope="module")
def go_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go server, built."""
    binary = tmp_path_factory.mktemp("go") / "app"
    subprocess.run(["go", "build", "-o", binary, SERVERS / "app.go"], check=True, timeout=100)
    return binary


@pytest.fixture(scope="module")
def caller(mesh: Mesh, go_app: Path) -> Instance:
    mesh.apply(service("python") + service("node") + service("go"))
    instances = [
        mesh.run("python"),
        mesh.run("node", NODE_APP),
        mesh.run("go", [str(go_app)]),
        mesh.run("caller"),
    ]
    mesh.await_ready(*instances)
    return instances[-1]


@pytest.mark.parametrize("name", ["python", "node", "go"])
def test_a_service_in_any_language_is_called_by_its_url_and_learns_who_called(caller: Instance, name: str) -> None:
    until(lambda: caller.reaches(name), f"{name} answers")
    answer = caller.call(name, "/some/path?q=1", method="POST", body=b"hello")
    seen = answer.seen
    assert (seen["name"], seen["method"], seen["target"], seen["body"]) == (
        f"{name}-1",
        "POST",
        "/some/path?q=1",
        "hello",
    )
    assert "URI=spiffe://mesh.local/ns/shop/sa/caller" in answer.seen_header("x-forwarded-client-cert")[0]


def test_open_loop_calls_are_all_answered(caller: Instance) -> None:
    until(lambda: caller.reaches("python"), "python answers")
    with Load(caller.url("python"), rate=200) as load:
        load.lasts(2)
    load.assert_none_failed(at_least=360)
