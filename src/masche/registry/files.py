"""The files of a store: who may read them, which process owns them, and whether they are as new as they should be.

The lock file doubles as a witness: after every durable commit it is told the revision. A store that is older than its
witness has lost acknowledged writes (a deleted write-ahead log, an old copy put in its place) and is refused.
"""

import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from masche.model.ports import StoreError

PRIVATE = 0o600
_WITNESS_BYTES = 80
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """The last revision that is known to be durable, of which store."""

    cluster: str
    revision: int


class Ownership:
    """The lock on a store, held until ``release`` or until the process ends, however it ends."""

    def __init__(self, lock: Path, fd: int) -> None:
        self.lock = lock
        self._fd = fd

    @classmethod
    def take(cls, store: Path) -> "Ownership":
        """Own the store at ``store``. Raises StoreError when another process does, or nobody can."""
        refuse_network_filesystem(store.parent)
        lock = store.with_name(store.name + ".lock")
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            os.fchmod(fd, PRIVATE)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
            why = f"{store} is in use by another control plane; stop that one or give this one its own --data folder"
            raise StoreError(why) from None
        return cls(lock, fd)

    def read(self) -> Witness | None:
        """What the witness last heard, or None when it heard nothing yet."""
        match os.pread(self._fd, _WITNESS_BYTES, 0).split():
            case [cluster, revision] if revision.isdigit():
                return Witness(cluster=cluster.decode(), revision=int(revision))
            case _:
                return None

    def testify(self, witness: Witness) -> None:
        """Tell the witness of a durable revision. It needs no fsync: an older testimony is still a true one."""
        line = f"{witness.cluster} {witness.revision}".ljust(_WITNESS_BYTES - 1) + "\n"
        with suppress(OSError):  # a full disk may refuse the first line; the commit itself is durable all the same
            os.pwrite(self._fd, line.encode(), 0)

    def release(self) -> None:
        """Give the store free."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_private(path: Path) -> None:
    """Make sure that ``path`` exists and only its owner can read it, whatever the umask says."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    try:
        os.fchmod(fd, PRIVATE)
    finally:
        os.close(fd)


def refuse_network_filesystem(folder: Path) -> None:
    """Raise StoreError on a file system whose locks and shared memory SQLite cannot trust."""
    kind = filesystem(folder.resolve(), Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace"))
    if kind in _NETWORK:
        why = f"{folder} is on a network file system ({kind}), where a store can be damaged; put it on a local disk"
        raise StoreError(why)


def filesystem(path: Path, mounts: str) -> str:
    """Name the file system type that holds ``path``, given the text of /proc/self/mounts."""
    kind, longest = "", -1
    for line in mounts.splitlines():
        fields = line.split()
        point = Path(fields[1].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = fields[2], len(point.parts)
    return kind
