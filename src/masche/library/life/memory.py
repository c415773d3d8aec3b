"""What a process was told and what it showed, for a time in which nobody tells it: in memory, or on disk if asked for.

On disk it is one file per resource and one for certificate and key, mode 0600, replaced at once, with a digest in
front: what was half-written or altered is as if it were not there. Invariant: only what was understood is kept.
"""

import contextlib
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from masche.identity import files
from masche.identity.files import UnsafeFileError
from masche.link.renewal import Kept
from masche.xds.client_words import Decoder, Decoders, Key

DIGEST_BYTES: Final = 16
MOST: Final = 50_000
"""So many resources are kept."""


class Folder:
    """A folder of our own. What cannot be written is not kept, and that is all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<Folder {self._path}>"

    def put(self, name: str, data: bytes) -> None:
        """Keep."""
        with contextlib.suppress(OSError, UnsafeFileError):
            files.private_folder(self._path)
            files.write_private(self._file(name), blake2b(data, digest_size=DIGEST_BYTES).digest() + data)

    def get(self, name: str) -> bytes | None:
        """What was kept, if it is whole."""
        try:
            content = files.read_private(self._file(name))
        except (OSError, UnsafeFileError):
            return None
        digest, data = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        return data if blake2b(data, digest_size=DIGEST_BYTES).digest() == digest else None

    def certificate(self) -> Kept | None:
        """The certificate of an earlier process."""
        try:
            return msgspec.json.decode(self.get("certificate") or b"", type=Kept)
        except msgspec.DecodeError:
            return None

    def keep_certificate(self, kept: Kept) -> None:
        """Keep it for a later process."""
        self.put("certificate", msgspec.json.encode(kept))

    def _file(self, name: str) -> Path:
        return self._path / blake2b(name.encode(), digest_size=16).hexdigest()


class Memory:
    """The resources that were understood. ``earlier`` is what another run of this process remembers."""

    def __init__(self, folder: Folder | None = None, earlier: "Memory | None" = None) -> None:
        self._folder = folder
        self._earlier: dict[Key, object] = earlier.all() if earlier else {}
        self.values: dict[Key, object] = {}

    def __repr__(self) -> str:
        return f"<Memory of {len(self.values)} resources>"

    def all(self) -> dict[Key, object]:
        """What is remembered of this run, and of those before it."""
        return {**self._earlier, **self.values} if len(self._earlier) < MOST else dict(self.values)

    def again(self) -> "Memory":
        """The memory of the next run, which begins with ours."""
        return Memory(self._folder, self)

    def decoders(self, decoders: Decoders) -> Decoders:
        """The same decoders, whose results are remembered."""
        return {type_url: self._remembering(type_url, decode) for type_url, decode in decoders.items()}

    def recall(self, key: Key, decoders: Decoders) -> object | None:
        """What was last known of a resource; None when nothing is."""
        if key in self.values:
            return self.values[key]
        if key in self._earlier:
            return self._earlier[key]
        data = self._folder.get(" ".join(key)) if self._folder else None
        if data is None:
            return None
        try:
            return decoders[key[0]](key[1], data)
        except Exception:  # noqa: BLE001 - a decoder may raise what it likes; then nothing is known
            return None

    def _remembering(self, type_url: str, decode: Decoder) -> Decoder:
        def remembering(name: str, data: bytes) -> object:
            value = decode(name, data)
            if len(self.values) < MOST:
                self.values[type_url, name] = value
            if self._folder:
                self._folder.put(f"{type_url} {name}", data)
            return value

        return remembering
