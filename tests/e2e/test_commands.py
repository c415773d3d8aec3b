"""``masche run`` as people and their scripts use it: exit codes, signals, words, what is exposed."""

import signal
import sys

import pytest

from e2e.mesh import APP, Instance, Mesh, service
from e2e.waiting import holds, until

WAITS = """
import signal, sys, time
def on(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, on)
print("up", flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -KILL $$"), 137),
        (("/does/not/exist",), 127),
        (("/etc/passwd",), 126),
    ],
)
def test_a_job_exits_with_its_own_code(mesh: Mesh, command: tuple[str, ...], code: int) -> None:
    done = mesh.masche("run", "--service", "job", "-n", "shop", "--", *command)
    assert done.returncode == code, done.stderr
    assert ("the command was ended by SIGKILL" in done.stderr) is (code == 137)
    assert "Traceback" not in done.stderr


def test_what_a_job_prints_is_its_own_and_the_mesh_speaks_beside_it(mesh: Mesh) -> None:
    done = mesh.masche(
        "run", "--service", "job", "-n", "shop", "--", "sh", "-c", "cat; echo out; echo err >&2", stdin="in "
    )
    assert done.stdout == "in out\n"
    lines = done.stderr.splitlines()
    assert "err" in lines
    assert all(line == "err" or line.startswith(("masche: ", "  ")) for line in lines)


def test_signals_reach_the_command_and_a_job_decides_itself_how_it_ends(mesh: Mesh) -> None:
    job = mesh.run("job", [sys.executable, "-c", WAITS], name="signalled", has_port=False)
    until(lambda: "up" in job.text, "the job runs")
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        job.process.send_signal(number)
        until(lambda number=number: f"got {signal.Signals(number).name}" in job.text, f"{number} arrived")
    job.terminate()
    assert job.wait() == 7
    assert job.text.count("got SIGTERM") == 1


def test_a_service_leaves_before_its_command_is_told_and_its_code_is_kept(mesh: Mesh) -> None:
    both = f"import subprocess\nchild = subprocess.Popen([{APP[0]!r}, {APP[1]!r}])\n{WAITS}"
    both = both.replace("sys.exit(7)", "child.terminate(); child.wait(); sys.exit(7)")
    one = mesh.run("leaver", [sys.executable, "-c", both], name="leaver")
    mesh.await_ready(one)
    workload = one.seat.workload
    one.terminate()
    assert one.wait() == 7
    assert one.text.index("leaving") < one.text.index("got SIGTERM")
    assert workload not in {each.workload for each in mesh.status().proxies}


def test_an_exposed_application_is_reported_everywhere_and_still_served(mesh: Mesh) -> None:
    mesh.apply(service("open"))
    one = mesh.run("open", name="open", env={"HOST_OVERRIDE": "0.0.0.0"})
    mesh.await_ready(one)
    until(lambda: "listens on 0.0.0.0, so callers can go around the mesh" in one.text, "its person is told")
    until(lambda: (found := one.status()) and found.is_exposed, "the control plane knows")
    assert "is exposed" in mesh.masche("status").stdout
    one.terminate()
    one.wait()


def test_an_exposed_application_is_refused_under_strict(mesh: Mesh) -> None:
    one = mesh.run("strict", name="strict", env={"HOST_OVERRIDE": "0.0.0.0"}, options=["--strict"])
    assert one.wait() == 125
    assert "stopping it, as --strict asks" in one.text
    assert "fix: make the command listen on 127.0.0.1 only" in one.text
    obedient = mesh.run("strict", name="obedient", options=["--strict"])
    mesh.await_ready(obedient)
    holds(lambda: obedient.process.poll() is None, "an obedient application is stopped", lasting=1)


def test_a_job_knows_the_services_of_its_mesh_and_calls_as_itself(mesh: Mesh) -> None:
    mesh.apply(service("orders"))
    orders = mesh.run("orders")
    mesh.await_ready(orders)
    script = "import os, urllib.request as r; print(r.urlopen(os.environ['ORDERS_URL']).read().decode())"
    done = mesh.masche("run", "--service", "job", "-n", "shop", "--", sys.executable, "-c", script)
    assert "spiffe://mesh.local/ns/shop/sa/job" in done.stdout, done.stderr


def test_only_declared_dependencies_are_reachable(mesh: Mesh) -> None:
    mesh.apply(service("orders") + service("ledger"))
    found: Instance = mesh.run("modest", name="modest", options=["--depends-on", "orders"])
    mesh.await_ready(found)
    assert "ORDERS_URL" in found.environment
    assert "LEDGER_URL" not in found.environment
    assert not [name for name in found.admin.dump()["clusters"] if "ledger" in name]


def test_a_port_that_somebody_has_is_named_by_masche_up(mesh: Mesh) -> None:
    port = str(mesh.client.url.rpartition(":")[2].strip("/"))
    done = mesh.masche("up", "--api-port", port, "--xds-port", "0", "--metrics-port", "0", data=mesh.folder / "g")
    assert done.returncode == 1
    assert port in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_caller_that_does_not_run_is_explained_as_it_would_be_started(mesh: Mesh) -> None:
    mesh.apply(service("asked"))
    asked = mesh.run("asked")
    mesh.await_ready(asked)
    explained = mesh.masche("why", "shop/nobody-yet", "shop/asked")
    assert explained.returncode == 0, explained.stderr
    assert "shop/nobody-yet (does not run now)" in explained.stdout
    assert "spiffe://mesh.local/ns/shop/sa/nobody-yet" in explained.stdout
    refused = mesh.masche("why", "shop/No_Name", "shop/asked")
    assert refused.returncode == 7
    assert "can be no workload" in refused.stderr
