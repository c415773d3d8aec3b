"""This machine's connection to a control plane: the link, and the xDS streams of its proxies beside it.

Both go to the same control plane and end together: a proxy is online exactly while the link stands and has accepted it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import grpc.aio

from masche.agent.relay import METHOD
from masche.identity import transport
from masche.link.client import Connected, Disconnected, LinkClient
from masche.link.machine import Machine
from masche.link.messages import (
    PROTOCOL_VERSION,
    Accepted,
    Drained,
    Hello,
    Plight,
    ProxyState,
    Refused,
    Report,
    ReportReply,
    Roots,
    Scope,
    SignReply,
    SignRequest,
    Verdict,
)
from masche.link.service import RefusedError
from masche.link.upstream import Upstream

ForProxy = Accepted | Refused | Scope | Drained | Roots | Connected | Disconnected
Listener = Callable[[ForProxy], None]


class Uplink:
    """The link of this machine, shared by all its proxies."""

    def __init__(self, machine: Machine, *, version: str, zone: str, addresses: tuple[str, ...], rng: Random) -> None:
        self._machine = machine
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        self._accepted: set[str] = set()
        self._listeners: dict[str, Listener] = {}
        self._hello = Hello(
            machine=machine.id,
            agent_version=version,
            zone=zone,
            addresses=addresses,
            protocol_version=PROTOCOL_VERSION,
        )
        self._targets = machine.targets(self._on_use)
        self._link = LinkClient(self._targets, lambda: self._hello, rng=rng)
        self.why = ""

    def __repr__(self) -> str:
        return f"<Uplink to {self.address}: {'connected' if self.is_connected else self.why or 'connecting'}>"

    @property
    def address(self) -> str:
        """The control plane that is used, or tried."""
        return self._address or self._targets[0].address

    @property
    def is_connected(self) -> bool:
        """Whether a control plane is there."""
        return self._channel is not None

    def listen(self, proxy: str, listener: Listener) -> None:
        """Tell ``listener`` everything that concerns this proxy."""
        self._listeners[proxy] = listener
        if self.is_connected:
            listener(Connected())

    def put(self, state: ProxyState) -> None:
        """Register a proxy or change what is known of it."""
        self._link.put(state)

    def leave(self, proxy: str) -> None:
        """The proxy is gone."""
        self._listeners.pop(proxy, None)
        self._accepted.discard(proxy)
        self._link.forget(proxy)

    async def sign(self, request: SignRequest) -> SignReply:
        """Have a request signed. Raises RefusedError, ConnectionError."""
        return await self._link.sign(request)

    def tell(self, word: Verdict | Plight) -> None:
        """Pass on at once what a proxy decided about an endpoint, or what an instance suffers, if anybody is there."""
        self._link.tell(word)

    async def report(self, report: Report) -> ReportReply:
        """Send one Report. Raises RefusedError, ConnectionError."""
        return await self._link.report(report)

    def stream(self, proxy: str, method: str = METHOD) -> Upstream | None:
        """Open an xDS stream for a proxy that the control plane has accepted; None when there is no such."""
        if self._channel is None or proxy not in self._accepted:
            return None
        channel: Any = self._channel  # the stubs of grpc.aio leave the parameters of their generics open
        return channel.stream_stream(method)()

    async def run(self) -> None:
        """Keep the link up and pass on what it says, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._link.run())
            group.create_task(self._machine.run())
            group.create_task(self._dispatch(self._link.events()))

    async def _dispatch(self, events: "AsyncIterator[Any]") -> None:
        async for event in events:
            await self._take(event)

    async def _take(self, event: ForProxy) -> None:
        match event:
            case Connected():
                self._channel = self._open()
                self._tell_all(event)
            case Disconnected(why=why):
                self.why = why
                self._accepted.clear()
                channel, self._channel = self._channel, None
                self._tell_all(event)
                if channel:
                    await channel.close(None)
            case Refused(proxy=proxy):
                self._tell(proxy, event) if proxy else self._tell_all(event)
            case Scope(proxy=proxy):  # said once the proxy is known to every part of the control plane, xDS among them
                if proxy in self._listeners:
                    self._accepted.add(proxy)
                self._tell(proxy, event)
            case Accepted(proxy=proxy) | Drained(proxy=proxy):
                self._tell(proxy, event)
            case Roots():
                self._machine.trust(event)
                self._tell_all(event)

    def _tell(self, proxy: str, event: ForProxy) -> None:
        if listener := self._listeners.get(proxy):
            listener(event)

    def _tell_all(self, event: ForProxy) -> None:
        for listener in tuple(self._listeners.values()):
            listener(event)

    def _on_use(self, address: str) -> None:
        self._address = address

    def _open(self) -> grpc.aio.Channel:
        presented = self._machine.presented() if self._machine.is_joined else None
        return transport.channel(self.address, presented, max_receive_bytes=-1)

    @property
    def refusal(self) -> RefusedError | None:
        """Why the control plane does not take this machine, if so."""
        return self._link.refusal
