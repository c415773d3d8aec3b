"""What seats leave behind when an agent dies: Envoys that somebody may claim again, and folders that nobody will.

An Envoy is ended once the runner that held its seat is known to have ended, and never before, however long that runner
takes to claim it again. Invariant: the process that holds a seat is noted before the seat's Envoy starts.
"""

import contextlib
import socket
import struct
from pathlib import Path

import msgspec

from masche.agent.processes import ProcessId, identify
from masche.identity.files import write_private

UNKNOWN_SECONDS = 10.0
"""How long an Envoy waits to be claimed when it is not known (another pid namespace) which process held its seat."""

FORGOTTEN_SECONDS = 7 * 86_400.0
"""How long a seat that nobody takes keeps its folder and its ports; its certificate ended long before."""

_PEER = struct.Struct("3i")
"""``struct ucred`` of unix(7): pid, uid, gid."""


def peer_of(connection: socket.socket) -> ProcessId | None:
    """The process at the other end of a Unix socket; None when it is gone or cannot be seen from here."""
    pid, _, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return identify(pid) if pid else None


def note_holder(folder: Path, holder: ProcessId | None) -> None:
    """Write down which process holds this seat, for an agent that comes later."""
    if holder:
        # No process outlives the machine.
        write_private(_file(folder), msgspec.json.encode(holder), is_durable=False)
    else:
        _file(folder).unlink(missing_ok=True)


def is_orphan(folder: Path, *, waited: float) -> bool:
    """Whether nobody will claim the Envoy of this seat any more, which has waited for ``waited`` seconds."""
    holder = _holder(folder)
    return waited >= UNKNOWN_SECONDS if holder is None else identify(holder.pid) != holder


def is_forgotten(folder: Path, *, now: float) -> bool:
    """Whether nobody has taken this seat for FORGOTTEN_SECONDS; ``now`` is Unix seconds."""
    try:
        touched = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # gone, or being taken at this moment
        return False
    return now - touched > FORGOTTEN_SECONDS


def _holder(folder: Path) -> ProcessId | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(_file(folder).read_bytes(), type=ProcessId)
    return None


def _file(folder: Path) -> Path:
    return folder / "holder.json"
