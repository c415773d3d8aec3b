"""A process with the library lives in the mesh like any proxy: seen, certified, counted, and gone when it goes."""

import stat
from pathlib import Path

from e2e.waiting import holds, until
from library.life.mesh import Mesh
from masche.api.traffic import Edge
from masche.identity import places

READY = """
r = configure()
r.wait_ready()
said("ready", r.workload, facade().identity.spiffe_id)
"""

UNTIL_TOLD = """
heard("end")
"""

SERVER = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
r = configure()
said("port", listening.getsockname()[1])
heard("serve")
r.serve(listening.getsockname()[1])
r.wait_ready()
said("serving", r.workload, *r.created)
heard("close")
listening.close()
said("closed")
heard("drain")
said("drained", r.drain())
heard("end")
"""


def test_a_script_that_waits_is_seen_with_its_placement_its_identity_and_its_certificate(mesh: Mesh) -> None:
    script = mesh.script(READY + UNTIL_TOLD, MASCHE_SERVICE_ACCOUNT="seen")
    workload, identity = script.line("ready").split()
    assert identity == "spiffe://mesh.local/ns/default/sa/seen"
    found = mesh.seen("seen", lambda one: one.is_in_sync, "it is in sync")
    assert (found.workload, found.placement, found.identity) == (workload, "library", identity)
    assert (found.state, found.is_connected, found.rejections) == ("READY", True, ())
    mesh.seen("seen", lambda one: one.certificate_expires_at, "its certificate is known")
    assert found.envoy_version.startswith("masche ")
    script.tell("end")
    assert script.end() == 0


def test_a_script_that_ends_is_gone_at_once_and_in_order(mesh: Mesh) -> None:
    script = mesh.script(READY, MASCHE_SERVICE_ACCOUNT="brief")
    workload, _ = script.line("ready").split()
    assert script.end() == 0
    assert mesh.proxies("brief") == []
    assert f"{workload} left in order" in mesh.events("workload-left")
    assert script.errors == []


def test_what_a_script_called_is_counted_although_it_ends_at_once(mesh: Mesh) -> None:
    counting = """
for status in (200, 200, 503):
    facade().recorder.called(Called(cluster="outbound/default/till/80", rule="", status=status, seconds=0.01))
"""
    server = mesh.script(SERVER, MASCHE_SERVICE="till")
    server.tell("serve")
    server.line("serving")
    script = mesh.script(READY + counting, MASCHE_SERVICE_ACCOUNT="counting")
    assert script.end() == 0, script.errors

    def edges() -> list[Edge]:
        return [each for each in mesh.api.edges(window=60).edges if each.source == "default/counting"]

    [edge] = until(edges, "the edge is seen")
    assert edge.rate.requests_per_second > 0
    assert abs(edge.rate.success - 2 / 3) < 0.01


def test_a_killed_script_is_seen_as_away_and_who_starts_again_has_its_name(mesh: Mesh) -> None:
    script = mesh.script(READY + UNTIL_TOLD, MASCHE_SERVICE_ACCOUNT="killed")
    workload, _ = script.line("ready").split()
    mesh.seen("killed", lambda one: one.is_connected, "it is connected")
    script.kill()
    mesh.seen("killed", lambda one: not one.is_connected, "it is away")
    until(lambda: [each for each in mesh.events("process-lost") if workload.partition("/")[2] in each], "it is said")
    again = mesh.script(READY + UNTIL_TOLD, MASCHE_SERVICE_ACCOUNT="killed")
    assert again.line("ready").split()[0] == workload
    mesh.seen("killed", lambda one: one.is_connected, "it is back")


def test_processes_of_one_service_have_names_of_their_own(mesh: Mesh) -> None:
    scripts = [mesh.script(READY + UNTIL_TOLD, MASCHE_SERVICE_ACCOUNT="many") for _ in range(3)]
    names = {script.line("ready").split()[0] for script in scripts}
    assert len(names) == 3
    until(lambda: {each.workload for each in mesh.proxies("many")} == names, "all are seen")
    scripts[0].tell("end")
    assert scripts[0].end() == 0
    holds(lambda: len(mesh.proxies("many")) == 2, "the others stay", lasting=0.5)


def test_a_server_gets_traffic_once_its_probe_succeeds_and_loses_it_when_it_fails_and_when_it_leaves(
    mesh: Mesh,
) -> None:
    server = mesh.script(SERVER, MASCHE_SERVICE="books", MASCHE_LABELS="tier=gold")
    server.line("port")
    assert mesh.proxies("books") == []
    server.tell("serve")
    workload, created = server.line("serving").split()
    assert created == "default/books"
    found = mesh.seen("books", lambda one: one.state == "READY", "it is ready")
    assert (found.workload, found.service) == (workload, "default/books")
    assert [(port.app_port, port.mesh_port) for port in found.ports] == [(int(server.line("port")),) * 2]
    server.tell("close")
    server.line("closed")
    found = mesh.seen("books", lambda one: one.state == "UNHEALTHY", "it is unhealthy")
    assert "refused" in found.last_error
    server.tell("drain")
    assert server.line("drained") == "True"
    mesh.seen("books", lambda one: one.state == "DRAINING", "it is draining")
    server.tell("end")
    assert server.end() == 0
    assert mesh.proxies("books") == []


def test_a_machine_that_has_not_joined_is_joined_by_its_first_process_and_shared_by_the_next(
    mesh: Mesh, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    token = mesh.token(tmp_path)
    options = {"MASCHE_SERVICE_ACCOUNT": "joined", "MASCHE_TOKEN_FILE": str(token)}
    scripts = [mesh.script(READY + UNTIL_TOLD, data=elsewhere, **options) for _ in range(2)]
    names = {script.line("ready").split()[0] for script in scripts}
    assert len(names) == 2
    assert stat.S_IMODE(places.credential(elsewhere).stat().st_mode) == 0o600
    until(lambda: {each.workload for each in mesh.proxies("joined")} == names, "both are seen")
    assert len({each.machine for each in mesh.proxies("joined")}) == 1
    for script in scripts:
        script.tell("end")
        assert script.end() == 0


def test_a_credential_that_cannot_be_kept_is_this_process_s_own(mesh: Mesh, tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    token = mesh.token(tmp_path)
    script = mesh.script(READY, data=nowhere / "data", MASCHE_SERVICE_ACCOUNT="own", MASCHE_TOKEN_FILE=str(token))
    script.line("ready")
    assert script.end() == 0


def test_a_process_may_only_be_whom_its_token_allows_and_is_told_so(mesh: Mesh, tmp_path: Path) -> None:
    token = mesh.token(tmp_path, accounts=("clerk",))
    refused = """
try:
    configure(ready_timeout=2).wait_ready()
except NotReadyError as error:
    said("refused", error)
"""
    options = {"MASCHE_SERVICE_ACCOUNT": "boss", "MASCHE_TOKEN_FILE": str(token)}
    script = mesh.script(refused, data=tmp_path / "d", **options)
    words = script.line("refused")
    assert "may run the service accounts clerk, not boss" in words
    assert "make a join token that allows it" in words
