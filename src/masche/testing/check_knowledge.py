"""What every Knowledge must do for the call pipeline, as a check that the real one and the double both pass."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from masche.library.core.ports import Knowledge, Known
from masche.model.refs import ForeignRef, PortRef
from masche.model.told import PASSTHROUGH, Destination, Table
from masche.model.view import (
    Backend,
    Cluster,
    Endpoints,
    EndpointView,
    Forward,
    Locality,
    Mirror,
    Protocol,
    RequestMatch,
    Route,
    VirtualHost,
)
from masche.testing.static_knowledge import World

DEADLINE = 10.0

Put = Callable[[World], Awaitable[None]]
"""Makes this the world; returns at once, whenever the Knowledge hears of it."""


def cluster(name: str, **more: object) -> Destination:
    """Return a destination of the name of a Service's port, ``outbound/shop/orders/80``, found by EDS."""
    made = Cluster(service=ref(name), protocol=Protocol.HTTP, identities=(f"spiffe://mesh.local/{name}",))
    return replace(Destination(name=name, cluster=made), **more)


def ref(name: str) -> PortRef:
    """Return what a cluster's name points at."""
    return ForeignRef.named(name)


def instances(name: str, *addresses: str) -> Endpoints:
    """Return instances of a cluster, all on port 8080 and in one zone."""
    views = tuple(EndpointView(address=address, port=8080, workload=address) for address in addresses)
    return Endpoints(service=ref(name), localities=(Locality(zone="a", priority=0, endpoints=views),))


def route(*names: str, mirrors: tuple[str, ...] = ()) -> Route:
    """Return a route that takes all requests to these clusters."""
    backends = tuple(Backend(cluster=ref(name)) for name in names)
    copies = tuple(Mirror(cluster=ref(name)) for name in mirrors)
    return Route(name="all", match=RequestMatch(), action=Forward(backends=backends, mirrors=copies))


ORDERS, CARTS, COPIES = "outbound/shop/orders/80", "outbound/shop/carts/80", "outbound/shop/copies/80"

TOWN = World(
    table=Table(
        name="proxy",
        hosts=(
            VirtualHost(hosts=("orders", "orders.shop:80"), routes=(route(ORDERS, mirrors=(COPIES,)),)),
            VirtualHost(hosts=("carts",), routes=(route(CARTS, "outbound/shop/nobody/80"),)),
            VirtualHost(hosts=("*",), routes=(route(PASSTHROUGH),)),
        ),
    ),
    destinations=(cluster(ORDERS), cluster(CARTS), cluster(COPIES)),
    endpoints={
        ORDERS: instances(ORDERS, "10.0.0.1", "10.0.0.2"),
        CARTS: instances(CARTS, "10.0.0.3"),
        COPIES: instances(COPIES, "10.0.0.4"),
    },
)
"""Two services, one of them copied to a third, a cluster that does not exist, and what is not of the mesh."""


async def check_knowledge(knowledge: Knowledge, put: Put) -> None:
    """Tell it of TOWN, which it must not know yet, and of changes. Raises AssertionError naming what was promised."""
    await _check_waiting(knowledge, put)
    await _check_sharing(knowledge)
    await _check_changes(knowledge, put)


async def _until(condition: Callable[[], object], promise: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - a Knowledge calls nobody back; its readers look
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(promise) from None


async def _wanted(knowledge: Knowledge, authority: str) -> Known:
    async with asyncio.timeout(DEADLINE):
        return await asyncio.wrap_future(knowledge.want(authority))


async def _check_waiting(knowledge: Knowledge, put: Put) -> None:
    assert knowledge.known("orders") is None, "nothing is known before anything was told"
    waiting, given_up = knowledge.want("orders"), knowledge.want("orders")
    assert given_up.cancel(), "who waits may leave"
    await _until(knowledge.waiting_for, "it says what it waits for")
    await put(TOWN)
    async with asyncio.timeout(DEADLINE):
        known = await asyncio.wrap_future(waiting)
    assert known.host == TOWN.table.hosts[0], "the virtual host of that name is found"
    assert known.destinations.keys() == {ORDERS, COPIES}, "every cluster that it leads to is known, mirrors too"
    assert known.endpoints[ORDERS] == TOWN.endpoints[ORDERS], "so are the endpoints of each"
    assert knowledge.waiting_for() == "", "nothing is waited for any more"


async def _check_sharing(knowledge: Knowledge) -> None:
    known = knowledge.known("orders")
    assert known is not None, "what was told stays known"
    assert knowledge.known("orders") is known, "the same object comes back until something has changed"
    assert await _wanted(knowledge, "ORDERS") is known, "case does not matter"
    assert await _wanted(knowledge, "orders.shop:80") is known, "two names of one virtual host are known as one"
    assert await asyncio.to_thread(knowledge.known, "orders") is known, "any thread may ask"
    strangers = {id(await _wanted(knowledge, f"host-{number}.example.org")) for number in range(100)}
    assert len(strangers) == 1, "what is not of the mesh is known once, however many hosts there are"
    carts = await _wanted(knowledge, "carts")
    assert carts.destinations.keys() == carts.endpoints.keys() == {CARTS}, "a cluster that does not exist is left out"


async def _check_changes(knowledge: Knowledge, put: Put) -> None:
    orders, carts = await _wanted(knowledge, "orders"), await _wanted(knowledge, "carts")
    moved = {**TOWN.endpoints, ORDERS: instances(ORDERS, "10.0.0.9")}
    await put(replace(TOWN, endpoints=moved))
    await _until(lambda: knowledge.known("orders") is not orders, "a change of endpoints is heard of")
    now = knowledge.known("orders")
    assert now is not None, "what is known changes without a gap"
    assert now.endpoints[ORDERS] == moved[ORDERS], "the new endpoints are the ones that were told"
    assert now.endpoints[COPIES] is orders.endpoints[COPIES], "what did not change is the same object"
    assert knowledge.known("carts") is carts, "what does not depend on the change is the same object"
    await _check_new_routes(knowledge, put, replace(TOWN, endpoints=moved))


async def _check_new_routes(knowledge: Knowledge, put: Put, world: World) -> None:
    """A route moves to a cluster that was not needed so far: half of the change must never be seen."""
    _, carts, rest = world.table.hosts
    host = VirtualHost(hosts=("orders",), routes=(route(CARTS),))
    seen: list[Known | None] = []
    await put(replace(world, table=Table(name="proxy", hosts=(host, carts, rest))))

    def is_moved() -> bool:
        seen.append(knowledge.known("orders"))
        return seen[-1] is not None and seen[-1].host == host

    await _until(is_moved, "a change of routes is heard of")
    for known in seen:
        assert known is not None, "what is known changes without a gap"
        wanted = {CARTS} if known.host == host else {ORDERS, COPIES}
        assert known.destinations.keys() == known.endpoints.keys() == wanted, "no half of a change is ever seen"
