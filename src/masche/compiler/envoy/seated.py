"""What belongs to one seat is called by its name where a proxy serves several, and shows its own certificate.

Decided from the placement and the Seat. Invariant: on a proxy that serves several workloads no two of them share a
name, so that whoever comes or goes changes nothing of the others'; a proxy that serves one calls things as it always
did.
"""

from dataclasses import dataclass

from masche.model.refs import Name
from masche.model.vantage import Placement, Seat, Vantage
from masche.wire import secret

LOCAL = "local"
"""What the names of internal listeners for calls within one proxy begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated:
    """How the resources of one workload are named; ``is_shared`` says that its proxy serves others, too."""

    workload: Name
    is_shared: bool

    @classmethod
    def of(cls, vantage: Vantage, seat: Seat) -> "Seated":
        """Read the placement."""
        return cls(workload=Name(*seat.workload), is_shared=is_shared(vantage))

    @property
    def certificate(self) -> str:
        """The name of the secret that holds the workload's certificate and key."""
        return secret.certificate_of(self.workload) if self.is_shared else secret.CERTIFICATE

    @property
    def tag(self) -> str:
        """The value of the tag ``workload`` of its statistics; "" where there is no such tag."""
        return str(self.workload) if self.is_shared else ""

    def inbound(self, port: int) -> str:
        """Return the name of the listener, the cluster and the table of an application port."""
        return f"inbound/{self._prefix}{port}"

    @property
    def capture(self) -> str:
        """The listener in which the connections that it makes arrive."""
        return f"capture/{self.workload}" if self.is_shared else "capture"

    @property
    def capture_inbound(self) -> str:
        """The listener in which connections arrive that were made to it, but not by way of its mesh ports."""
        return f"capture-inbound/{self.workload}" if self.is_shared else "capture-inbound"

    def local(self, mesh_port: int) -> str:
        """Return the internal listener that stands for a mesh port where the callers are workloads of its own proxy."""
        return local(str(self.workload), mesh_port)

    @property
    def _prefix(self) -> str:
        return f"{self.workload}/" if self.is_shared else ""


def is_shared(vantage: Vantage) -> bool:
    """Say whether workloads of this placement share a proxy."""
    return vantage.placement is Placement.NODE


def local(workload: str, mesh_port: int) -> str:
    """Return the name of a workload's internal listener; it is known from an endpoint alone."""
    return f"{LOCAL}/{workload}/{mesh_port}"
