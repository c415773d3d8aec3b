"""The control plane's one place where things change: it follows the registry, settles bursts, compiles, and tells each
proxy what to hold.

Two invariants. Until the source was read once nothing is wanted of anybody, so that a control plane that knows nothing
empties no proxy. And a Mesh is only ever replaced whole, so that whoever reads sees one revision.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from masche.compiler.vantage import stand
from masche.control.compilation import Compilation, Habits, Place
from masche.control.pulse import Pulse
from masche.control.readiness import Readiness
from masche.control.registrations import Registration, Registrations
from masche.control.rollouts import Progress, Rollouts
from masche.link.messages import ProxyState
from masche.model.mesh import Mesh
from masche.model.ports import Change, CompactedError, Now, Source, StoreError
from masche.model.refs import Name, Ref
from masche.model.resources.mesh_config import MeshConfig
from masche.model.steering import Steering
from masche.registry.merge import endpoints_only, from_snapshot, merge
from masche.telemetry.events import Events
from masche.xds.wanted import Wanted

SHORTEST_SETTLING = 0.002
LONGEST_SETTLING = 0.1
SOURCE_RETRY = 1.0


class OpenStream(Protocol):
    """One xDS stream of a proxy, as the world sees it."""

    def wake(self) -> None:
        """Look at what is wanted."""
        ...


@dataclass(slots=True, eq=False)
class Proxy:
    """One proxy: what it should hold, how far it is, and its open streams. ``connected_at`` is Unix seconds.

    ``is_leaving``: its agent said that it goes.
    """

    name: str
    wanted: Wanted | None = None
    progress: Progress = field(default_factory=Progress)
    connected_at: float = 0.0
    is_leaving: bool = False
    _streams: set[OpenStream] = field(default_factory=set[OpenStream])

    @property
    def is_connected(self) -> bool:
        """Whether it has an xDS stream now."""
        return bool(self._streams)

    def want(self, wanted: Wanted) -> None:
        """Replace what it should hold and wake whoever tells it."""
        self.wanted = wanted
        self.wake()

    def wake(self) -> None:
        """Let every stream look at what is wanted, and whether it is still to be served."""
        for stream in self._streams:
            stream.wake()

    def opened(self, stream: OpenStream, *, at: float) -> None:
        """A stream of this proxy is open."""
        self._streams.add(stream)
        self.connected_at = at

    def left(self, stream: OpenStream) -> None:
        """A stream of this proxy has ended; what a proxy that is away serves is not known."""
        self._streams.discard(stream)
        if not self._streams:
            self.progress.live = -1


Heard = Callable[[], None]


class World:
    """Mesh, registrations, compilation and rollouts, kept in step.

    ``source`` is where resources come from; ``now`` is monotonic. Hooks are called after each settling, in order.
    ``revision`` is the last one that is compiled; ``written``: the revisions that last wrote and first made it.
    ``cost`` is the seconds that the last settling took; ``failure`` says why the newest Mesh could not be compiled.
    """

    def __init__(self, source: Source, *, trust_domain: str, now: Now, events: Events) -> None:
        self.source = source
        self.events = events
        self.trust_domain = trust_domain
        self.now = now
        self.compilation = Compilation()
        self.registrations = Registrations()
        self.rollouts = Rollouts()
        self.proxies: dict[str, Proxy] = {}
        self.written: dict[Ref, tuple[int, int]] = {}
        self.synced = Readiness()
        self.synced_since: float | None = None
        self.settled_hooks: list[Heard] = []
        self._stood: dict[str, Stood] = {}
        self._pending = Mesh()
        self._heard = 0
        self.revision = 0
        self._dirty = asyncio.Event()
        self.pulse = Pulse()
        self.cost = 0.0
        self.failure = ""

    @property
    def mesh(self) -> Mesh:
        """The Mesh that is compiled now."""
        return self.compilation.mesh

    @property
    def newest(self) -> Mesh:
        """The Mesh as the source last said it, which may not be compiled yet."""
        return self._pending

    @property
    def newest_revision(self) -> int:
        """The revision of ``newest``."""
        return self._heard

    def waiting_for(self) -> Iterable[str]:
        """What this control plane waits for before all that is stored is carried out."""
        if not self.synced.is_set():
            yield "the store"
        if self.failure:
            yield f"revision {self._heard} to be compiled: {self.failure}"

    # -- following the registry -----------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Read the source for ever; a source that fails is asked again, and what was known stays in force."""
        while True:
            with contextlib.suppress(CompactedError, StoreError):
                snapshot = await self.source.snapshot()
                self.written = {each.ref: (each.revision, each.created_revision) for each in snapshot.entries}
                self._take(from_snapshot(snapshot), revision=snapshot.revision)
                async for change in self.source.watch(after=snapshot.revision):
                    self._note(change)
                    self._take(merge(self._pending, change), revision=change.revision)
            self.synced_since = None
            await asyncio.sleep(SOURCE_RETRY)

    def _note(self, change: Change) -> None:
        for entry in change.entries:
            self.written[entry.ref] = (entry.revision, entry.created_revision)
        for ref in change.deleted:
            self.written.pop(ref, None)

    def _take(self, mesh: Mesh, *, revision: int) -> None:
        if self.synced_since is None:
            self.synced_since = self.now()
        self._pending, self._heard = self._under_our_trust_domain(mesh), revision
        self.synced.again()
        self._dirty.set()
        self.pulse.beat()

    def _under_our_trust_domain(self, mesh: Mesh) -> Mesh:
        """The authority says what the trust domain is; a MeshConfig can only agree with it."""
        config = mesh.config
        if config.spec.trust_domain == self.trust_domain:
            return mesh
        if self._pending.config.metadata == config.metadata and self._pending.config.spec == self._renamed(config).spec:
            return replace(mesh, config=self._pending.config)
        return replace(mesh, config=self._renamed(config))

    def _renamed(self, config: MeshConfig) -> MeshConfig:
        spec = config.spec.model_copy(update={"trust_domain": self.trust_domain})
        return config.model_copy(update={"spec": spec})

    async def settle(self) -> None:
        """Compile for ever: wait for a change, let the burst settle, compile once. Costly settling waits longer."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(min(LONGEST_SETTLING, max(SHORTEST_SETTLING, self.cost)))
            self._dirty.clear()
            try:
                self._settle_now()
            except Exception as error:  # noqa: BLE001 - what cannot be compiled must not end what serves already
                self._failed(error)
            self.pulse.beat()

    def _failed(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {error}"
        self.synced.fail(self.failure)
        what = f"revision {self._heard} cannot be compiled, so every proxy keeps what it has: {self.failure}"
        self.events.add(kind="compile-failed", severity="error", about="mesh", message=what)

    def _settle_now(self) -> None:
        began = self.now()
        before, after, revision = self.mesh, self._pending, self._heard
        self.compilation.settle(after, endpoints_alone=self.synced.is_set() and endpoints_only(before, after))
        self.revision, self.failure = revision, ""
        self.synced.set()
        self._tell(self.registrations, revision=revision)
        self.cost = self.now() - began
        for hook in self.settled_hooks:
            hook()

    async def until_revision(self, revision: int) -> None:
        """Wait until a revision is compiled."""
        await self.pulse.until(lambda: self.synced.is_set() and self.revision >= revision)

    async def until_newer_than(self, revision: int) -> None:
        """Wait until something newer than a revision is known."""
        await self.pulse.until(lambda: self._heard > revision)

    def is_everywhere(self, revision: int) -> bool:
        """Whether every connected proxy that a revision changed serves it, or refused it."""
        compilation = self.rollouts.compilation_of(revision)
        return compilation is not None and all(
            proxy.progress.live >= compilation
            for name in self.rollouts.affected(compilation)
            if (proxy := self.proxies.get(name)) is not None and proxy.is_connected
        )

    # -- proxies --------------------------------------------------------------------------------------------------

    def proxy(self, name: str) -> Proxy:
        """The proxy of this name, known or new."""
        return self.proxies.setdefault(name, Proxy(name))

    def register(self, registration: Registration) -> None:
        """Take what an agent says of one proxy and give the proxy what follows."""
        self.registrations.put(registration)
        self.proxy(registration.state.proxy).is_leaving = False
        if self.synced.is_set():
            self._tell([registration], revision=self.revision)
        self.pulse.beat()

    def unregister(self, name: str) -> None:
        """The proxy left for good."""
        self.registrations.remove(name)
        self._stood.pop(name, None)
        self.rollouts.forget_proxy(name)
        self._forget_if_gone(name)

    def left(self, proxy: Proxy, stream: OpenStream) -> None:
        """A stream of a proxy has ended."""
        proxy.left(stream)
        self._forget_if_gone(proxy.name)

    def _forget_if_gone(self, name: str) -> None:
        """A proxy is known while it is registered or has a stream: what comes back meanwhile finds its streams."""
        proxy = self.proxies.get(name)
        if proxy is not None and not proxy.is_connected and self.registrations.get(name) is None:
            del self.proxies[name]

    def serves(self, proxy: Proxy) -> None:
        """A proxy acknowledged everything that is wanted of it now, but for what it refuses."""
        proxy.progress.live = self.revision

    def steer(self, steering: Steering) -> None:
        """Take new Steering. It has no revision: no rollout waits for it."""
        self.compilation.steer(steering)
        for registration in self.registrations:
            self._give(registration)

    def recall(self, habits: Habits) -> None:
        """Take what workloads called lately, and give those that changed what follows. It has no revision either."""
        before = self.compilation.habits
        self.compilation.recall(habits)
        for registration in self.registrations:
            if any(habits.get(each) != before.get(each) for each in _accounts(registration)):
                self._give(registration)

    def places(self, registration: Registration) -> tuple[Place, ...]:
        """Where the workloads of a proxy stand; those that the Mesh does not have yet are left out.

        One that was taken out of the store while it runs stands where it stood: it is served until its agent says
        that it left.
        """
        name = registration.state.proxy
        known = self._stood.get(name)
        if known is None or known.mesh is not self.mesh or known.state is not registration.state:
            known = self._stood[name] = Stood.now(self.mesh, registration, known)
        return known.places

    def _tell(self, registrations: Iterable[Registration], *, revision: int) -> None:
        changed = [each.state.proxy for each in registrations if self._give(each)]
        for name in changed:
            self.proxies[name].progress.target = revision
        self.rollouts.record(revision, changed)
        self.compilation.keep_only(self.places(each) for each in self.registrations)
        for proxy in self.proxies.values():
            if proxy.progress.live >= proxy.progress.target:
                self.serves(proxy)

    def _give(self, registration: Registration) -> bool:
        places = self.places(registration)
        if registration.state.occupants and not places:
            return False
        proxy = self.proxy(registration.state.proxy)
        wanted = self.compilation.wanted(places)
        if proxy.wanted is not None and wanted.is_same(proxy.wanted):
            return False
        proxy.want(wanted)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stood:
    """Where the workloads of a proxy stand in a Mesh, as long as neither changes."""

    mesh: Mesh
    state: ProxyState
    places: tuple[Place, ...]

    @classmethod
    def now(cls, mesh: Mesh, registration: Registration, before: "Stood | None") -> "Stood":
        """Look anew; what the Mesh lost stands where it stood ``before``."""
        known = {seat.workload: vantage for vantage, seat in before.places} if before else {}
        known |= {seat.workload: vantage for vantage, seat in standing(mesh, registration)}
        seats = (occupant.seat for occupant in registration.state.occupants)
        places = tuple((known[seat.workload], seat) for seat in seats if seat.workload in known)
        return cls(mesh=mesh, state=registration.state, places=places)


def _accounts(registration: Registration) -> Iterable[Name]:
    return (Name(each.seat.workload.namespace, each.service_account) for each in registration.state.occupants)


def standing(mesh: Mesh, registration: Registration) -> tuple[Place, ...]:
    """Where the workloads of a proxy stand in a Mesh; those that it does not have are left out."""
    state = registration.state
    return tuple(
        (stand(mesh, workload, placement=state.placement, dialect=state.dialect, gateway=state.gateway), occupant.seat)
        for occupant in state.occupants
        if (workload := mesh.workloads.get(occupant.seat.workload)) is not None
    )
