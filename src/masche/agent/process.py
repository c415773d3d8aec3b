"""The agent's process: one per machine, told apart by a lock; it ends when asked, or when idle if a runner started it.

Started by a runner as ``python -m masche.agent.process --data DIR ...`` and by ``masche agent`` through ``main``. It
leaves its Envoys running: whoever needs them brings a new agent, which adopts them. When the machine joins another
mesh meanwhile, the agent starts afresh as a machine of that one.
"""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import sys
import time
from pathlib import Path
from random import Random

from masche.agent import envoy, memory
from masche.agent.capture.host import Host as CaptureHost
from masche.agent.capture.sockets import open_in
from masche.agent.dns.server import MeshDns
from masche.agent.envoy import EnvoyError
from masche.agent.folders import FolderError, Folders
from masche.agent.launch import ALREADY_RUNNING
from masche.agent.metrics import Metrics
from masche.agent.options import AgentOptions
from masche.agent.relay import Relay
from masche.agent.report import Reporter
from masche.agent.seats import NoPortError, PortBook
from masche.agent.server import Server
from masche.agent.sidecar import Host
from masche.agent.tidying import Tidying
from masche.agent.uplink import Uplink
from masche.agent.verdicts import Verdicts
from masche.link import address, machine
from masche.link.machine import Machine, MachineError
from masche.version import VERSION

CANNOT_START = 125
"""Exit code when there is no Envoy, or a folder or credential cannot be used."""


def main(options: AgentOptions) -> int:
    """Run the agent in the foreground until SIGTERM or SIGINT; returns the exit code."""
    folders = Folders(options.data)
    memory.stay_small()
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys must not end up in core files, ours or Envoy's
    try:
        folders.prepare()
        with folders.agent_lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folders.prepare()  # the agent before us may have tidied up in between
            while (code := asyncio.run(_run(options, folders))) == _AGAIN:
                journal("this machine has joined a mesh: starting again")
            folders.tidy()
            return code
    except BlockingIOError:
        journal(f"another agent runs with the data folder {options.data}")
        return ALREADY_RUNNING
    except (FolderError, EnvoyError, MachineError, NoPortError) as error:
        journal(str(error))
        return CANNOT_START


def journal(text: str) -> None:
    """One line for whoever reads the agent's log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
    sys.stderr.flush()


def build(options: AgentOptions, folders: Folders) -> Server:
    """Everything of an agent, made and not yet running. Raises EnvoyError for one that was named, MachineError."""
    rng = Random()  # noqa: S311 - jitter and ports, no secrets
    standing = Machine(folders.data, machine.load(folders.data), rng=rng)
    reachable = options.address or address.reachable(standing.addresses)
    zone = options.zone or standing.zone
    uplink = Uplink(standing, version=VERSION, zone=zone, addresses=(reachable,), rng=rng)
    binary, version, lacking = _envoy(options.envoy)
    host = Host(
        folders=folders,
        machine=standing.id,
        zone=zone,
        address=reachable,
        binary=binary,
        envoy_version=version,
        uplink=uplink,
        relay=Relay(folders.relay_socket),
        ports=PortBook(folders.agent / "ports.json"),
        hosts=CaptureHost(folders.data, file=folders.hosts, address_range=options.address_range),
        dns=MeshDns(open_socket=open_in),
        rng=rng,
        journal=journal,
        lacking=lacking,
    )
    return Server(host)


def _envoy(wanted: str) -> tuple[Path, str, str]:
    """The binary, its version, or why there is none: programs that need no proxy are served all the same."""
    try:
        binary = envoy.find(wanted)
        return binary, envoy.version(binary), ""
    except EnvoyError as error:
        if wanted:
            raise
        return Path(), "", str(error)


_AGAIN = -1
_LOOK_SECONDS = 1.0


class _EndError(Exception):
    """The agent was asked to end, or nobody needs it."""


class _JoinedError(Exception):
    """This machine is another one than it was."""


async def _run(options: AgentOptions, folders: Folders) -> int:
    standing = _standing(folders)
    server = build(options, folders)
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    server.is_passing = options.idle_exit is not None
    host = server.host
    journal(f"agent of {host.machine}, control plane {host.uplink.address}, data {folders.data}")
    pages, reporter = _pages(options, server), _reporter(server)
    server.recall()
    code = 0
    try:
        async with asyncio.TaskGroup() as group:
            await host.relay.start()
            for work in (
                pages.run(),
                reporter.run(),
                Verdicts(proxies=server.proxies, tell=host.uplink.tell, suspect=server.suspect).run(),
                host.uplink.run(),
                server.run(),
                host.dns.lender.run(folders.names_socket),
                _until_asked(asked),
                _until_joined(folders, standing),
                Tidying(server, reporter).run(),
                _until_idle(server, options.idle_exit),
            ):
                group.create_task(work)
    except* _EndError:
        journal("agent ends; proxies go on")
    except* _JoinedError:
        code = _AGAIN
    finally:
        host.ports.close()
        await host.relay.stop()
    return code


def _pages(options: AgentOptions, server: Server) -> Metrics:
    """Metrics and readiness of everything that is seated here, and where the server says that they are."""
    pages = Metrics(
        address=options.metrics_address,
        ports=server.host.ports,
        proxies=server.proxies,
        seated=lambda: tuple(server.seated.values()),
    )
    server.metrics = f"http://{options.metrics_address}:{pages.metrics_port}/metrics"
    server.readiness = f"http://{options.metrics_address}:{pages.readiness_port}/"
    return pages


def _reporter(server: Server) -> Reporter:
    """Reports of what the proxies here counted, and the server's word to them when a seat is given back."""
    reporter = Reporter(
        machine=server.host.machine,
        uplink=server.host.uplink,
        version=server.host.envoy_version,
        proxies=server.proxies,
        programs=server.programs,
    )
    server.part = reporter.part
    return reporter


async def _until_asked(asked: asyncio.Event) -> None:
    await asked.wait()
    raise _EndError


def _standing(folders: Folders) -> tuple[str, str] | None:
    """Which machine this is and where it joined; None beside its control plane. Raises MachineError."""
    found = machine.load(folders.data)
    return (found.machine, found.joining) if found else None


async def _until_joined(folders: Folders, standing: tuple[str, str] | None) -> None:
    """Until ``masche join`` has left the credential of another machine than the one that this agent speaks for."""
    read_at = 0
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(FileNotFoundError, MachineError):
            written_at = folders.credential.stat().st_mtime_ns
            if written_at != read_at and _standing(folders) != standing:
                raise _JoinedError
            read_at = written_at


async def _until_idle(server: Server, seconds: float | None) -> None:
    """Until nobody has had a seat for so long; None is never."""
    while seconds is not None:
        await asyncio.sleep(min(seconds, 1.0))
        if not server.seated and time.monotonic() - server.idle_since >= seconds:
            raise _EndError


def _parse(words: list[str]) -> AgentOptions:
    """Read back what ``launch.command`` wrote: pairs of an option and its value."""
    given = dict(zip(words[::2], words[1::2], strict=True))
    idle = given.get("--idle-exit")
    return AgentOptions(
        data=Path(given["--data"]),
        envoy=given.get("--envoy", ""),
        zone=given.get("--zone", ""),
        address=given.get("--address", ""),
        address_range=given.get("--address-range", ""),
        idle_exit=float(idle) if idle else None,
    )


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))
