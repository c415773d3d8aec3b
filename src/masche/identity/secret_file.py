"""A secret as a file while a library insists on reading one: in memory where the system can, and never left behind.

``ssl`` reads certificates and keys from paths only. Invariant: on Linux the bytes reach no file system; elsewhere they
are in a file of mode 0600 that is removed before the caller goes on.
"""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from masche.identity.keys import Secret

_NOEXEC_SEAL = 0x8
"""MFD_NOEXEC_SEAL (Linux 6.3): hardened systems refuse a memory file that could be executed, older ones the flag."""


@contextmanager
def as_file(secret: Secret) -> Generator[str]:
    """Give the path under which ``secret`` can be read until the block ends. Raises OSError."""
    descriptor = _in_memory()
    if descriptor is None:
        descriptor, path = tempfile.mkstemp(prefix="masche-")
    else:
        path = _path(descriptor)
    try:
        _write(descriptor, secret.reveal())
        yield path
    finally:
        os.close(descriptor)
        if path != _path(descriptor):
            Path(path).unlink()


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _in_memory() -> int | None:
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").exists():
        return None
    for flags in (os.MFD_CLOEXEC | _NOEXEC_SEAL, os.MFD_CLOEXEC):
        try:
            return os.memfd_create("masche", flags)
        except OSError:
            continue
    return None


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
