"""The configuration that one Envoy has acknowledged, kept on disk so that it can start while no control plane is there.

One small file per resource, mode 0600, replaced at once, with a digest in front: what was half-written or altered is as
if it were not there. Invariant: nothing is kept that Envoy has not acknowledged.
"""

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from masche.agent.folders import private_folder
from masche.wire.discovery import DeltaResponse, Framed, decode_delta_response
from masche.wire.framing import WireError
from masche.wire.types import LISTENER, MAKE_BEFORE_BREAK

_DIGEST_BYTES = 16
_REMOVED = ".removed"
"""What the name of a file ends with whose resource was removed, and is remembered all the same."""


class LastGood:
    """What one proxy acknowledged, by type and name. Nothing of it is held in memory.

    ``keeps_removed``: what was removed belonged to somebody who may come back, and is remembered until ``prune``.
    """

    def __init__(self, folder: Path, *, keeps_removed: bool = False) -> None:
        self._folder = private_folder(folder)
        self._keeps_removed = keeps_removed

    def __repr__(self) -> str:
        return f"<LastGood {self._folder}>"

    def keep(self, response: DeltaResponse) -> None:
        """Remember what Envoy acknowledged, and forget what it was told to remove, if that is not kept."""
        if not response.resources and not response.removed:
            return
        folder = private_folder(self._of_type(response.type_url))
        for resource in response.resources:
            _write(folder / _file_name(resource.name), resource.frame)
            (folder / (_file_name(resource.name) + _REMOVED)).unlink(missing_ok=True)
        for name in response.removed:
            self._remove(folder / _file_name(name))

    def _remove(self, path: Path) -> None:
        if self._keeps_removed:
            with suppress(FileNotFoundError):
                path.replace(path.with_suffix(_REMOVED))
        else:
            path.unlink(missing_ok=True)

    def let_go(self, type_url: str, names: Iterable[str]) -> None:
        """Take note that Envoy, which asks for these by name, does so no more."""
        for name in names if self._keeps_removed else ():
            self._remove(self._of_type(type_url) / _file_name(name))

    def prune(self, is_wanted: Callable[[str, str], bool]) -> None:
        """Forget what is removed, but for that of which ``is_wanted`` says so by its type and name."""
        for type_url in MAKE_BEFORE_BREAK:
            for path in self._of_type(type_url).glob(f"*{_REMOVED}"):
                found = _read(path)
                if found is None or not is_wanted(type_url, found.name):
                    path.unlink(missing_ok=True)

    def named(self, type_url: str, names: Iterable[str]) -> tuple[Framed, ...]:
        """Those of ``names`` that are remembered."""
        folder = self._of_type(type_url)
        paths = (folder / _file_name(name) for name in names)
        found = (_read(path) or _read(path.with_suffix(_REMOVED)) for path in paths)
        return tuple(resource for resource in found if resource)

    def every(self, type_url: str) -> tuple[Framed, ...]:
        """All that is remembered of one type, sorted by name."""
        folder = self._of_type(type_url)
        found = (_read(path) for path in (folder.iterdir() if folder.is_dir() else ()))
        return tuple(sorted(resource for resource in found if resource))

    def has_listeners(self) -> bool:
        """Whether a proxy could serve anything with what is remembered."""
        return bool(self.every(LISTENER))

    def forget(self) -> None:
        """Remember nothing."""
        shutil.rmtree(self._folder, ignore_errors=True)
        private_folder(self._folder)

    def _of_type(self, type_url: str) -> Path:
        return self._folder / type_url.rpartition(".")[2].replace("/", "_")


def _file_name(name: str) -> str:
    return blake2b(name.encode(), digest_size=16).hexdigest()


def _write(path: Path, frame: bytes) -> None:
    """Replace without fsync: a crash of the machine may cost the file, which its digest then tells.

    An Envoy that starts again acknowledges what is there already: that is read, for to write may wait for a busy disk.
    """
    content = blake2b(frame, digest_size=_DIGEST_BYTES).digest() + frame
    if _has(path, content):
        return
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_bytes(content)
    temporary.replace(path)


def _has(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _read(path: Path) -> Framed | None:
    try:
        content = path.read_bytes()
        digest, frame = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if blake2b(frame, digest_size=_DIGEST_BYTES).digest() != digest:
            return None
        return decode_delta_response(frame).resources[0]
    except (OSError, WireError, IndexError):
        return None
