"""What of a machine's last good configuration somebody needs who has left and may come back to no control plane.

Decided from what the seats on disk say: whose they are, and what may be called from there. Invariant: what is not known
to be somebody's is kept.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from masche.agent import occupancy
from masche.model.refs import Name
from masche.model.vantage import Placement
from masche.wire.types import ROUTES

_OWNED = frozenset({"capture", "capture-inbound", "inbound", "local"})
"""With what the names begin that belong to one workload, whose name follows."""

_CAPTURED, _CALLED = "capture", "outbound"
"""The table of routes of a namespace begins like the listener of a workload; the other is a port of a Service."""

_SERVICE_PARTS = 4


def owner(name: str) -> Name | None:
    """Return whose listener, cluster or table of routes it is; None when it is nobody's own."""
    kind, _, rest = name.partition("/")
    parts = rest.split("/")
    return Name(parts[0], parts[1]) if kind in _OWNED and len(parts) > 1 else None


def wanted(seats: Iterable[Path]) -> Callable[[str, str], bool]:
    """Return what says, of a type and a name, whether somebody may need it whose seat is in one of these folders."""
    workloads, namespaces, services = set[Name](), set[str](), set[str]()
    for folder in seats:
        record = occupancy.read_record(folder)
        if record and record.claim.placement is Placement.NODE:
            workloads.add(Name(*record.seat.workload))
            namespaces.add(record.claim.namespace)
            services.update(each.port.path for each in record.services)

    def is_wanted(type_url: str, name: str) -> bool:
        kind, *parts = name.split("/")
        if type_url == ROUTES and kind == _CAPTURED:
            return bool(namespaces & {*parts[:1]})
        if kind == _CALLED:
            return "/".join((kind, *parts[: _SERVICE_PARTS - 1])) in services
        whose = owner(name)
        return whose is None or whose in workloads

    return is_wanted
