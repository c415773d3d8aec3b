"""Decides when a silent workload stops being an endpoint: one state machine, pure, told the time.

A lease is renewed by the workload's agent and, in its place, by callers who still succeed. Invariant: expiry never
takes the last sound endpoint of a Service, never more than a third of a Service or of the mesh (one is always allowed
where others are sound), and counts no time in which this control plane was down, not synced or without its store.

The choices made where the law is silent:

- **The last one stays.** When nobody else of a Service is sound, its silent instance is neither marked nor removed:
  callers have nowhere else to go, Envoy's own ejection answers as fast as a mark would, and if only we cannot hear the
  instance, marking it would be the outage. A finding names it. It goes when a successor is sound, or when its machine's
  agent is back and does not name it, or when somebody deletes it.
- **Marks are lifted** when the instance is heard of again, when callers succeed, and when no other endpoint of its
  Service is left.
- **Success vouches for an endpoint**, so that it is not even marked: once marked it would get no calls to succeed.
- **What does not serve is not protected**: a STARTING, DRAINING or unhealthy instance takes nothing from callers by
  going; it goes two leases after it was last heard of.
- **A workload that no Service selects** is counted with the mesh alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.workload import Workload, WorkloadState

EXPIRED = "lease expired"
"""How ``status.reason`` of a marked Workload begins; it is how a control plane knows a mark again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkUnhealthy:
    """Write UNHEALTHY with ``reason`` into the Workload's status."""

    workload: Name
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Take the mark away: write READY, because ``reason``."""

    workload: Name
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Delete the Workload, because ``reason``."""

    workload: Name
    reason: str


Decision = MarkUnhealthy | Restore | Remove


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Expired leases that are not acted upon. ``service`` is None when the whole mesh is meant."""

    service: Name | None
    expired: tuple[Name, ...]
    members: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do now, what is held back and why, and when to ask again (None: when something changes)."""

    decisions: tuple[Decision, ...] = ()
    held: tuple[Held, ...] = ()
    next_deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The Workloads of a Mesh as leases see them.

    ``leased`` maps those that an agent registered to their machine (hand-written ones have no lease); ``services`` maps
    a Service to all it selects; ``ready`` are READY, ``marked`` carry our mark.
    """

    leased: Mapping[Name, str] = field(default_factory=dict[Name, str])
    services: Mapping[Name, frozenset[Name]] = field(default_factory=dict[Name, frozenset[Name]])
    ready: frozenset[Name] = frozenset()
    marked: frozenset[Name] = frozenset()

    def services_of(self) -> Mapping[Name, Sequence[Name]]:
        """The Services of each Workload."""
        found: dict[Name, list[Name]] = {}
        for service, members in self.services.items():
            for workload in members:
                found.setdefault(workload, []).append(service)
        return found


def is_marked(workload: Workload) -> bool:
    """Whether a Workload is UNHEALTHY for no other reason than an expired lease."""
    status = workload.status
    return bool(status and status.state is WorkloadState.UNHEALTHY and status.reason.startswith(EXPIRED))


def census(mesh: Mesh) -> Census:
    """Count a Mesh. To be made once per Mesh, not per tick."""
    workloads = mesh.workloads
    rooms: dict[str, list[tuple[Name, Workload]]] = {}
    for name, workload in workloads.items():
        rooms.setdefault(name.namespace, []).append((name, workload))
    services = {
        name: frozenset(
            each
            for each, workload in rooms.get(name.namespace, ())
            if service.spec.selector.items() <= workload.metadata.labels.items()
        )
        for name, service in mesh.services.items()
        if service.spec.selector
    }
    return Census(
        leased={name: w.status.machine for name, w in workloads.items() if w.status and w.status.machine},
        services=services,
        ready=frozenset(name for name, w in workloads.items() if w.state is WorkloadState.READY),
        marked=frozenset(name for name, w in workloads.items() if is_marked(w)),
    )


@dataclass(slots=True)
class _Lease:
    """``seen_at`` is when it appeared in the store, if we were there: that is before its agent's words are counted."""

    seen_at: float = -inf
    heard_at: float = -inf
    vouched_at: float = -inf
    marked_at: float | None = None
    machine: str = ""


class Leases:
    """What this control plane has heard of each workload. ``lease`` and all times are monotonic seconds."""

    def __init__(self, *, lease: float = 15.0) -> None:
        self.lease = lease
        self._leases: dict[Name, _Lease] = {}
        self._has_looked = False
        self._removed: dict[Name, tuple[float, tuple[Name, ...]]] = {}

    def __repr__(self) -> str:
        return f"<Leases {len(self._leases)} of {self.lease:g} s>"

    def heartbeat(self, workload: Name, *, machine: str, now: float) -> None:
        """The agent of ``machine`` says that it runs this workload."""
        lease = self._leases.setdefault(workload, _Lease())
        lease.heard_at, lease.machine = max(lease.heard_at, now), machine

    def observe(self, workload: Name, *, now: float) -> None:
        """Callers had answers from it until ``now``."""
        lease = self._leases.setdefault(workload, _Lease())
        lease.vouched_at = max(lease.vouched_at, now)

    def leave(self, workload: Name) -> Remove:
        """It left in order: its lease ends at once, and nothing is counted against its Service."""
        self._leases.pop(workload, None)
        return Remove(workload=workload, reason="left in order")

    def tick(self, *, now: float, synced_since: float | None, census: Census) -> Verdict:
        """Say what to do now. Asking twice gives the same answer until it is carried out in the Mesh.

        ``synced_since`` is when this control plane began to be up, synced and able to reach its store without a break;
        None when it is not.
        """
        self._keep_up(census, now)
        if synced_since is None:
            return Verdict(held=())
        silent = self._silent(census, now, synced_since)
        restored = self._restored(census, silent)
        held_services, held = self._held(census, silent - restored.keys())
        decisions: list[Decision] = list(restored.values())
        services_of = census.services_of()
        for workload in sorted(silent - restored.keys()):
            services = tuple(services_of.get(workload, ()))
            if None in held_services or any(service in held_services for service in services):
                continue
            decision = self._expire(workload, now, synced_since, census)
            decisions += [decision] if decision else []
            if isinstance(decision, Remove):
                self._removed[workload] = (now, services)
        return Verdict(
            decisions=tuple(decisions), held=held, next_deadline=self._next(census, silent, now, synced_since)
        )

    def _keep_up(self, census: Census, now: float) -> None:
        """Adopt what the store knows, forget what it lost, and remember since when a mark stands."""
        for workload in census.leased:
            if workload not in self._leases:
                self._leases[workload] = _Lease(seen_at=now if self._has_looked else -inf)
        self._has_looked = True
        for workload, lease in list(self._leases.items()):
            if workload not in census.leased and self._last(lease) + self.lease < now:
                del self._leases[workload]
            elif workload not in census.marked:
                lease.marked_at = None
            elif lease.marked_at is None:
                lease.marked_at = now
        self._removed = {
            name: (at, services)
            for name, (at, services) in self._removed.items()
            if at + self.lease > now and name not in census.leased
        }

    @staticmethod
    def _last(lease: _Lease) -> float:
        return max(lease.heard_at, lease.vouched_at)

    def _counted_from(self, lease: _Lease, synced_since: float) -> float:
        return max(self._last(lease), lease.seen_at, synced_since)

    def _silent(self, census: Census, now: float, synced_since: float) -> frozenset[Name]:
        if now < synced_since + self.lease:
            return frozenset()
        leases = ((name, self._leases[name]) for name in census.leased)
        return frozenset(name for name, each in leases if self._counted_from(each, synced_since) + self.lease <= now)

    def _restored(self, census: Census, silent: frozenset[Name]) -> dict[Name, Restore]:
        """Marks to lift: of what was heard again, and of all of a Service that has nobody else left."""
        restored = {
            name: Restore(workload=name, reason="heard of again")
            for name in sorted(census.marked & census.leased.keys())
            if self._last(self._leases[name]) > -inf and name not in silent and self._spoke_since_mark(name)
        }
        for service, members in sorted(census.services.items()):
            marked = (members & census.marked) - restored.keys()
            if marked and not members & (census.ready | restored.keys()):
                why = f"nothing else of {service} is left to call"
                restored |= {name: Restore(workload=name, reason=why) for name in sorted(marked)}
        return restored

    def _spoke_since_mark(self, workload: Name) -> bool:
        lease = self._leases[workload]
        return lease.marked_at is None or self._last(lease) + self.lease > lease.marked_at

    def _held(self, census: Census, silent: frozenset[Name]) -> tuple[frozenset[Name | None], tuple[Held, ...]]:
        held: list[Held] = []
        everyone, expired_in_all = len(census.leased) + len(self._removed), len(silent) + len(self._removed)
        if expired_in_all > _allowance(everyone):
            why = f"{expired_in_all} of {everyone} leases of the mesh expired together: is the network cut?"
            held.append(Held(service=None, expired=tuple(sorted(silent)), members=everyone, why=why))
        for service, members in sorted(census.services.items()):
            if expired := members & silent:
                gone = sum(service in services for _, services in self._removed.values())
                if why := _protection(service, members, expired, gone, census):
                    total = len(members) + gone
                    held.append(Held(service=service, expired=tuple(sorted(expired)), members=total, why=why))
        return frozenset(each.service for each in held), tuple(held)

    def _expire(self, workload: Name, now: float, synced_since: float, census: Census) -> Decision | None:
        lease = self._leases[workload]
        if workload in census.ready:
            heard_at = self._last(lease)
            since = f"not heard of for {now - heard_at:.0f} s" if heard_at > -inf else "not heard of since we started"
            return MarkUnhealthy(workload=workload, reason=f"{EXPIRED}: machine {census.leased[workload]} {since}")
        if self._removal_at(lease, synced_since) <= now:
            return Remove(workload=workload, reason=f"{EXPIRED}, and a second lease with it")
        return None

    def _removal_at(self, lease: _Lease, synced_since: float) -> float:
        """One lease after the mark, or after the lease of what was not serving anyway."""
        if lease.marked_at is not None:
            return max(lease.marked_at, synced_since) + self.lease
        return self._counted_from(lease, synced_since) + 2 * self.lease

    def _next(self, census: Census, silent: frozenset[Name], now: float, synced_since: float) -> float | None:
        """The first instant after ``now`` at which time alone could change the answer."""
        deadlines = {removed_at + self.lease for removed_at, _ in self._removed.values()}
        for name in census.leased:
            lease = self._leases[name]
            if name not in silent:
                deadlines.add(self._counted_from(lease, synced_since) + self.lease)
            else:
                deadlines.add(self._removal_at(lease, synced_since))
        return min((deadline for deadline in deadlines if deadline > now), default=None)


def _protection(service: Name, members: frozenset[Name], expired: frozenset[Name], gone: int, census: Census) -> str:
    """Why a Service must not lose what expired, ``gone`` having gone within this lease; "" when it may."""
    if expired & (census.ready | census.marked) and not (members - expired) & census.ready:
        return f"nothing else of {service} is left to call"
    lost, total = len(expired) + gone, len(members) + gone
    if lost > _allowance(total):
        return f"{lost} of {total} instances of {service} expired together: is the network cut?"
    return ""


def _allowance(members: int) -> int:
    """How many of ``members`` may expire within one lease: a third, and one in any case."""
    return max(1, members // 3)
