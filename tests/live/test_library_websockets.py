"""WebSockets of aiohttp by the library, through routes, to an application behind a sidecar: and as by a sidecar."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import WSServerHandshakeError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.sync.server import ServerConnection, serve

from live.library import facade
from live.mesh import Live, here, living
from live.test_detours import ORDERS, PORT, SERVICE, WEB, workload
from masche.library.aiohttp import client_session
from stories.loader import read_mesh

ROUTE = """---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /live}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /ws}}}]
      timeouts: {request: 300ms}
      backendRefs: [{name: orders, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {action: DENY, selector: {matchLabels: {app: orders}}, rules: [{to: [{operation: {paths: [/ws/closed]}}]}]}
"""


def application(connection: ServerConnection) -> None:
    """Say who calls which path, then whatever is said."""
    request = connection.request
    assert request is not None
    connection.send(f"{request.path} {request.headers['x-forwarded-client-cert'].rpartition('URI=')[2]}")
    for message in connection:
        connection.send(message)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living() as running:
        both = workload("web", 11, "a", label="app: web") + workload("orders", 12, "a", label="app: orders")
        running.load(read_mesh(here(SERVICE + both + ROUTE), file="m.yaml"), {WEB})
        orders = running.standing[ORDERS]
        running.close_application(orders)
        with serve(application, orders.seat.app_address, orders.seat.ports[0].app_port) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            yield running
            server.shutdown()
            serving.join()


SAID = "/ws/a spiffe://mesh.local/ns/shop/sa/web"
LONGER = 0.6
"""Seconds; twice what the route gives a request."""


@pytest.fixture(autouse=True)
async def all_is_closed() -> AsyncIterator[None]:
    """Wait for farewells of TLS, for which nobody waits who closes a client."""
    yield
    async with asyncio.timeout(20):
        while any(each._sock for each in asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined] # nobody else knows of them
            await asyncio.sleep(0.01)


async def test_a_web_socket_takes_its_route_and_outlasts_what_a_request_may_take(live: Live) -> None:
    async with client_session(facade(live, WEB)) as session, session.ws_connect("http://orders/live/a") as socket:
        assert await socket.receive_str() == SAID
        await asyncio.sleep(LONGER)
        await socket.send_bytes(b"x" * 100_000)
        assert await socket.receive_bytes() == b"x" * 100_000


async def test_as_it_does_by_a_sidecar(live: Live) -> None:
    host, port = live.standing[WEB].local(PORT)
    async with connect(f"ws://{host}:{port}/live/a", proxy=None) as socket:
        assert await socket.recv() == SAID
        await asyncio.sleep(LONGER)
        await socket.send(b"x" * 100_000)
        assert await socket.recv() == b"x" * 100_000


async def test_policies_refuse_the_handshake_in_both(live: Live) -> None:
    host, port = live.standing[WEB].local(PORT)
    async with client_session(facade(live, WEB)) as session:
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect("http://orders/live/closed")
    assert (refused.value.status, refused.value.headers["x-masche-denied"]) == (403, "shop/closed rules[0]")
    with pytest.raises(InvalidStatus) as told:
        await connect(f"ws://{host}:{port}/live/closed", proxy=None)
    assert told.value.response.status_code == 403
