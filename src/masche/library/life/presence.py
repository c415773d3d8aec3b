"""What this process is in the mesh, from its first call to its end: its names, its ports, its certificate, its counts.

It outlives connections and pauses (around a fork the event loop ends and begins again) and is made anew in a child.
Invariant: one thread changes it, the resident's; others only ask, or hand in what to change under ``lock``.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from threading import Lock
from typing import TYPE_CHECKING

from masche.library.core.tls import Certificates
from masche.library.life import occupant
from masche.library.life.certificate import keeper_of
from masche.library.life.measures import Measures, Sums
from masche.library.life.memory import Folder
from masche.library.life.occupant import Health
from masche.library.life.options import Options
from masche.link.messages import ProxyState, Report
from masche.link.probe import Probe, Pulse
from masche.link.renewal import Renewal
from masche.model.port import Port
from masche.model.refs import Name

if TYPE_CHECKING:
    from masche.library.life.outlet import Outlet  # it loads gRPC


@dataclass(slots=True, eq=False)
class Serving:
    """One port of ours: how it is asked whether it is well (``probe``, as ``masche run --health`` says it, or the
    question itself), and how it is. ``host`` is where it is asked.
    """

    port: Port
    probe: str | Probe
    host: str
    pulse: Pulse = field(default_factory=Pulse)
    is_watched: bool = False

    @property
    def health(self) -> Health:
        """How it is."""
        return Health(phase=self.pulse.phase, reason=self.pulse.reason)


@dataclass(slots=True, eq=False)
class Presence:
    """See the module. ``process`` tells our streams from those of others on this machine.

    ``avoided`` are names that we do not take: those of the processes from which we were forked.
    """

    options: Options
    certificates: Certificates
    measures: Measures
    rng: Random
    folder: Folder | None = None
    avoided: frozenset[Name] = frozenset()
    keeper: Renewal = field(init=False)
    process: str = field(default_factory=lambda: secrets.token_hex(8))
    lock: Lock = field(default_factory=Lock)
    machine: str = ""
    zone: str = ""
    address: str = ""
    is_draining: bool = False
    is_registered: bool = False
    refusal: str = ""
    created: tuple[str, ...] = ()
    outlet: "Outlet | None" = None
    sums: Sums = field(default_factory=Sums)
    pending: list[Report] = field(default_factory=list[Report])
    sequence: int = 0
    _serving: dict[int, Serving] = field(default_factory=dict[int, Serving])
    _names: Iterator[Name] | None = None
    _name: Name | None = None

    def __post_init__(self) -> None:
        self.keeper = keeper_of(self.certificates, rng=self.rng, folder=self.folder)

    def __repr__(self) -> str:
        ports = "".join(f", port {number} {one.pulse.phase}" for number, one in self._serving.items())
        return f"<Presence {self._name or self.options.app} as {self.options.account}{ports}>"

    @property
    def name(self) -> Name | None:
        """Our workload's name, once the machine is known."""
        return self._name

    @property
    def proxy(self) -> str:
        """Our ``Node.id``, or ""."""
        return occupant.proxy_of(self._name) if self._name else ""

    def on(self, machine: str, *, zone: str, address: str) -> None:
        """We are on this machine; the first name that nobody has is ours."""
        self.zone, self.address = zone, self.options.address or address
        if machine != self.machine:
            self.machine = machine
            self._names = occupant.workload_names(self.options, machine=machine)
            self.rename()

    def rename(self) -> None:
        """Take the next name: somebody has this one."""
        assert self._names is not None
        self._name = next(name for name in self._names if name not in self.avoided)
        self.is_registered = False

    # -- our own ports ------------------------------------------------------------------------------------------------

    def serve(self, serving: Serving) -> None:
        """One more port is ours."""
        with self.lock:
            self._serving[serving.port.port] = serving

    @property
    def serving(self) -> tuple[Serving, ...]:
        """Our ports."""
        with self.lock:
            return tuple(self._serving.values())

    @property
    def health(self) -> Health:
        """How we are: as the port that does worst; well without any."""
        if self.is_draining:
            return Health(phase="DRAINING")
        order = ("UNHEALTHY", "STARTING", "READY")
        return min(
            (one.health for one in self.serving), key=lambda one: order.index(one.phase), default=Health(phase="READY")
        )

    def state(self) -> ProxyState:
        """What a control plane is told."""
        assert self._name is not None
        ports = [one.port for one in self.serving]
        return occupant.proxy_state(
            self.options, self._name, ports, zone=self.zone, address=self.address, health=self.health
        )
