"""What a command finds when it is started by ``masche run``, and what becomes of it."""

import http.client
import json
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from e2e.mesh import SERVERS, Instance, Mesh, service
from e2e.test_clients import CLIENTS
from e2e.waiting import until

WEB = [sys.executable, str(SERVERS / "web.py")]
IDLE = [sys.executable, str(CLIENTS / "idle.py")]
SHOW = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]

MANY_PORTS = """
apiVersion: v1
kind: Service
metadata: {name: front-end, namespace: shop}
spec:
  selector: {app: front-end}
  ports:
  - {name: http, port: 80, targetPort: http, appProtocol: http}
  - {name: admin, port: 9000, targetPort: 9000, appProtocol: http}
  - {name: raw, port: 7000, targetPort: 7000, appProtocol: tcp}
---
"""


@pytest.fixture(scope="module")
def web(mesh: Mesh) -> Instance:
    mesh.apply(
        service("web")
        + MANY_PORTS
        + service("ledger", namespace="bank")
        + service("web", namespace="bank")
        + service("vault", namespace="bank").replace(
            "namespace: bank}", 'namespace: bank, annotations: {"masche.dev/export-to": "."}}'
        )
    )
    web = mesh.run("web", WEB)
    mesh.await_ready(web)
    return web


def _shown(mesh: Mesh, *options: str, env: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a job that ran to its end."""
    words = ["run", "--service", "teller", "--namespace", "shop", *options, "--", *SHOW]
    ended = mesh.masche(*words, env=env)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def _of_the_mesh(environment: dict[str, str]) -> set[str]:
    """Without what the last test of this file adds, whenever it runs."""
    names = {name for name in environment if name.endswith(("_URL", "_ADDR"))}
    return names - {"NEWCOMER_URL", "NEWCOMER_ADDR"}


def test_there_is_one_url_and_one_address_per_service_that_may_be_called(mesh: Mesh, web: Instance):
    environment = _shown(mesh)
    assert _of_the_mesh(environment) == {
        f"{name}_{kind}"
        for name in (
            "WEB",
            "FRONT_END",
            "FRONT_END_9000",
            "FRONT_END_7000",
            "LEDGER_BANK",
            "WEB_BANK",
        )
        for kind in ("URL", "ADDR")
    }
    for name in _of_the_mesh(environment):
        scheme = "tcp://" if name == "FRONT_END_7000_URL" else "http://" if name.endswith("_URL") else ""
        assert environment[name].startswith(f"{scheme}127.0.0.1:"), (name, environment[name])
    assert len({environment[name] for name in _of_the_mesh(environment)}) == 12


def test_declared_dependencies_are_all_that_can_be_called(mesh: Mesh, web: Instance):
    environment = _shown(mesh, "--depends-on", "web", "--depends-on", "ledger.bank")
    assert _of_the_mesh(environment) == {"WEB_URL", "WEB_ADDR", "LEDGER_BANK_URL", "LEDGER_BANK_ADDR"}


def test_the_proxy_variables_are_set_in_both_spellings(mesh: Mesh, web: Instance):
    environment = _shown(mesh, env={"HTTP_PROXY": "http://elsewhere:1", "HTTPS_PROXY": "http://elsewhere:2"})
    assert environment["HTTP_PROXY"] == environment["http_proxy"]
    assert environment["HTTP_PROXY"].startswith("http://127.0.0.1:")
    assert environment["HTTPS_PROXY"] == "http://elsewhere:2"


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_keeps_the_users_own_names(mesh: Mesh, web: Instance, name: str):
    environment = _shown(mesh, env={name: "intranet.example, .corp"})
    assert environment["NO_PROXY"] == environment["no_proxy"]
    names = environment["NO_PROXY"].split(",")
    assert names[:2] == ["intranet.example", ".corp"]
    assert {"localhost", "127.0.0.1", "::1"} <= set(names)


def test_a_service_is_told_where_to_listen_and_a_job_is_not(mesh: Mesh, web: Instance):
    assert (web.environment["HOST"], web.environment["PORT"]) == ("127.0.0.1", str(web.app_port))
    environment = _shown(mesh, env={"MINE": "stays"})
    assert "PORT" not in environment
    assert environment["MINE"] == "stays"


def test_a_job_leaves_nothing_behind_in_the_mesh(mesh: Mesh, web: Instance):
    _shown(mesh)
    until(
        lambda: not [one for one in mesh.status().proxies if "teller" in one.service or "teller" in one.workload],
        "the job's workload is gone",
    )


def test_a_job_reads_its_standard_input(mesh: Mesh, web: Instance):
    ended = mesh.masche("run", "--service", "teller", "--namespace", "shop", "--", "cat", stdin="hello")
    assert (ended.returncode, ended.stdout) == (0, "hello"), ended.stderr


def test_a_command_that_does_not_exist_is_named(mesh: Mesh, web: Instance):
    ended = mesh.masche("run", "--service", "teller", "--namespace", "shop", "--", "no-such-command")
    assert ended.returncode == 127
    assert "no-such-command: command not found" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_command_that_cannot_be_run_is_named(mesh: Mesh, web: Instance):
    ended = mesh.masche("run", "--service", "teller", "--namespace", "shop", "--", str(SERVERS))
    assert ended.returncode == 126
    assert "Permission denied" in ended.stderr
    assert "Traceback" not in ended.stderr


@contextmanager
def _proxy(caller: Instance) -> Generator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(caller.environment["HTTP_PROXY"].removeprefix("http://"), timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def _answer(caller: Instance, url: str) -> tuple[int, str]:
    with _proxy(caller) as connection:
        connection.request("GET", url)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_a_service_that_appears_later_is_reached_through_the_proxy_as_soon_as_it_is_ready(mesh: Mesh, web: Instance):
    caller = mesh.run("caller", IDLE, has_port=False)
    until(lambda: _answer(caller, "http://web/")[0] == 200, "the caller reaches the mesh")
    assert _answer(caller, "http://newcomer/")[0] != 200
    newcomer = mesh.run("newcomer", WEB)
    mesh.await_ready(newcomer)
    status, text = _answer(caller, "http://newcomer/")
    assert (status, json.loads(text)["name"]) == (200, "newcomer-1")
