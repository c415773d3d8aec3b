"""A control plane that tells values instead of messages: each stands in a list, and what is sent is its place there."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

from library.knowledge.foreign_plane import ForeignPlane, serving
from masche.identity import dialling
from masche.library.knowledge.knowledge import XdsKnowledge
from masche.model.told import Table, Told
from masche.testing.static_knowledge import World
from masche.wire import framing
from masche.wire.discovery import Node, encode_node
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client import ControlPlane, XdsClient
from masche.xds.client_words import Patience

QUICK = Patience(absent=0.5, answered=0.1)


@dataclass
class Telling:
    """The values, and a plane that serves them."""

    plane: ForeignPlane = field(default_factory=ForeignPlane)
    values: list[object] = field(default_factory=list)

    def say(self, kind: str, name: str, value: object) -> None:
        """Tell a resource; the same value is the same bytes."""
        if value not in self.values:
            self.values.append(value)
        number = str(self.values.index(value))
        self.plane.put(kind, name, framing.text(1, name) + framing.text(2, number))

    def decode(self, name: str, message: bytes) -> object:
        value = self.values[int(message.rpartition(b"\x12")[2][1:])]
        if isinstance(value, Exception):
            raise value
        return value

    def say_table(self, table: Table, listener: str = "proxy") -> None:
        self.say(LISTENER, listener, Told(name=listener, table_name=table.name))
        self.say(ROUTES, table.name, table)

    async def put(self, world: World) -> None:
        """Be that world."""
        self.say_table(world.table)
        self.plane.resources[CLUSTER] = {}
        for destination in world.destinations:
            self.say(CLUSTER, destination.name, destination)
        for name, endpoints in world.endpoints.items():
            self.say(ENDPOINTS, name, endpoints)
        self.plane.knows = True
        self.plane.push()


def client_of(telling: Telling, *targets: str, patience: Patience = QUICK) -> XdsClient:
    planes = [
        ControlPlane(name=target, open=lambda target=target: dialling.channel(target, None, max_receive_bytes=1 << 24))
        for target in targets
    ]
    return XdsClient(
        planes,
        node=lambda: encode_node(Node(id="me")),
        decoders=dict.fromkeys((CLUSTER, ENDPOINTS, LISTENER, ROUTES), telling.decode),
        rng=Random(7),
        patience=patience,
    )


@asynccontextmanager
async def knowing(client: XdsClient, *, template: str = "proxy", **more) -> AsyncIterator[XdsKnowledge]:
    """A Knowledge and its client, running."""
    knowledge = XdsKnowledge(client, now=monotonic, rng=Random(7), template=template, **more)
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(knowledge.run())]
    try:
        yield knowledge
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def told(path: Path, telling: Telling, *, patience: Patience = QUICK, **more) -> AsyncIterator[XdsKnowledge]:
    """A Knowledge that this plane tells."""
    client = client_of(telling, f"unix:{path}/xds.sock", patience=patience)
    async with serving(path / "xds.sock", telling.plane), knowing(client, **more) as knowledge:
        yield knowledge


async def until(condition: Callable[[], object], *, timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)
