"""Where the agent keeps things: one folder of mode 0700 per machine, files of mode 0600, replaced and never half-done.

Unix sockets need a path below 108 bytes, so they live in a second folder with a short name when the data folder's own
path is long; that folder belongs to us alone or is refused.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from masche.identity import places

SOCKET_PATH_LIMIT = 107
_LONGEST_SOCKET_NAME = len("/relay.sock.0123456789abcdef")


class FolderError(Exception):
    """A folder is not ours alone; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Folders:
    """The places under one data folder."""

    data: Path

    @property
    def agent(self) -> Path:
        """The agent's own state."""
        return self.data / "agent"

    @property
    def sockets(self) -> Path:
        """A folder for Unix sockets whose paths must be short."""
        if len(os.fsencode(self.agent)) + _LONGEST_SOCKET_NAME <= SOCKET_PATH_LIMIT:
            return self.agent
        digest = hashlib.blake2b(os.fsencode(self.data), digest_size=6).hexdigest()
        return Path(tempfile.gettempdir()) / f"masche-{os.getuid()}-{digest}"

    @property
    def agent_socket(self) -> Path:
        """Where runners and people talk to the agent."""
        return self.sockets / "agent.sock"

    @property
    def relay_socket(self) -> Path:
        """Where Envoys talk to the agent."""
        return self.sockets / "relay.sock"

    @property
    def names_socket(self) -> Path:
        """Where runners fetch and bring the sockets at which names are answered."""
        return self.sockets / "names.sock"

    @property
    def control_socket(self) -> Path:
        """Where the control plane of this very machine listens."""
        return places.control_socket(self.data)

    @property
    def machine(self) -> Path:
        """The machine credential that ``masche join`` was given."""
        return places.machine_folder(self.data)

    @property
    def credential(self) -> Path:
        """That credential, key and chain together."""
        return places.credential(self.data)

    @property
    def certificates(self) -> Path:
        """Certificates of Gateway listeners that a person put here."""
        return self.data / "certificates"

    @property
    def agent_lock(self) -> Path:
        """Held by the living agent."""
        return self.agent / "agent.lock"

    @property
    def start_lock(self) -> Path:
        """Held by whoever is starting an agent."""
        return self.agent / "start.lock"

    @property
    def agent_log(self) -> Path:
        """What a daemonised agent says."""
        return self.agent / "agent.log"

    @property
    def seats(self) -> Path:
        """One folder per seat."""
        return self.agent / "seats"

    @property
    def hosts(self) -> Path:
        """What is remembered of the hosts of captured workloads."""
        return self.agent / "hosts.json"

    @property
    def node(self) -> Path:
        """What the one Envoy keeps that serves every seat of the node placement."""
        return self.agent / "node"

    def seat(self, workload: str) -> Path:
        """The folder of one seat; ``workload`` is ``namespace/name``."""
        return self.seats / workload.replace("/", "~")

    def prepare(self) -> None:
        """Make the folders. Raises FolderError when one belongs to someone else."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.agent, self.sockets, self.seats):
            private_folder(folder)

    def tidy(self) -> None:
        """Remove the second folder, if there is one and no Envoy listens there any more."""
        if self.sockets != self.agent:
            with contextlib.suppress(OSError):
                self.sockets.rmdir()


def private_folder(folder: Path) -> Path:
    """Make ``folder`` with mode 0700, or check that it is ours and close it to others. Raises FolderError."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise FolderError(f"{folder} is not a folder of this user: remove it, or choose another data folder (--data)")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder
