"""What name servers say of the clusters that are to be resolved (LOGICAL_DNS), asked again and again.

Each name is looked up by a task of its own, never on the way of a request. Invariant: addresses that were good stay in
use until a look-up brings others; a name server that is away takes nothing from anybody.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

from masche.library.knowledge.parts import NAMES
from masche.model.refs import ForeignRef
from masche.model.view import Endpoints, EndpointView, Locality
from masche.xds.client_words import ABSENT, ASKED, Resource, Standing

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host (for connections to this port); raises OSError when there are none, or nobody who knows."""

AGAIN: Final = 30.0
"""Seconds until a name is looked up again."""

AFTER_FAILURE: Final = 5.0

TIMEOUT: Final = 10.0
"""Seconds after which a look-up has failed."""

_log = logging.getLogger("masche.library")


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system, in a thread. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


class NameWatch:
    """One wish for the addresses of one name. ``close`` takes it back."""

    __slots__ = ("_close", "heard", "resource")

    def __init__(self, close: Callable[["NameWatch"], None], heard: Callable[[Resource], None]) -> None:
        self._close, self.heard = close, heard
        self.resource = ASKED

    def tell(self, resource: Resource) -> None:
        """Hear that the addresses are others."""
        self.resource = resource
        self.heard(resource)

    def close(self) -> None:
        """Want it no more."""
        self._close(self)


class _Name:
    """One name, who wants it, and the task that asks."""

    __slots__ = ("resource", "task", "watches")

    def __init__(self) -> None:
        self.resource = ASKED
        self.watches: list[NameWatch] = []
        self.task: asyncio.Task[None] | None = None


class Names:
    """The names that are wanted. Everything is called in one event loop; ``changed`` after each change was told."""

    def __init__(
        self, *, resolver: Resolver, rng: Random, changed: Callable[[], Awaitable[None]], again: float = AGAIN
    ) -> None:
        self._resolver, self._rng, self._changed, self._again = resolver, rng, changed, again
        self._names: dict[str, _Name] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def watch(self, name: str, heard: Callable[[Resource], None]) -> NameWatch:
        """Want the addresses of ``host:port`` as Endpoints."""
        found = self._names.setdefault(name, _Name())
        watch = NameWatch(lambda closed: self._forget(name, closed), heard)
        watch.resource = found.resource
        found.watches.append(watch)
        if found.task is None and self._tasks is not None:
            found.task = self._tasks.create_task(self._keep(name, found))
        return watch

    async def run(self) -> None:
        """Look up what is wanted, for as long as this runs. Returns only by cancellation."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for name, found in self._names.items():
                found.task = tasks.create_task(self._keep(name, found))
            await asyncio.Event().wait()

    def _forget(self, name: str, closed: NameWatch) -> None:
        found = self._names.get(name)
        if found is None:
            return
        found.watches = [watch for watch in found.watches if watch is not closed]
        if not found.watches:
            del self._names[name]
            if found.task:
                found.task.cancel()

    async def _keep(self, name: str, found: _Name) -> None:
        host, _, port = name.rpartition(":")
        while True:
            resource = await self._looked_up(host, int(port), found.resource)
            if resource is not found.resource:
                found.resource = resource
                for watch in found.watches:
                    watch.tell(resource)
                await self._changed()
            pause = AFTER_FAILURE if resource.why else self._again
            await asyncio.sleep(pause * self._rng.uniform(0.75, 1.25))

    async def _looked_up(self, host: str, port: int, before: Resource) -> Resource:
        try:
            async with asyncio.timeout(TIMEOUT):
                addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:  # a timeout is an OSError; a host that is no name a UnicodeError
            why = str(error) or type(error).__name__
            if before.why != why:
                _log.warning("%s cannot be resolved: %s", host, why)
            held = before.standing is Standing.HELD
            resource = Resource(Standing.HELD, before.value, why) if held else Resource(ABSENT.standing, None, why)
        else:
            resource = Resource(Standing.HELD, _endpoints(host, port, addresses))
        return before if resource == before else resource


def _endpoints(host: str, port: int, addresses: Sequence[str]) -> Endpoints:
    views = tuple(EndpointView(address=address, port=port, workload=host) for address in sorted(addresses))
    return Endpoints(service=ForeignRef.named(f"{NAMES}/{host}:{port}"), localities=(_everywhere(views),))


def _everywhere(views: tuple[EndpointView, ...]) -> Locality:
    return Locality(zone="", priority=0, endpoints=views)
