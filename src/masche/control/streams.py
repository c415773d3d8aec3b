"""Which xDS streams are served, and with what: the control plane's side of ``xds.server``.

A stream is admitted when the machine behind its certificate has registered the proxy that it says it is; until that
registration came (an agent that reconnects says it within moments) the stream waits and nothing is sent.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from masche.control.registrations import Registration
from masche.control.world import Proxy, World
from masche.identity.spiffe import Machine
from masche.telemetry.events import Events
from masche.xds.server import Conversation, Peer, RefusedError
from masche.xds.verdict import Rejection, Sync, TypeStatus
from masche.xds.wanted import Wanted

REGISTRATION_PATIENCE = 30.0
"""Seconds that a stream waits for the registration of its proxy."""

STREAMS_PER_PROXY = 8
"""A proxy needs one, and for moments after its connection broke another."""

STREAMS_PER_MACHINE = 2000
"""Of all its proxies, waiting or served: more than one agent runs, and few enough to bear a hostile one."""

K = TypeVar("K")


class Streams:
    """Implements ``xds.server.Provider``. ``is_revoked``: whether a machine was banned; ``rejected``
    is told the type of each resource that a proxy refuses; ``wall`` is Unix seconds."""

    def __init__(
        self,
        world: World,
        *,
        events: Events,
        is_revoked: Callable[[str], bool],
        wall: Callable[[], float],
        rejected: Callable[[str], None],
    ) -> None:
        self._world = world
        self._rejected = rejected
        self._events = events
        self._is_revoked = is_revoked
        self._wall = wall
        self._of_machine: Counter[str | None] = Counter()
        self._of_proxy: Counter[tuple[str | None, str]] = Counter()

    async def admit(
        self, peer: Peer, node_id: str, conversation: Conversation, wake: Callable[[], None]
    ) -> "AdmittedStream":
        """Admit a stream of a registered proxy, or raise RefusedError."""
        machine = self._machine(peer)
        self._count(machine, node_id)
        try:
            await self._registered(peer, node_id, machine)
            return self._admitted(node_id, machine, conversation, wake)
        except BaseException:
            self._discount(machine, node_id)
            raise

    def _count(self, machine: str | None, node_id: str) -> None:
        """Take one of the places that a proxy and a machine have. Raises RefusedError when there is none left."""
        if self._of_machine[machine] >= STREAMS_PER_MACHINE:
            raise RefusedError(f"this machine has {STREAMS_PER_MACHINE} streams open already")
        if self._of_proxy[machine, node_id] >= STREAMS_PER_PROXY:
            raise RefusedError(f"the proxy {node_id} has {STREAMS_PER_PROXY} streams open already")
        self._of_machine[machine] += 1
        self._of_proxy[machine, node_id] += 1

    def _discount(self, machine: str | None, node_id: str) -> None:
        _take_one(self._of_machine, machine)
        _take_one(self._of_proxy, (machine, node_id))

    async def _registered(self, peer: Peer, node_id: str, machine: str | None) -> None:
        """Wait until this machine has registered the proxy. Raises RefusedError."""
        try:
            async with asyncio.timeout(REGISTRATION_PATIENCE):
                await self._world.pulse.until(lambda: self._world.registrations.get(node_id) is not None)
        except TimeoutError:
            raise RefusedError(f"no agent has registered a proxy {node_id}") from None
        registration = self._world.registrations.get(node_id)
        if registration is None or not _is_of(registration, machine):
            self._events.add(
                kind="stream-refused",
                severity="error",
                about=node_id,
                message=f"{peer.address} asked for the configuration of {node_id}, which is another machine's",
            )
            raise RefusedError(f"the proxy {node_id} is not registered by this machine")

    def _admitted(
        self, node_id: str, machine: str | None, conversation: Conversation, wake: Callable[[], None]
    ) -> "AdmittedStream":
        return AdmittedStream(
            world=self._world,
            proxy=self._world.proxy(node_id),
            conversation=conversation,
            wake_up=wake,
            events=self._events,
            rejected=self._rejected,
            is_revoked=lambda: machine is not None and self._is_revoked(machine),
            at=self._wall(),
            ended=lambda: self._discount(machine, node_id),
        )

    def _machine(self, peer: Peer) -> str | None:
        """The machine of the client certificate; None for our own machine's Unix socket."""
        if peer.is_local or peer.spiffe_id is None:
            return None
        if peer.spiffe_id.trust_domain != self._world.trust_domain or not isinstance(
            role := peer.spiffe_id.role, Machine
        ):
            raise RefusedError(f"{peer.spiffe_id} is not a machine of {self._world.trust_domain}")
        if self._is_revoked(role.id):
            raise RefusedError(f"the machine {role.id} is revoked")
        return role.id


def _take_one(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _is_settled(found: Sequence[TypeStatus]) -> bool:
    return bool(found) and all(status.sync in {Sync.IN_SYNC, Sync.REJECTED} for status in found)


def _is_of(registration: Registration, machine: str | None) -> bool:
    return registration.is_local if machine is None else registration.machine == machine


@dataclass(slots=True, eq=False, kw_only=True)
class AdmittedStream:
    """One open stream of one proxy: hands it what is wanted and hears what it acknowledged."""

    world: World
    proxy: Proxy
    conversation: Conversation
    wake_up: Callable[[], None]
    events: Events
    rejected: Callable[[str], None]
    is_revoked: Callable[[], bool]
    at: float
    ended: Callable[[], None]
    _seen: Wanted | None = None

    def __post_init__(self) -> None:
        self.proxy.opened(self, at=self.at)

    def wake(self) -> None:
        """Something else is wanted."""
        self.wake_up()

    def wanted(self) -> Wanted | None:
        """What the proxy should hold now; None before the source was read once.

        Raises RefusedError when its machine was revoked since.
        """
        if self.is_revoked():
            raise RefusedError("this machine is revoked")
        if not self.world.synced.is_set():
            return None
        self._seen = self.proxy.wanted
        asyncio.get_running_loop().call_soon(self._look)
        return self._seen

    def has_settled(self) -> bool:
        """Whether the proxy serves all that is wanted of it now, but for what it refuses."""
        wanted = self.proxy.wanted
        if wanted is None:
            return False
        if self.conversation.is_live(wanted):
            return True
        return self._seen is wanted and _is_settled(self.conversation.status())

    def progressed(self, rejected: Sequence[Rejection]) -> None:
        """The proxy answered something."""
        refused = [each for status in self.conversation.status() for each in status.rejections]
        for rejection in self.proxy.progress.heard((*refused, *rejected)):
            self.rejected(rejection.type_url)
            self.events.add(
                kind="rejected",
                severity="error",
                about=self.proxy.name,
                message=f"{self.proxy.name} rejected {rejection.name or rejection.type_url}: {rejection.why}",
            )
        self._look()

    def closed(self, why: str) -> None:
        """The stream has ended."""
        self.ended()
        self.world.left(self.proxy, self)
        severity = "info" if self._is_leaving else "warning"
        self.events.add(
            kind="stream-closed", severity=severity, about=self.proxy.name, message=f"{self.proxy.name}: {why}"
        )
        self.world.pulse.beat()

    @property
    def _is_leaving(self) -> bool:
        """Whether the proxy is on its way out, or out: then nobody has to look after its stream."""
        registration = self.world.registrations.get(self.proxy.name)
        if self.proxy.is_leaving or registration is None:
            return True
        return all(each.state.phase == "DRAINING" for each in registration.state.occupants)

    def _look(self) -> None:
        if self.has_settled():
            self.world.serves(self.proxy)
        self.world.pulse.beat()
