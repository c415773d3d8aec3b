"""Doubles of what a library server needs of its process: what the mesh says of its ports, and who counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from masche.library.core.ports import Received
from masche.model.view import Inbound


@dataclass(slots=True, kw_only=True)
class StaticReception:
    """Implements ``library.core.ports.Reception``. Change ``told`` to let the mesh say something else."""

    told: Mapping[int, Inbound] = field(default_factory=dict[int, Inbound])
    waits_for: str = "the control plane at 127.0.0.1:15012"

    def inbound(self, port: int) -> Inbound | None:
        """What was told of this port."""
        return self.told.get(port)

    def waiting_for(self) -> str:
        """Nothing once something was told."""
        return "" if self.told else self.waits_for


@dataclass(slots=True)
class Counted:
    """Implements ``library.core.ports.Counter``: keeps everything."""

    requests: list[Received] = field(default_factory=list[Received])

    def received(self, received: Received) -> None:
        """Keep it."""
        self.requests.append(received)

    def statuses(self) -> list[int]:
        """The statuses, in order."""
        return [each.status for each in self.requests]
