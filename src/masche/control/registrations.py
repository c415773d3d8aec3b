"""Which proxies agents have registered, for whom, and whether they are here: the control plane's memory of machines.

A registration lives as long as its agent's stream; what outlives it (the Workload in the store) is the registry's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from msgspec import structs

from masche.link.messages import Occupant, ProxyReport, ProxyState
from masche.model.refs import Name

REMEMBERED = 256
"""How many proxies that left are still known by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One proxy as its agent described it. ``machine`` is the authenticated one; ``since`` is Unix seconds.

    ``process`` is which process of the machine registered it, "" for the agent.
    """

    state: ProxyState
    machine: str
    process: str = ""
    is_local: bool
    since: float
    report: ProxyReport | None = None

    @property
    def workloads(self) -> tuple[Name, ...]:
        """The workloads that this proxy serves."""
        return tuple(occupant.seat.workload for occupant in self.state.occupants)

    def occupant(self, workload: Name) -> Occupant | None:
        """What was said of one workload."""
        return next((each for each in self.state.occupants if each.seat.workload == workload), None)


@dataclass(slots=True)
class Registrations:
    """All registrations by proxy id, and the last ``REMEMBERED`` that left: their last report comes after them.

    So it is with the workloads of a node, whose proxy stays.
    """

    _by_proxy: dict[str, Registration] = field(default_factory=dict[str, Registration])
    _departed: dict[str, Registration] = field(default_factory=dict[str, Registration])
    _moved_out: dict[tuple[str, Name], Occupant] = field(default_factory=dict[tuple[str, Name], Occupant])

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._by_proxy.values())

    def get(self, proxy: str) -> Registration | None:
        """The registration of a proxy, if its agent is connected."""
        return self._by_proxy.get(proxy)

    def put(self, registration: Registration) -> None:
        """Register or replace; what the agent last reported is kept."""
        if (old := self._by_proxy.get(registration.state.proxy)) is not None:
            self._note_moves(old, registration)
            registration = replace(registration, report=old.report, since=old.since)
        self._by_proxy[registration.state.proxy] = registration

    def _note_moves(self, old: Registration, new: Registration) -> None:
        here = set(new.workloads)
        gone = {(old.state.proxy, each.seat.workload): each for each in old.state.occupants}
        self._moved_out |= {key: each for key, each in gone.items() if key[1] not in here}
        while len(self._moved_out) > REMEMBERED:
            del self._moved_out[next(iter(self._moved_out))]

    def occupant(self, registration: Registration, workload: Name) -> Occupant | None:
        """What was said of one workload of a proxy, also when it left a moment ago."""
        return registration.occupant(workload) or self._moved_out.get((registration.state.proxy, workload))

    def remove(self, proxy: str) -> None:
        """A proxy left."""
        if (found := self._by_proxy.pop(proxy, None)) is not None:
            self._departed[proxy] = found
            while len(self._departed) > REMEMBERED:
                del self._departed[next(iter(self._departed))]

    def departed(self, proxy: str) -> Registration | None:
        """The registration of a proxy that left lately."""
        return self._departed.get(proxy)

    def of_process(self, machine: str, process: str) -> tuple[Registration, ...]:
        """What one process of a machine registered."""
        return tuple(each for each in self.of_machine(machine) if each.process == process)

    def of_machine(self, machine: str) -> tuple[Registration, ...]:
        """What one machine registered."""
        return tuple(each for each in self._by_proxy.values() if each.machine == machine)

    def reported(self, report: ProxyReport, machine: str) -> Registration | None:
        """Remember how a proxy is, without what it counted; None when this machine has no such proxy."""
        found = self._by_proxy.get(report.proxy)
        if found is None or found.machine != machine:
            return None
        kept = structs.replace(report, edges=(), endpoints=())
        found = self._by_proxy[report.proxy] = replace(found, report=kept)
        return found
