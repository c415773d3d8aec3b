import asyncio
import ctypes
import json
import os
import pwd
import select
import signal
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

from masche.agent import command
from masche.agent.capture import inside
from masche.agent.capture.inside import UserError, user
from masche.agent.command import CommandError
from masche.agent.processes import identify

pytestmark = pytest.mark.root

NOBODY = pwd.getpwnam("nobody")

KEEPS_APART = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6
"""Whether the Landlock of this kernel knows scopes."""

WHO = """
import os
seen = os.getresuid(), os.getresgid(), os.getgroups(), os.stat("/proc/self/ns/net").st_ino
print((*seen, os.environ["HOME"], os.environ["USER"]))
"""

RUNNER = """
import asyncio, os, sys
from masche.agent import command
from masche.agent.capture.inside import user

async def main():
    to = {"is_service": True, "namespace_path": sys.argv[1], "user": user("nobody")}
    started = command.start(["sleep", "600"], os.environ, **to)
    print(started.process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_command_runs_in_the_namespace_as_the_user_and_with_nothing_of_root(
    netns: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["/usr/bin/env", "python3", "-I", "-c", WHO]
    someone = user(str(NOBODY.pw_uid))
    handle = command.start(arguments, os.environ, is_service=True, namespace_path=str(netns), user=someone)
    await asyncio.wait_for(handle.wait(), 30)
    assert command.exit_code(handle) == 0
    uids, gids, groups, namespace, home, name = literal_eval(capfd.readouterr().out)
    assert set(uids) == {NOBODY.pw_uid}
    assert set(gids) == {NOBODY.pw_gid}
    assert set(groups) == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert namespace == netns.stat().st_ino
    assert (home, name) == (NOBODY.pw_dir, "nobody")


def test_a_command_of_another_user_ends_with_its_runner_too(netns: Path):
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(netns)], stdout=subprocess.PIPE, text=True)
    assert runner.stdout
    process = identify(int(runner.stdout.readline()))
    assert process
    assert Path(f"/proc/{process.pid}").stat().st_uid == NOBODY.pw_uid
    descriptor = os.pidfd_open(process.pid)
    runner.send_signal(signal.SIGKILL)
    runner.wait(30)
    runner.stdout.close()
    assert select.select([descriptor], [], [], 30)[0], "the command outlives its runner"
    os.close(descriptor)


async def test_daemons_that_answer_names_for_the_whole_machine_are_out_of_sight(
    netns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    socket = tmp_path / "resolved"
    socket.write_text("here")
    monkeypatch.setattr(inside, "NAME_DAEMONS", (str(socket), str(tmp_path / "missing")))
    handle = command.start(["test", "-s", str(socket)], os.environ, is_service=True, namespace_path=str(netns))
    await asyncio.wait_for(handle.wait(), 30)
    assert command.exit_code(handle) == 1
    assert socket.read_text() == "here"


INTRUDER = """
import ctypes, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
pid, agent = map(int, sys.argv[1:])

def tried(what):
    try:
        return what() and "done"
    except OSError as error:
        return type(error).__name__

def traced(pid):
    if libc.ptrace(16, pid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
    return True

def stolen(pid):
    if libc.syscall(438, os.pidfd_open(pid), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return True

found = {}
for name, each in ("neighbour", pid), ("agent", agent):
    for what in "environ", "mem", "root/etc", "ns/net", "cwd", "fd/0":
        path = f"/proc/{each}/{what}"
        read = os.listdir if what == "root/etc" else os.readlink if what in {"ns/net", "cwd", "fd/0"} else open
        found[f"{name}'s {what}"] = tried(lambda: read(path))
    found[f"{name}'s memory"] = tried(lambda: traced(each))
    found[f"{name}'s sockets"] = tried(lambda: stolen(each))
    found[f"{name}'s end"] = tried(lambda: os.kill(each, signal.SIGKILL) or True)
print(json.dumps(found))
"""


async def test_a_command_takes_over_no_other_of_the_same_user_and_no_process_of_the_agent(
    netns: Path, capfd: pytest.CaptureFixture[str]
):
    """Its neighbour has another namespace and the same user; without Landlock only a user of its own helps."""
    there = {"is_service": True, "namespace_path": str(netns), "user": user("nobody")}
    neighbour = command.start(["/bin/sleep", "600"], os.environ, **there)
    given = [str(neighbour.process.pid), str(os.getpid())]
    intruder = command.start(["/usr/bin/env", "python3", "-I", "-c", INTRUDER, *given], os.environ, **there)
    await asyncio.wait_for(intruder.wait(), 30)
    assert command.exit_code(intruder) == 0
    found: dict[str, str] = json.loads(capfd.readouterr().out)
    assert len(found) == 18
    guarded = {what: how for what, how in found.items() if KEEPS_APART or what.startswith("agent")}
    assert set(guarded.values()) == {"PermissionError"}, guarded
    assert (neighbour.code is None) == KEEPS_APART
    neighbour.send(signal.SIGKILL)
    await asyncio.wait_for(neighbour.wait(), 30)


def test_who_is_no_user_is_said():
    with pytest.raises(UserError, match="n3t-nobody"):
        user("n3t-nobody")


def test_a_namespace_that_is_gone_is_said(tmp_path: Path):
    with pytest.raises(CommandError, match="gone"):
        command.start(["true"], os.environ, is_service=True, namespace_path=str(tmp_path / "gone"))
