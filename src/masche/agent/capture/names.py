"""What masche's things on a host are called, so that those of one data folder are told from those of another. Pure.

Invariant: every name begins with what the data folder alone decides, so that all of them are found again with nothing
remembered, and an interface's name is at most 15 characters long, as Linux wants it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from masche.model.refs import Name

NAMESPACES = Path("/var/run/netns")
"""Where ``ip netns`` keeps the files of network namespaces."""

INNER = "eth0"
"""The workload's end of its link."""

TABLE = "masche"
"""The nft table in a workload's namespace."""

_LONGEST_FILE = 255


@dataclass(frozen=True, slots=True)
class Names:
    """The names under one ``tag``: six hexadecimal digits."""

    tag: str

    @property
    def bridge(self) -> str:
        """The bridge to which every link of this data folder goes."""
        return f"masche-{self.tag}"

    @property
    def mac(self) -> str:
        """The bridge's own hardware address: one that ports which come and go do not change."""
        digest = hashlib.blake2b(self.tag.encode(), digest_size=5).hexdigest()
        return ":".join(("02", *(digest[at : at + 2] for at in range(0, 10, 2))))

    @property
    def links(self) -> str:
        """How the names of the host's ends of links begin."""
        return f"m{self.tag}-"

    @property
    def namespaces(self) -> str:
        """How the names of network namespaces begin."""
        return f"masche-{self.tag}."

    @property
    def host_table(self) -> str:
        """The nft table of ours in the host's own namespace, if there is one."""
        return f"masche_{self.tag}"

    def link(self, number: int) -> str:
        """The host's end of the link of the workload with this number (below 2**24)."""
        return f"{self.links}{number:x}"

    def namespace(self, workload: Name) -> str:
        """The workload's network namespace, by a name that people recognise where it fits into a file's."""
        full = f"{self.namespaces}{workload.namespace}.{workload.name}"
        if len(full) <= _LONGEST_FILE:
            return full
        return self.namespaces + hashlib.blake2b(str(workload).encode(), digest_size=16).hexdigest()


def names_of(data: Path) -> Names:
    """The names for one data folder, whatever way it is written."""
    return Names(hashlib.blake2b(bytes(data.resolve()), digest_size=3).hexdigest())


def path_of(namespace: str) -> Path:
    """The file of a network namespace."""
    return NAMESPACES / namespace
