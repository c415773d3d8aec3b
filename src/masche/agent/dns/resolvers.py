"""The host's own resolvers and search domains, as resolv.conf(5) names them, read again when the file has changed.

Invariant: never a resolver that is not an address, so that nothing is resolved in order to resolve.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

RESOLV_CONF: Final = Path("/etc/resolv.conf")

MOST_SERVERS: Final = 3
"""MAXNS of resolv.conf(5)."""

MOST_DOMAINS: Final = 32
LOOKED_AT_EVERY: Final = 1.0
"""Seconds."""

LARGEST_FILE: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolvers:
    """``servers`` are addresses, the preferred one first; ``search`` are domains in lower case without dots around."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def read(text: str) -> Resolvers:
    """Read the two kinds of lines that matter here; of several ``search`` and ``domain`` lines the last one counts."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for words in (line.split() for line in text.splitlines()):
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            servers.append(words[1])
        elif len(words) > 1 and words[0] in {"search", "domain"}:
            search = tuple(one.strip(".").lower() for one in words[1 : MOST_DOMAINS + 1])
    return Resolvers(servers=tuple(servers[:MOST_SERVERS]), search=tuple(one for one in search if one))


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True


class HostResolvers:
    """What the file says now. A file that cannot be read leaves what it said before."""

    def __init__(self, path: Path = RESOLV_CONF, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._looked_at = float("-inf")
        self._seen: tuple[int, int] | None = None
        self._said = Resolvers()

    def __repr__(self) -> str:
        return f"<HostResolvers {self._path}: {self._said}>"

    def __call__(self) -> Resolvers:
        """The resolvers of now, at most a second old."""
        if self._now() - self._looked_at >= LOOKED_AT_EVERY:
            self._looked_at = self._now()
            self._look()
        return self._said

    def _look(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                with self._path.open(errors="replace") as file:
                    said = read(file.read(LARGEST_FILE))
                self._said, self._seen = (self._said if said == self._said else said), seen
        except OSError:
            return
