"""A certificate, its key and the roots as files for a program that reads them itself: gRPC's ``file_watcher``.

Each set is a folder of its own, and a link leads to the newest, so that nobody ever reads the certificate of one set
with the key of another. Invariant: the files are 0600 in folders of 0700, whatever the umask.
"""

import contextlib
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from masche.identity.files import private_folder, sync_folder, write_private

CURRENT = "current"
"""The link to the newest set."""


def show(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Put a new set of files in the place of the old one, all at once, and return the path that leads to the newest.

    Raises UnsafeFileError, OSError.
    """
    private_folder(folder)
    fresh = folder / f"set-{secrets.token_hex(8)}"
    fresh.mkdir(mode=0o700)
    for name, content in files.items():
        write_private(fresh / name, content)
    link = folder / f"{CURRENT}-{fresh.name}"
    link.symlink_to(fresh.name)
    link.replace(folder / CURRENT)
    sync_folder(folder)
    for each in folder.iterdir():
        if each not in {fresh, folder / CURRENT}:
            _remove(each)
    return folder / CURRENT


def withdraw(folder: Path) -> None:
    """Take the files away: what expired is shown to nobody. Who read them may keep them in memory."""
    with contextlib.suppress(FileNotFoundError):
        for each in tuple(folder.iterdir()):
            _remove(each)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
