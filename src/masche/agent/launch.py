"""Reaches the agent of this machine, and starts one when there is none: one, however many runners ask at once.

The agent is a daemon in a session of its own, so that it outlives the runner that happened to start it. It gets only
the variables that it needs: proxy settings must not bend its connections, and the caller's secrets do not concern it.
"""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from typing import IO

from masche.agent.folders import Folders
from masche.agent.local import MAX_LINE_BYTES
from masche.agent.options import IDLE_EXIT, AgentOptions

START_SECONDS = 15.0
"""How long an agent may take to listen."""

ALREADY_RUNNING = 75
"""Exit code (EX_TEMPFAIL) of an agent when another one holds its data folder."""

_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "MASCHE_ENVOY"})

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NoAgentError(Exception):
    """There is no agent and none could be started; the message says why."""


async def connect(options: AgentOptions) -> Connection:
    """Connect to the agent, after starting one if need be. Raises NoAgentError, FolderError."""
    folders = Folders(options.data)
    if found := await _try(folders):
        return found
    folders.prepare()
    with os.fdopen(os.open(folders.start_lock, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
        await _locked(lock)
        return await _try(folders) or await _start(folders, options)


async def _try(folders: Folders) -> Connection | None:
    try:
        return await asyncio.open_unix_connection(str(folders.agent_socket), limit=MAX_LINE_BYTES)
    except OSError:
        return None


async def _locked(lock: IO[bytes]) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.05)
        else:
            return


async def _start(folders: Folders, options: AgentOptions) -> Connection:
    child = _spawn(folders, options)
    try:
        return await _until_it_listens(child, folders)
    except asyncio.CancelledError:
        child.terminate()  # nobody waits for it any more: it must not be left behind, perhaps in a folder that goes
        child.wait()
        raise


async def _until_it_listens(child: "subprocess.Popen[bytes]", folders: Folders) -> Connection:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if found := await _try(folders):
            child.returncode = 0  # it lives on; whoever adopts it reaps it, not our destructor
            return found
        if child.poll() not in {None, ALREADY_RUNNING}:  # a running one that does not listen yet will do so
            raise NoAgentError(f"the agent ended with code {child.returncode}: {_last_words(folders)}")
        await asyncio.sleep(0.02)
    child.kill()
    child.wait()
    raise NoAgentError(f"the agent did not listen within {START_SECONDS:g} s; see {folders.agent_log}")


def _spawn(folders: Folders, options: AgentOptions) -> "subprocess.Popen[bytes]":
    with os.fdopen(os.open(folders.agent_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module, with options as they were given
            command(options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={name: value for name, value in os.environ.items() if name in _PASSED_ON},
            cwd="/",
            start_new_session=True,
        )


def command(options: AgentOptions) -> list[str]:
    """How an agent is started by a runner; ``masche.agent.process`` reads it back."""
    words = [sys.executable, "-m", "masche.agent.process", "--data", str(options.data), "--idle-exit", str(IDLE_EXIT)]
    given = (
        ("--envoy", options.envoy),
        ("--zone", options.zone),
        ("--address", options.address),
        ("--address-range", options.address_range),
    )
    for name, value in given:
        words += [name, value] if value else []
    return words


def _last_words(folders: Folders) -> str:
    lines = folders.agent_log.read_text(errors="replace").strip().splitlines()
    if not shutil.disk_usage(folders.agent).free:
        return f"the disk of {folders.agent} is full; free some space and try again"
    return lines[-1] if lines else f"it said nothing; see {folders.agent_log}"
