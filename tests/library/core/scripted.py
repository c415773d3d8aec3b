"""Calls without a network: an exchange whose attempts do what a script says, and a mesh of services without servers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from random import Random
from ssl import SSLContext

from masche.library.core.channel import Channel
from masche.library.core.exchange import Answer, Asked, Blame, Ending, Head, Target
from masche.library.core.facade import CallOptions, Facade
from masche.library.core.ports import Called, Known, MeshError, Tried
from masche.model.calling import UNSAID, Traffic
from masche.model.refs import ForeignRef, PortRef
from masche.model.told import PASSTHROUGH, Destination
from masche.model.view import (
    Backend,
    Cluster,
    Endpoints,
    EndpointView,
    Forward,
    Health,
    Locality,
    Protocol,
    RequestMatch,
    Retry,
    Route,
    VirtualHost,
)
from masche.traffic.request import Headers, Request

ORDERS = PortRef("shop", "orders", 80)
IDENTITY = "spiffe://mesh.local/ns/shop/sa/orders"


class UnreachedError(Exception):
    """Nobody could be connected to."""


class BrokenError(Exception):
    """A connection broke."""


class ClientTimeoutError(Exception):
    """The client's own timeout."""


@dataclass
class Raw:
    """An answer of an instance."""

    head: Head
    target: Target
    is_closed: bool = False


@dataclass
class Given:
    """What the user got."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    raw: Raw | None = None
    ending: Ending | None = None

    def close(self) -> None:
        """Read to the end."""
        if self.ending is not None:
            self.ending.over(received=5)


Script = Callable[[Target], Awaitable[Head]]


@dataclass
class Scripted:
    """An exchange of an event loop; ``attempts`` are those that were made, in order."""

    script: Script
    is_spent: bool = False
    attempts: list[Target] = field(default_factory=list[Target])
    raws: list[Raw] = field(default_factory=list[Raw])
    outsides: int = 0
    under_way: int = 0

    async def attempt(self, target: Target) -> Raw:
        self.attempts.append(target)
        self.under_way += 1
        try:
            made = Raw(await self.script(target), target)
        finally:
            self.under_way -= 1
        self.raws.append(made)
        return made

    async def outside(self, request: Request) -> Given:
        self.outsides += 1
        return Given(200, dict(request.headers), b"outside")

    async def drop(self, raw: Raw) -> None:
        raw.is_closed = True

    def head(self, raw: Raw) -> Head:
        return raw.head

    def blame(self, error: Exception) -> Blame:
        match error:
            case UnreachedError():
                return Blame.UNREACHED
            case BrokenError():
                return Blame.BROKEN
            case ClientTimeoutError():
                return Blame.TIMEOUT
            case _:
                return Blame.OURS

    def finished(self, raw: Raw, headers: Headers, ending: Ending) -> Given:
        if raw.head.received < 0:
            return Given(raw.head.status, dict(headers), b"body", raw, ending)
        ending.over(received=raw.head.received)  # as adapters do of an answer that has come as a whole
        return Given(raw.head.status, dict(headers), b"body", raw)

    def answered(self, answer: Answer) -> Given:
        return Given(answer.status, dict(answer.headers), answer.body)

    def timed_out(self, why: str) -> Exception:
        return ClientTimeoutError(why)


class Blocking:
    """The same exchange for a client that blocks: its script runs in the caller's thread."""

    def __init__(self, script: Callable[[Target], Head]) -> None:
        self.is_spent = False
        self.attempts: list[Target] = []
        self.raws: list[Raw] = []
        self._script = script
        self._rest = Scripted(ok)

    def attempt(self, target: Target) -> Raw:
        self.attempts.append(target)
        made = Raw(self._script(target), target)
        self.raws.append(made)
        return made

    def outside(self, request: Request) -> Given:
        return Given(200, dict(request.headers), b"outside")

    def drop(self, raw: Raw) -> None:
        raw.is_closed = True

    def head(self, raw: Raw) -> Head:
        return raw.head

    def blame(self, error: Exception) -> Blame:
        return self._rest.blame(error)

    def finished(self, raw: Raw, headers: Headers, ending: Ending) -> Given:
        return self._rest.finished(raw, headers, ending)

    def answered(self, answer: Answer) -> Given:
        return self._rest.answered(answer)

    def timed_out(self, why: str) -> Exception:
        return ClientTimeoutError(why)


async def ok(_target: Target) -> Head:
    """Answer well, at once."""
    return Head(200, ())


def saying(status: int, *headers: tuple[str, str]) -> Script:
    """Answer so."""

    async def answer(_target: Target) -> Head:
        await asyncio.sleep(0)
        return Head(status, headers)

    return answer


def taking_turns(*turns: Script) -> Script:
    """Do one after the other; the last again and again."""
    left = list(turns)

    async def answer(target: Target) -> Head:
        turn = left.pop(0) if len(left) > 1 else left[0]
        return await turn(target)

    return answer


async def unreached(_target: Target) -> Head:
    """Refuse the connection."""
    await asyncio.sleep(0)
    raise UnreachedError("connection refused")


async def broken(_target: Target) -> Head:
    """Break the connection."""
    await asyncio.sleep(0)
    raise BrokenError("reset")


async def silent(_target: Target) -> Head:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


@dataclass
class Counted:
    """A Recorder that keeps everything."""

    attempts: list[Tried] = field(default_factory=list[Tried])
    calls: list[Called] = field(default_factory=list[Called])

    def tried(self, tried: Tried) -> None:
        self.attempts.append(tried)

    def called(self, called: Called) -> None:
        self.calls.append(called)


class Nobody:
    """An identity that was never given."""

    spiffe_id = ""

    def client_context(self, identities: tuple[str, ...], alpn: tuple[str, ...] = ()) -> SSLContext:
        raise MeshError(f"nobody may call {identities}")

    def server_context(self, alpn: tuple[str, ...] = ()) -> SSLContext:
        raise MeshError("nobody may serve")


class Said:
    """A Knowledge that says what it was told to."""

    def __init__(self, **told: Known | None) -> None:
        self.told = told
        self.wanted: Future[Known] = Future()

    def known(self, authority: str) -> Known | None:
        return self.told.get(authority)

    def want(self, authority: str) -> "Future[Known]":
        return self.wanted

    def waiting_for(self) -> str:
        return "the control plane at 10.0.0.1:15012"


def route(
    *, name: str = "shop/orders", cluster: PortRef = ORDERS, match: RequestMatch | None = None, **how: object
) -> Route:
    """A route that forwards, ``how`` Forward has it."""
    action = Forward(backends=(Backend(cluster=cluster),), **how)  # pyright: ignore[reportArgumentType] - fields of Forward
    return Route(name=name, match=match or RequestMatch(), action=action)


REPEATING = Retry(attempts=3, codes=(500, 503), backoff=0.001)


def orders(
    *routes: Route,
    instances: int | Iterable[EndpointView] = 2,
    traffic: Traffic = UNSAID,
    more: Iterable[Destination] = (),
) -> Known:
    """What is known of the service ``orders``."""
    views = (
        tuple(
            EndpointView(address=f"10.0.0.{number + 1}", port=80, workload=f"o-{number}") for number in range(instances)
        )
        if isinstance(instances, int)
        else tuple(instances)
    )
    destination = Destination(
        name=ORDERS.path,
        cluster=Cluster(service=ORDERS, protocol=Protocol.HTTP, identities=(IDENTITY,), traffic=traffic),
    )
    found = {destination.name: destination, **{each.name: each for each in more}}
    here = (Locality(zone="a", priority=0, endpoints=views),) if views else ()
    return Known(
        host=VirtualHost(hosts=("orders",), routes=routes or (route(retry=REPEATING, timeout=2.0),)),
        destinations=found,
        endpoints={name: Endpoints(service=ORDERS, localities=here) for name in found},
    )


def strangers() -> Known:
    """What is known of everybody else."""
    return Known(
        host=VirtualHost(hosts=("*",), routes=(route(name="strangers", cluster=ForeignRef.named(PASSTHROUGH)),)),
        destinations={},
        endpoints={},
    )


def mesh(known: Known | None = None, *, patience: float = 0.05) -> tuple[Facade, Counted]:
    """A process in whose mesh ``orders`` is the only service."""
    counted = Counted()
    facade = Facade(
        knowledge=Said(orders=known or orders(), elsewhere=strangers()),
        identity=Nobody(),
        recorder=counted,
        options=CallOptions(caller="shop/web", patience=patience),
        rng=Random(7),
    )
    return facade, counted


def asked(method: str = "GET", target: str = "/", *headers: tuple[str, str], **how: bool) -> Asked:
    """A request for orders."""
    return Asked(Request(method=method, target=target, authority="orders", headers=headers), **how)


def channel(facade: Facade, name: str = ORDERS.path) -> Channel:
    """The channel of a service that was called."""
    found = facade.channels.get(name)
    assert found is not None, f"{name} was never called"
    return found


def under_way(facade: Facade) -> int:
    """Claims at balancers that nobody settled yet, and requests in gates."""
    here = channel(facade)
    here.end_forgotten()
    balancer = here.callee.balancer
    loads = sum(balancer.gauge(each.id).outstanding for each in balancer.membership.endpoints)
    return loads + here.gate.active


LEAVING = Health.DRAINING
