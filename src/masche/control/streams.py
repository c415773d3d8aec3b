"""Which xDS streams are served, and with what: the control plane's side of ``xds.server``.

A stream is admitted when the machine behind its certificate has registered the proxy that it says it is; until that
registration came (an agent that reconnects says it within moments) the stream waits and nothing is sent.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from masche.control.registrations import Registration
from masche.control.world import Proxy, World
from masche.identity.spiffe import Machine
from masche.telemetry.events import Events
from masche.xds.server import Conversation, Peer, RefusedError
from masche.xds.verdict import Rejection, Sync, TypeStatus
from masche.xds.wanted import Wanted

REGISTRATION_PATIENCE = 30.0
"""Seconds that a stream waits for the registration of its proxy."""


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

    async def admit(
        self, peer: Peer, node_id: str, conversation: Conversation, wake: Callable[[], None]
    ) -> "AdmittedStream":
        """Admit a stream of a registered proxy, or raise RefusedError."""
        machine = self._machine(peer)
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
        return AdmittedStream(
            self._world, self._world.proxy(node_id), conversation, wake, self._events, self._rejected, self._wall()
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


def _is_settled(found: Sequence[TypeStatus]) -> bool:
    return bool(found) and all(status.sync in {Sync.IN_SYNC, Sync.REJECTED} for status in found)


def _is_of(registration: Registration, machine: str | None) -> bool:
    return registration.is_local if machine is None else registration.machine == machine


@dataclass(slots=True, eq=False)
class AdmittedStream:
    """One open stream of one proxy: hands it what is wanted and hears what it acknowledged."""

    _world: World
    _proxy: Proxy
    _conversation: Conversation
    _wake: Callable[[], None]
    _events: Events
    _rejected: Callable[[str], None]
    _at: float
    _seen: Wanted | None = None

    def __post_init__(self) -> None:
        self._proxy.opened(self, at=self._at)

    def wake(self) -> None:
        """Something else is wanted."""
        self._wake()

    def wanted(self) -> Wanted | None:
        """What the proxy should hold now; None before the source was read once."""
        if not self._world.synced.is_set():
            return None
        self._seen = self._proxy.wanted
        asyncio.get_running_loop().call_soon(self._look)
        return self._seen

    def has_settled(self) -> bool:
        """Whether the proxy serves all that is wanted of it now, but for what it refuses."""
        wanted = self._proxy.wanted
        if wanted is None:
            return False
        if self._conversation.is_live(wanted):
            return True
        return self._seen is wanted and _is_settled(self._conversation.status())

    def progressed(self, rejected: Sequence[Rejection]) -> None:
        """The proxy answered something."""
        refused = [each for status in self._conversation.status() for each in status.rejections]
        for rejection in self._proxy.progress.heard((*refused, *rejected)):
            self._rejected(rejection.type_url)
            self._events.add(
                kind="rejected",
                severity="error",
                about=self._proxy.name,
                message=f"{self._proxy.name} rejected {rejection.name or rejection.type_url}: {rejection.why}",
            )
        self._look()

    def closed(self, why: str) -> None:
        """The stream has ended."""
        self._proxy.left(self)
        self._events.add(
            kind="stream-closed", severity="warning", about=self._proxy.name, message=f"{self._proxy.name}: {why}"
        )
        self._world.pulse.beat()

    def _look(self) -> None:
        if self.has_settled():
            self._world.serves(self._proxy)
        self._world.pulse.beat()
