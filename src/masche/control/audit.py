"""The audit log: one JSON line for every certificate issued or refused, written before the certificate leaves.

Append-only, mode 0600. A line is handed to the kernel before ``Audit`` returns, so it survives a kill of this process.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from masche.identity.authority import Issuance, Refusal


class AuditLog:
    """Appends to one file. ``wall`` is Unix seconds."""

    def __init__(self, path: Path, *, wall: Callable[[], float]) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(self._descriptor, 0o600)
        self._wall = wall

    def certificate(self, what: Issuance | Refusal) -> None:
        """Record one decision of the authority. Raises OSError, and then nothing may leave."""
        fields: dict[str, object] = {"at": round(self._wall(), 3), "identity": str(what.identity)}
        match what:
            case Issuance():
                fields |= {"event": "issued", "serial": what.serial, "key": what.key, "not_after": what.not_after}
            case Refusal():
                fields |= {"event": "refused", "why": what.why}
        os.write(self._descriptor, json.dumps(fields).encode() + b"\n")

    def close(self) -> None:
        """Give the file free."""
        os.close(self._descriptor)
