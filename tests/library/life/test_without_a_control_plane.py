"""With nobody to ask: what is held serves on, what is not is waited for, and said; never less than the mesh."""

import stat
from pathlib import Path

from e2e.waiting import until
from library.life.mesh import Mesh, Script

LIVING = """
r = configure()
r.wait_ready(20)
said("ready", r.workload)
knowledge = facade().knowledge
found = knowledge.want("stock").result(20)
said("known", *found.destinations)
while True:
    heard("look")
    known = knowledge.known("stock")
    context = facade().identity.client_context(("spiffe://mesh.local/ns/default/sa/stock",))
    facade().recorder.called(Called(cluster="outbound/default/stock/80", rule="", status=200, seconds=0.01))
    said("look", known is not None and bool(known.destinations), r.is_connected, r.waiting_for() or "nothing")
"""

STOCK = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
r = configure()
r.serve(listening.getsockname()[1], probe="none")
r.wait_ready()
said("serving")
heard("end")
"""


def looked(script: Script) -> list[str]:
    """How it looks from within, now."""
    before = len(script.lines)
    script.tell("look")
    until(lambda: len(script.lines) > before, f"it looked: {script.errors}")
    return script.lines[-1].split()[1:]


def test_a_process_serves_from_what_it_holds_and_is_back_when_the_control_plane_is(own_mesh: Mesh) -> None:
    own_mesh.up()
    stock = own_mesh.script(STOCK, MASCHE_SERVICE="stock")
    stock.line("serving")
    script = own_mesh.script(LIVING, MASCHE_SERVICE_ACCOUNT="steady")
    workload = script.line("ready")
    assert "outbound/default/stock/80" in script.line("known")
    assert looked(script) == ["True", "True", "nothing"]
    own_mesh.down()
    until(lambda: looked(script) == ["True", "False", "nothing"], "it serves on without a control plane")
    own_mesh.up()
    until(lambda: looked(script) == ["True", "True", "nothing"], "it is back")
    found = own_mesh.seen("steady", lambda one: one.is_in_sync, "it is in sync again")
    assert found.workload == workload
    own_mesh.seen("stock", lambda one: one.is_connected and one.state == "READY", "so is the other")
    looked(script)
    until(lambda: [e for e in own_mesh.api.edges(window=60).edges if e.source == "default/steady"], "it is counted")


STARTING = """
import time
began = time.monotonic()
r = configure()
said("imported", round(time.monotonic() - began, 3))
try:
    r.wait_ready()
except NotReadyError as error:
    said("late", round(time.monotonic() - began, 1), error)
try:
    facade().identity.client_context(("spiffe://mesh.local/ns/default/sa/stock",))
except NotReadyError as error:
    said("no context", error)
try:
    facade().identity.server_context()
except NotReadyError as error:
    said("no server", error)
said("knows", facade().knowledge.known("stock"))
r.wait_ready(60)
said("ready", r.workload)
"""


def test_a_start_without_a_control_plane_waits_as_long_as_it_was_told_and_says_for_what(own_mesh: Mesh) -> None:
    script = own_mesh.script(STARTING, MASCHE_READY_TIMEOUT="1500ms", MASCHE_SERVICE_ACCOUNT="steady")
    seconds, _, words = script.line("late").partition(" ")
    assert 1.5 <= float(seconds) < 15.0, "it waited as long as it would have without being told"
    assert f"no control plane runs on {own_mesh.data}" in words
    assert "start it with `masche up`" in words
    assert "no certificate" in script.line("no context")
    assert "no certificate" in script.line("no server")
    assert script.line("knows") == "None"
    own_mesh.up()
    script.line("ready", within=30)
    assert script.end() == 0, script.errors


REMEMBERING = """
r = configure()
r.wait_ready()
said("ready", r.is_connected, facade().identity.spiffe_id)
found = facade().knowledge.want("stock").result(10)
said("known", *(f"{e.address}:{e.port}" for p in found.endpoints.values() for l in p.localities for e in l.endpoints))
heard("end")
"""


def test_a_start_without_a_control_plane_begins_with_what_was_last_good_if_that_was_asked_for(own_mesh: Mesh) -> None:
    own_mesh.up()
    stock = own_mesh.script(STOCK, MASCHE_SERVICE="stock")
    stock.line("serving")
    first = own_mesh.script(REMEMBERING, MASCHE_LAST_GOOD="1", MASCHE_SERVICE_ACCOUNT="steady")
    known = until(lambda: first.line("known"), "an instance is known")
    first.tell("end")
    assert first.end() == 0, first.errors
    own_mesh.down()
    again = own_mesh.script(REMEMBERING, MASCHE_LAST_GOOD="1", MASCHE_SERVICE_ACCOUNT="steady")
    assert again.line("ready").split() == ["False", "spiffe://mesh.local/ns/default/sa/steady"]
    assert again.line("known") == known
    files = [path for path in (own_mesh.data / "library").rglob("*") if path.is_file()]
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_nothing_is_kept_on_disk_unless_it_was_asked_for(own_mesh: Mesh, tmp_path: Path) -> None:
    own_mesh.up()
    token = own_mesh.token(tmp_path)
    script = own_mesh.script(
        "configure().wait_ready()", data=tmp_path / "own", MASCHE_TOKEN_FILE=str(token), MASCHE_SERVICE_ACCOUNT="steady"
    )
    assert script.end() == 0, script.errors
    kept = {path.relative_to(tmp_path / "own").as_posix() for path in (tmp_path / "own").rglob("*") if path.is_file()}
    assert kept == {"machine/credential.json", "machine/lock"}


DEFECTIVE = """
from masche.library.life.life import Life
whole, defects = Life._hear, []

def defective(self, event):
    whole(self, event)
    if "Scope" in type(event).__name__ and not defects:
        defects.append(event)
        raise RuntimeError("a defect of ours")

Life._hear = defective
r = configure()
waiting = facade().knowledge.want("stock")
r.wait_ready(20)
said("known", *waiting.result(20).destinations)
said("defects", len(defects))
"""


def test_a_defect_of_the_resident_is_said_and_ends_nothing(own_mesh: Mesh) -> None:
    own_mesh.up()
    stock = own_mesh.script(STOCK, MASCHE_SERVICE="stock")
    stock.line("serving")
    script = own_mesh.script(DEFECTIVE, MASCHE_SERVICE_ACCOUNT="steady")
    assert "outbound/default/stock/80" in script.line("known"), "who waited has gone on waiting"
    assert script.line("defects") == "1"
    assert script.end() == 0
    assert any("begins again" in line for line in script.errors)
    assert any("a defect of ours" in line for line in script.errors)
