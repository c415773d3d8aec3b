"""Files that are their owner's alone: keys, tokens, records of an agent.

Whatever the umask, such a file is 0600 from its first byte and its folder 0700; what others could read is refused, so
that a key which leaked once is not used on in silence.
"""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeFileError(Exception):
    """A private file or folder can be read by others, or belongs to someone else; the text says what to run."""


def private_folder(folder: Path) -> None:
    """Make a folder of mode 0700, and its missing parents too. Raises UnsafeFileError when it is not ours alone."""
    for missing in reversed([part for part in folder.parents if not part.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeFileError(f"{folder} is not a folder")
    _check_private(folder, found)


def write_private(path: Path, data: bytes, *, is_durable: bool = True) -> None:
    """Write a file of mode 0600 in one step: after a crash it has its old content or its new, never a part.

    The new content is in a file of its own, of an unpredictable name in the same folder, until it is durable. What is
    worth nothing after a crash of the machine need not be (``is_durable`` False): then no disk is waited for, which may
    take seconds while others write much, and only a crash of this process finds the file whole.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, _NEW_FLAGS, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if is_durable:
        sync_folder(path.parent)


def read_private(path: Path) -> bytes:
    """Read a file that must be ours alone. Raises UnsafeFileError, FileNotFoundError, OSError (also for a symlink)."""
    with os.fdopen(os.open(path, _READ_FLAGS), "rb") as file:
        _check_private(path, os.fstat(file.fileno()))
        return file.read()


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise UnsafeFileError(f"{path} belongs to user {found.st_uid}, not to {os.geteuid()} who runs this")
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafeFileError(f"{path} can be used by others (mode {mode:03o} for them); run: chmod go= {path}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
