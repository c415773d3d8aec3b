"""Three machines, twelve workloads in three languages, none of which knows of a mesh. What passes between the machines
is looked at on the wire; an Envoy is replaced while all of them call. Item A9 of the node placement.
"""

import http.client
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from e2e.calling import Answer, call
from e2e.intruder import REQUEST, Certificate, encrypted, plaintext
from e2e.load import Load
from e2e.machines import ZONES, Country, country
from e2e.mesh import APP, NODE_APP, ON_THE_NODE, SERVERS, Instance, service
from e2e.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

SECRET = f"a-secret-{secrets.token_hex(8)}"
LANGUAGES = ("python", "node", "go")
SECONDS = 60 if os.environ.get("MASCHE_LONG") == "1" else 10


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Generator[Country, None, None]:
    with country(tmp_path_factory.mktemp("m")) as found:
        yield found


@pytest.fixture(scope="module")
def go_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("go") / "app"
    subprocess.run(["go", "build", "-o", binary, SERVERS / "app.go"], check=True, timeout=200)
    return binary


@pytest.fixture(scope="module")
def placed(three: Country, go_app: Path) -> dict[tuple[str, str], Instance]:
    """By service and zone."""
    mesh = three.mesh
    mesh.apply("".join(map(service, LANGUAGES)))
    commands = {"python": APP, "node": NODE_APP, "go": (str(go_app),), "caller": APP}
    found = {
        (name, zone): mesh.run(name, command, name=f"{name}.{zone}", data=three[zone].data, options=ON_THE_NODE)
        for zone in ZONES
        for name, command in commands.items()
    }
    assert len(found) == 12
    mesh.await_ready(*found.values())
    until(mesh.is_in_sync, "every proxy is in sync")
    return found


def _asked(caller: Instance, name: str) -> Answer | None:
    try:
        return caller.within(lambda: call(f"http://{name}/", method="POST", body=SECRET.encode()))
    except (OSError, http.client.HTTPException):
        return None


def identity(name: str) -> str:
    return f"spiffe://mesh.local/ns/shop/sa/{name}"


def test_both_ends_of_every_call_know_each_other_and_no_word_is_seen_on_the_wire(
    three: Country, placed: dict[tuple[str, str], Instance]
) -> None:
    pairs: set[tuple[str, str]] = set()
    for zone in ZONES:
        caller = placed["caller", zone]
        for name in LANGUAGES:
            until(
                lambda caller=caller, name=name: (got := _asked(caller, name)) and got.status == 200, f"{name} answers"
            )
            heard: set[str] = set()
            for _ in range(60):
                answer = _asked(caller, name)
                assert answer
                assert answer.status == 200, answer
                assert answer.seen["body"] == SECRET
                there = answer.seen["name"].partition(".")[2]
                heard.add(there)
                (shown,) = answer.seen_header("x-forwarded-client-cert")
                assert f"URI={identity('caller')}" in shown
                assert f"By={identity(name)}" in shown
                assert ("Hash=" in shown) == (there != zone), "a certificate is shown between machines, and only there"
            pairs |= {(zone, there) for there in heard}
    assert {source for source, _ in pairs} == set(ZONES)
    assert any(source != there for source, there in pairs), "nobody called another machine"
    assert three.wire.encrypted() > 0
    words = SECRET.encode(), b"HTTP/1.1", b"x-forwarded", b"content-length"
    assert three.wire.carried(*words, but=REQUEST) == [], "but what an intruder says in the clear"


def test_who_calls_past_its_proxy_has_no_certificate_and_gets_no_answer(
    three: Country, placed: dict[tuple[str, str], Instance], tmp_path: Path
) -> None:
    """A captured workload speaks to the mesh port of another machine itself: in the clear, or with TLS of its own."""
    caller, callee = placed["caller", "vienna"], placed["node", "milan"]
    where = three["milan"].address, callee.mesh_port
    forged = Certificate.of_another_authority(tmp_path, identity("caller"))
    tries = {
        "plaintext": lambda: plaintext(*where, REQUEST),
        "no certificate": lambda: encrypted(*where, REQUEST),
        "a certificate of its own": lambda: encrypted(*where, REQUEST, certificate=forged),
    }
    for what, attempt in tries.items():
        assert caller.within(attempt) == b"", what


def test_one_envoy_serves_each_machine(placed: dict[tuple[str, str], Instance]) -> None:
    pids = {zone: {one.seat.envoy_pid for (_, there), one in placed.items() if there == zone} for zone in ZONES}
    assert all(len(some) == 1 for some in pids.values())
    assert len(set.union(*pids.values())) == 3


def test_a_slow_line_is_left_and_taken_again(three: Country, placed: dict[tuple[str, str], Instance]) -> None:
    """Python of Vienna has ended, so its callers there have Milan and Zurich."""
    mine = placed.pop(("python", "vienna"))
    mine.terminate()
    assert mine.wait() == 0
    caller = placed["caller", "vienna"]
    with Load("http://python/", rate=50, namespace=caller.netns) as load:

        def milan() -> float:
            heard = load.servers(since=load.calls[-1].at - 3 if load.calls else 0.0)
            return heard["python.milan"] / (heard.total() or 1)

        until(lambda: load.made() > 50 and milan() > 0.2, "Milan has its part", within=60)
        three.machines.switch.delay("vienna", "milan", 0.15)
        until(lambda: milan() < 0.15, "the slow line is left", within=60)
        three.machines.switch.delay("vienna", "milan", 0.0)
        until(lambda: milan() > 0.2, "the line is taken again", within=90)
    load.assert_none_failed()


def test_a_killed_envoy_is_back_and_fails_no_call_of_another_machine(
    three: Country, placed: dict[tuple[str, str], Instance]
) -> None:
    """A8: who calls its own machine's instance elsewhere loses nothing; of the machine itself the open calls alone."""
    own, other = placed["caller", "milan"], placed["caller", "zurich"]
    before = own.seat.envoy_pid
    with (
        Load("http://go/", rate=30, namespace=own.netns) as inside,
        Load("http://go/", rate=30, namespace=other.netns) as outside,
    ):
        inside.lasts(1)
        os.kill(before, signal.SIGKILL)
        until(lambda: own.seat.envoy_pid not in {0, before} and _answers(own, "go"), "it is back")
        back = time.monotonic()
        inside.lasts(1)
        outside.lasts(1)
    outside.assert_none_failed()
    assert inside.failed(), "the kill cost nothing, so it was none"
    assert not inside.failed(since=back)


def _answers(caller: Instance, name: str) -> bool:
    answer = _asked(caller, name)
    return answer is not None and answer.status == 200


@pytest.mark.parametrize("is_fresh", [True, False], ids=["new connections", "kept ones"])
def test_an_envoy_is_replaced_under_load_and_no_call_of_anybody_is_lost(
    three: Country, placed: dict[tuple[str, str], Instance], is_fresh: bool
) -> None:
    """A9: callers of its own machine and of others, to instances of its own machine and of others."""
    own, other = placed["caller", "milan"], placed["caller", "zurich"]
    before = own.seat.envoy_pid
    with (
        Load("http://node/", rate=100, is_fresh=is_fresh, namespace=own.netns) as inside,
        Load("http://node/", rate=100, is_fresh=is_fresh, namespace=other.netns) as outside,
    ):
        inside.lasts(2)
        done = three.mesh.masche("agent", "--upgrade", data=three["milan"].data, within=120)
        assert done.returncode == 0, done.stderr
        assert "replaced" in done.stdout
        inside.lasts(SECONDS)
        until(lambda: not Path(f"/proc/{before}/cmdline").exists() or not _words(before), "the old one ends", within=60)
    inside.assert_none_failed()
    outside.assert_none_failed()
    assert own.seat.envoy_pid not in {0, before}
    three.mesh.apply(service(f"later-{is_fresh:d}"))  # who serves now is told, and says what it holds
    until(three.mesh.is_in_sync, "every proxy is in sync")
    assert own.seat.is_online


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
