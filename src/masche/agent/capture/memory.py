"""What one data folder remembers of its workload hosts: the range, each workload's number, what it adopted.

Invariant: what is to be made is written down before it is made, so that it is found again whoever is killed when.
"""

from pathlib import Path

import msgspec

from masche.agent.capture.host_rules import Addressed
from masche.identity.files import write_private


class Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """``numbers``, ``adopted`` and ``addressed`` are by workload (``namespace/name``); ``leaving`` have exclusions.

    ``has_table`` says that there is, or may be, a table of ours in the host's own namespace.
    """

    range: str = ""
    numbers: dict[str, int] = {}
    adopted: dict[str, str] = {}
    addressed: dict[str, Addressed] = {}
    leaving: set[str] = set()
    has_table: bool = False


def read(file: Path) -> Memory:
    """Return what was written; nothing when there is nothing that can be read."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Memory)
    except (OSError, msgspec.DecodeError):
        return Memory()


def write(file: Path, memory: Memory) -> None:
    """Write it down. That a crash of the machine may lose it does no harm: what it tells of is lost as well."""
    write_private(file, msgspec.json.encode(memory), is_durable=False)
