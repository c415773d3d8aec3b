"""``masche agent --cleanup``: takes away everything that agents of one data folder left on this machine.

Network namespaces, links, nft tables, sockets and what seats kept go; what makes this machine a member of its mesh and
what a control plane stores stay. An agent that a runner started, and that nobody needs now, is ended first. Invariants:
nothing is taken from under somebody who uses it, a running agent or a command whose runner lives; whoever is killed in
the middle of it can do it again.
"""

import asyncio
import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM

from masche.agent import leftovers
from masche.agent.capture import apply
from masche.agent.capture.apply import CaptureError
from masche.agent.capture.host import Host
from masche.agent.envoy import Place, left_behind, read_record
from masche.agent.folders import FolderError, Folders
from masche.agent.launch import ALREADY_RUNNING
from masche.agent.processes import Handle
from masche.agent.stopping import ask_status, stop_agent

FAILED = 1
"""Exit code when something could not be removed."""

ENDED_WITHIN = 15.0
"""Seconds that an Envoy may take to end that nobody needs any more."""

Say = Callable[[str], None]


def cleanup(data: Path, say: Say) -> int:
    """Take everything away and say what; returns the exit code: 0, 1 when it failed, 75 while somebody uses it."""
    folders = Folders(data)
    if not folders.agent.exists() and not _traces(Host(data, file=folders.hosts)):
        say(f"nothing of an agent with the data folder {data} is on this machine")
        return 0
    try:
        folders.prepare()
        _end_unneeded(folders, say)
        with folders.agent_lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return asyncio.run(_cleanup(folders, say))
    except BlockingIOError:
        status = ask_status(folders)
        pid = str(status.pid) if status else "PID"
        say(
            f"an agent runs with the data folder {data}: end its `masche run`s, or the agent itself with"
            f" `kill {pid}`, and clean up then"
        )
        return ALREADY_RUNNING
    except (CaptureError, FolderError, OSError) as error:
        say(str(error))
        return FAILED


async def _cleanup(folders: Folders, say: Say) -> int:
    if users := tuple(_users(folders)):
        say(f"still in use by {', '.join(users)}: end what `masche run` started, and clean up then")
        return ALREADY_RUNNING
    for folder, envoy in _envoys(folders):
        say(f"ending the Envoy that was left of {folder.name} (pid {envoy.process.pid})")
        envoy.send(SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDED_WITHIN):
                await envoy.wait()
        envoy.close()
    if record := read_record(Place(folder=folders.node, admin=folders.sockets / "node.admin")):
        record.line.clear(folders.sockets / "node.admin")
    host = Host(folders.data, file=folders.hosts)
    traces = _traces(host)
    await host.cleanup()
    for each in traces:
        say(f"removed {each}")
    for folder in {folders.sockets, folders.agent}:
        shutil.rmtree(folder)
        say(f"removed {folder}")
    return 0


def _end_unneeded(folders: Folders, say: Say) -> None:
    """End an agent that waits for another `masche run`, as it would itself a minute after the last one."""
    status = ask_status(folders)
    if status and status.is_passing and not status.seats and stop_agent(folders):
        say(f"ended the agent that nobody needed (pid {status.pid})")


def _users(folders: Folders) -> Iterator[str]:
    """The seats whose runners live."""
    for folder in _seats(folders):
        if not leftovers.is_orphan(folder, waited=leftovers.UNKNOWN_SECONDS):
            yield folder.name.replace("~", "/", 1)


def _envoys(folders: Folders) -> Iterator[tuple[Path, Handle]]:
    """The Envoys that an agent left behind, and the folders of those whom they served."""
    for folder in (*_seats(folders), folders.node):
        for handle in left_behind(Place(folder=folder, admin=folder / "unused")):
            yield folder, handle


def _seats(folders: Folders) -> tuple[Path, ...]:
    return tuple(sorted(folders.seats.iterdir()))


def _traces(host: Host) -> tuple[str, ...]:
    """What of the host's is ours, in words."""
    names = host.names
    bridges = (names.bridge,) if apply.has_link(names.bridge) else ()
    return (
        *(f"the network namespace {each}" for each in apply.namespaces_like(names.namespaces)),
        *(f"the link {each}" for each in (*apply.links_like(names.links), *bridges)),
        *(f"our table in the network namespace {each}" for each in host.adopted),
    )
