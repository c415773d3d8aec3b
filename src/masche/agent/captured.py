"""The host of one workload whose connections are captured: where it runs, what its names mean there, and the way in.

Invariant: from the moment on at which there is such a place, whatever leaves it goes to the proxy or nowhere.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from masche.agent import door
from masche.agent.capture.apply import CaptureError
from masche.agent.capture.host import Host, Place
from masche.agent.capture.host_rules import Addressed
from masche.agent.capture.sockets import in_namespace
from masche.agent.dns.names import Names, names
from masche.agent.dns.server import MeshDns
from masche.agent.exposed import listening
from masche.agent.local import Claim
from masche.agent.occupancy import ClaimError
from masche.agent.seats import NoPortError, PortBook
from masche.agent.whereabouts import Whereabouts
from masche.agent.witness import asked
from masche.link.messages import ScopeService
from masche.link.probe import Probe, parse
from masche.model.refs import Name
from masche.model.vantage import Capture

ANYWHERE = "0.0.0.0"  # noqa: S104 - where nftables leads to; its rules let no one else in


def _ports() -> set[int]:
    """The TCP ports on which something listens in the namespace of this thread."""
    return {each.port for each in listening("thread-self")}


class Captured:
    """One captured workload. ``prepare`` it before anything else; ``place`` is where it is."""

    def __init__(
        self, hosts: Host, dns: MeshDns, ports: PortBook, workload: Name, claim: Claim, *, where: Whereabouts
    ) -> None:
        self.place = Place(namespace_path="", address="", has_ipv6=False)
        self._hosts = hosts
        self._dns = dns
        self._ports = ports
        self._own = (where.bind, where.advertised)
        self._workload = workload
        self._claim = claim
        self._names: Names = {}

    def __repr__(self) -> str:
        return f"<Captured {self._workload} in {self.place.namespace_path}, {len(self._names)} names>"

    @property
    def capture(self) -> Capture:
        """Where the proxy takes its connections."""
        place = self.place
        return Capture(port=place.outbound_port, inbound_port=place.inbound_port, has_ipv6=place.has_ipv6)

    @property
    def app_address(self) -> str:
        """Where its application listens, as seen from where it is."""
        return "127.0.0.1" if self.place.namespace_path else self.place.address

    @property
    def variables(self) -> dict[str, str]:
        """Where the application is to listen: in a namespace of its own wherever it likes, for all meet the proxy."""
        return {"HOST": "0.0.0.0" if self.place.namespace_path else self.place.address}  # noqa: S104 - as just said

    async def prepare(self) -> None:
        """Make or adopt the place. Raises ClaimError: it cannot be had."""
        claim = self._claim
        try:
            if claim.netns:
                self.place = await self._hosts.adopt(self._workload, claim.netns, exclusions=claim.exclusions)
            elif claim.workload_address:
                self.place = await self._hosts.capture_address(self._workload, self._addressed(), but=self._own)
            else:
                self.place = await self._hosts.prepare(self._workload, exclusions=claim.exclusions)
        except CaptureError as error:
            raise ClaimError(str(error), fix=error.fix) from error

    def _addressed(self) -> Addressed:
        """Ports of the host for what concerns its address; a proxy that still runs has some of them."""
        try:
            outbound, inbound, dns = (
                self._ports.take(f"{self._workload}#capture/{purpose}", address=address, is_in_use=True)
                for purpose, address in (("outbound", ANYWHERE), ("inbound", ANYWHERE), ("names", "127.0.0.1"))
            )
        except NoPortError as error:
            raise CaptureError(str(error)) from error
        self._ports.let_go(f"{self._workload}#capture/names")  # we bind it ourselves
        self._ports.save()
        return Addressed(
            address=self._claim.workload_address,
            outbound_port=outbound,
            inbound_port=inbound,
            dns_port=dns,
            exclusions=self._claim.exclusions,
        )

    def know(self, services: tuple[ScopeService, ...]) -> None:
        """From now on answer the names of these."""
        self._names = names(services, has_ipv6=self.place.has_ipv6)

    async def answer(self) -> None:
        """Answer names there, until cancelled. Raises ClaimError: somebody else does."""
        place = self.place
        try:
            desk = await self._dns.serve(
                place.namespace_path, place.dns_port, lambda: self._names, owner=str(self._workload)
            )
        except OSError as error:
            raise ClaimError(f"names cannot be answered in {place.namespace_path}: {error}") from error
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await desk.close()

    async def is_served(self) -> bool:
        """Whether something listens where its connections are led. Nothing is connected to."""
        wanted = {self.place.outbound_port, *({self.place.inbound_port} if self._claim.ports else ())}
        return wanted <= await self.taken()

    async def taken(self) -> set[int]:
        """The TCP ports on which something listens there, the proxy among others."""
        try:
            return await asyncio.to_thread(in_namespace, self.place.namespace_path, _ports)
        except OSError:
            return set()

    @asynccontextmanager
    async def probe(self, way: Path) -> AsyncGenerator[Probe | None]:
        """Yield what asks its application how it is; ``way`` is a free path of a Unix socket."""
        port = self._claim.ports[0].port if self._claim.ports else 0
        connect = door.into(self.place.namespace_path)
        if not self._claim.health.startswith("grpc"):
            yield parse(self._claim.health, self.app_address, port, connect=connect) if port else None
            return
        async with door.opened(way, connect, self.app_address, port) as target:
            yield parse(self._claim.health, self.app_address, port, connect=connect, channel=target)

    async def witnessed(self) -> str:
        """As whom a call from here arrives. Raises NoAnswerError."""
        return await asked(door.into(self.place.namespace_path))

    async def release(self) -> None:
        """Take the place away, or leave an adopted one as it was. Raises CaptureError."""
        await self._hosts.release(self._workload)
