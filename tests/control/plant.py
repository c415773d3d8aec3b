"""A whole control plane in this process on a store in memory, with its doors open on a Unix socket and free ports."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from masche.api.messages import Document
from masche.control.doors import SOCKET, Doors
from masche.control.joining import Joining
from masche.control.options import UpOptions
from masche.control.parts import Ground, Parts, assemble
from masche.control.plane import ControlPlane
from masche.identity.admission import Admission
from masche.identity.authority import Authority, Issuance, Refusal
from masche.identity.credential import Machines
from masche.link.messages import (
    FromAgent,
    FromControl,
    Hello,
    Occupant,
    ProxyState,
    ServiceWish,
    State,
    WorkloadPort,
)
from masche.link.service import Peer
from masche.model.mesh import Resource
from masche.model.ports import Change, Delete, Put
from masche.model.refs import Name, Ref
from masche.model.vantage import Placement, Seat, SeatPort
from masche.model.yaml import load
from masche.registry.memory import MemoryStore

DOMAIN = "mesh.local"
T = TypeVar("T")


def resources(text: str) -> tuple[Resource, ...]:
    loaded = load(text, file="mesh.yaml", namespace="shop")
    assert not loaded.errors, "\n".join(map(str, loaded.errors))
    return loaded.resources


def service(name: str, port: int = 80, app: str = "") -> str:
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {app or name}}}, ports: [{{name: http, port: {port}, targetPort: http}}]}}
"""


def deny(name: str, app: str, path: str = "/admin") -> str:
    return f"""---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  action: DENY
  rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]
"""


def sidecar(
    name: str,
    *,
    app: str = "",
    phase: str = "READY",
    reason: str = "",
    proxy: str = "",
    account: str = "",
    wish: str = "",
    namespace: str = "shop",
    port: int = 21000,
    zone: str = "",
) -> ProxyState:
    """A sidecar with one HTTP port, as its agent would describe it."""
    own = WorkloadPort(name="http", port=8080, mesh_port=port)
    return ProxyState(
        proxy=proxy or f"{name}-proxy",
        placement=Placement.SIDECAR,
        occupants=(
            Occupant(
                seat=Seat(
                    workload=Name(namespace, name),
                    bind="127.0.0.1",
                    ports=(SeatPort(name="http", app_port=8080, mesh_port=port),),
                    proxy_port=port + 1,
                ),
                service_account=account or app or name,
                labels={"app": app or name},
                address="127.0.0.1",
                zone=zone,
                ports=(own,),
                service=ServiceWish(name=wish, ports=(own,)) if wish else None,
                state=State(phase=phase, reason=reason),
            ),
        ),
    )


@dataclass
class Plant:
    """One control plane that runs, and ways to write into it."""

    parts: Parts
    plane: ControlPlane
    store: MemoryStore
    doors: Doors
    socket: Path
    tasks: asyncio.TaskGroup
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    audited: list[Issuance | Refusal] = field(default_factory=list)
    """What the authority was asked for, and what became of it."""

    def channel(self) -> grpc.aio.Channel:
        """A connection of this machine's own agent."""
        self.channels.append(grpc.aio.insecure_channel(f"unix:{self.socket}"))
        return self.channels[-1]

    async def write(self, text: str, *deleted: Ref) -> Change:
        """Put resources into the store and wait until they are compiled."""
        edits = [*(Put(resource=each) for each in resources(text)), *(Delete(ref=ref) for ref in deleted)]
        change = await self.store.commit(edits)
        await self.parts.world.until_revision(change.revision)
        return change

    async def apply(self, *texts: str, dry_run: bool = False) -> Any:
        documents = [Document(file=f"{number}.yaml", text=text) for number, text in enumerate(texts)]
        return await self.plane.apply(documents, dry_run=dry_run)

    def agent(self, machine: str = "m1", *, local: bool = True, process: str = "") -> "Agent":
        """An agent, or a process with the library, that has opened its stream; of this machine, or of another by its
        certificate.
        """
        return Agent(self, machine, Peer(machine=None if local else machine, address="test"), process=process)

    def happened(self, kind: str) -> list[str]:
        return [event.message for event in self.parts.events.after(0) if event.kind == kind]


class Agent:
    """An agent that says what a test tells it, and remembers what it is told."""

    def __init__(self, plant: Plant, machine: str, peer: Peer, *, process: str = "") -> None:
        self.machine = machine
        self.process = process
        self.peer = peer
        self.heard: list[FromControl] = []
        self.is_over = False
        self._news = asyncio.Condition()
        self._words: asyncio.Queue[FromAgent | None] = asyncio.Queue()
        self._plant = plant
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Agent":
        self._task = asyncio.create_task(self._listen())
        self.say(Hello(machine=self.machine, process=self.process, agent_version="1"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._words.put_nowait(None)
        assert self._task is not None
        await self._task

    async def _incoming(self) -> AsyncIterator[FromAgent]:
        while (word := await self._words.get()) is not None:
            yield word

    async def _listen(self) -> None:
        async for message in self._plant.parts.agents.register(self.peer, self._incoming()):
            self.heard.append(message)
            async with self._news:
                self._news.notify_all()
        self.is_over = True
        async with self._news:
            self._news.notify_all()

    def say(self, *words: FromAgent) -> None:
        for word in words:
            self._words.put_nowait(word)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(condition)

    async def hears(self, kind: type[T], **fields: object) -> T:
        """The first message of a kind with these fields that came, or comes."""

        def matching() -> list[T]:
            return [
                each
                for each in self.heard
                if isinstance(each, kind) and all(getattr(each, key) == value for key, value in fields.items())
            ]

        try:
            await self.until(matching)
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} {fields} among {self.heard}") from None
        return matching()[0]

    async def enrols(self, *states: ProxyState) -> None:
        """Say these proxies and wait until all are known."""
        self.say(*states)
        registrations = self._plant.parts.world.registrations
        await self._plant.parts.world.pulse.until(lambda: all(_is_said(registrations.get(s.proxy), s) for s in states))


def _is_said(registration: Any, state: ProxyState) -> bool:
    return registration is not None and registration.state == state


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Wait for something that tells nobody when it becomes true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


@asynccontextmanager
async def plant(
    folder: Path,
    *,
    store: MemoryStore | None = None,
    work: Callable[[Parts], Iterable[Any]] = Parts.work,
    now: Callable[[], float] = time.monotonic,
    **more: Any,
) -> AsyncIterator[Plant]:
    """Run one. ``work`` chooses what of it runs; ``more`` are fields of UpOptions."""
    kept = store or MemoryStore()
    options = UpOptions(data=folder, xds_port=0, api_port=0, metrics_port=0, **more)
    audited: list[Issuance | Refusal] = []
    authority = Authority.open(folder / "authority", DOMAIN, now=time.time(), audit=audited.append)
    machines = Machines(kept, authority)
    await machines.load()
    ground = Ground(options=options, store=kept, authority=authority, machines=machines, wall=time.time, now=now)
    async with asyncio.TaskGroup() as tasks:
        parts = assemble(ground, tasks)
        doors = Doors("127.0.0.1", 0, data=folder, presented=parts.identity.presented)
        doors.bind()
        joining = Joining(
            Admission(parts.tokens, machines, DOMAIN),
            events=parts.events,
            roots=parts.agents.roots,
            addresses=(doors.address,),
            wall=time.time,
            now=time.monotonic,
        )
        await doors.open(parts.agents, parts.streams, joining, domain=DOMAIN)
        running = [tasks.create_task(each) for each in work(parts)]
        plane = ControlPlane.of(parts, link_address=doors.address, joining_address=doors.joining_address)
        made = Plant(parts, plane, kept, doors, folder / SOCKET, tasks, audited=audited)
        try:
            yield made
        finally:
            for channel in made.channels:
                await channel.close()
            for task in running:
                task.cancel()
            parts.agents.close()
            await doors.close()
