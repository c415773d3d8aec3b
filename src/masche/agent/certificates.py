"""Certificates of Gateway listeners, which a person puts on the gateway's own machine and nowhere else.

``<data>/certificates/<namespace>/<name>/tls.crt`` and ``tls.key`` (0600) answer the certificateRef of that name.
They are read again every few seconds, so replacing the files renews the certificate. No key is taken from a network.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

from masche.agent.sds import Shelf
from masche.identity import keys
from masche.identity.files import UnsafeFileError
from masche.model.blob import Blob
from masche.wire import framing, secret
from masche.wire.types import SECRET

INTERVAL = 5.0
"""Seconds between two looks at the files."""


async def keep(folder: Path, shelf: Shelf, journal: Callable[[str], None]) -> None:
    """Put what is in ``folder`` on the shelf, now and whenever it changes, for ever."""
    complaints: set[str] = set()
    while True:
        found, wrong = read(folder)
        changed = [blob for blob in found if (old := shelf.blobs.get(blob.name)) is None or old.version != blob.version]
        if changed:
            shelf.put(*changed)
        for text in wrong:
            if text not in complaints:
                complaints.add(text)
                journal(text)
        await asyncio.sleep(INTERVAL)


def read(folder: Path) -> tuple[tuple[Blob, ...], tuple[str, ...]]:
    """The secrets in ``folder``, and what is wrong with those that cannot be used."""
    found: list[Blob] = []
    wrong: list[str] = []
    for place in _places(folder):
        name = f"kubernetes://{place.parent.name}/{place.name}"
        try:
            chain = (place / "tls.crt").read_bytes()
            key = keys.read_secret(place / "tls.key").reveal()
        except (OSError, UnsafeFileError) as error:
            wrong.append(f"{name} cannot be used: {error}")
            continue
        found.append(framing.blob(SECRET, name, secret.certificate(name, chain, key)))
    return tuple(found), tuple(wrong)


def _places(folder: Path) -> Iterator[Path]:
    for namespace in sorted(folder.iterdir()) if folder.is_dir() else ():
        if namespace.is_dir():
            yield from sorted(place for place in namespace.iterdir() if place.is_dir())
