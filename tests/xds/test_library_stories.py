"""Every story as the library is told it: by our compiler and control plane, over our client, and what it then knows."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from time import monotonic

import pytest
from xds_plane import Plane, Served, serving

from masche.compiler.endpoints import endpoints
from masche.compiler.envoy import endpoints as endpoints_encoder
from masche.compiler.proxyless import library
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.identity import dialling
from masche.library.core.ports import Known
from masche.library.knowledge.knowledge import XdsKnowledge
from masche.model.blob import Blob
from masche.model.mesh import Mesh
from masche.model.resources.workload import Workload
from masche.model.steering import NO_STEERING
from masche.model.told import CLIENT_LISTENER, PASSTHROUGH, Discovery
from masche.model.vantage import Dialect, Placement
from masche.model.view import View
from masche.traffic.virtual_hosts import clusters_of
from masche.wire import framing
from masche.wire.decode.decoders import decoders
from masche.wire.discovery import Node, encode_node
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER
from masche.xds.client import ControlPlane, XdsClient
from masche.xds.verdict import Sync
from masche.xds.wanted import Wanted
from stories.loader import Story, names, story

WEB = "me"


def views(found: Story) -> Iterator[tuple[Workload, View]]:
    """What each of a story's Workloads is told on the library placement."""
    for _, workload in sorted(found.mesh.workloads.items()):
        vantage = stand(found.mesh, workload, placement=Placement.LIBRARY, dialect=Dialect.LIBRARY)
        yield workload, view(found.mesh, vantage)


def blobs(mesh: Mesh, told: View) -> tuple[Blob, ...]:
    ports = (each.service for each in told.clusters)
    made = (endpoints_encoder.blob(endpoints(mesh, NO_STEERING, port, told.vantage.zone)) for port in ports)
    return (*library.blobs(told), *made)


@asynccontextmanager
async def knowing(target: str) -> AsyncIterator[tuple[XdsKnowledge, XdsClient]]:
    plane = ControlPlane(name=target, open=lambda: dialling.channel(target, None, max_receive_bytes=1 << 26))
    node = encode_node(Node(id=WEB))
    client = XdsClient([plane], node=lambda: node, decoders=decoders, rng=Random(7))
    knowledge = XdsKnowledge(client, now=monotonic, rng=Random(7), template=CLIENT_LISTENER)
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(knowledge.run())]
    try:
        yield knowledge, client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wanted(knowledge: XdsKnowledge, authority: str) -> Known:
    return await asyncio.wait_for(asyncio.wrap_future(knowledge.want(authority)), 10)


async def until(condition, *, timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", names())
async def test_the_library_knows_of_every_service_what_the_compiler_says(name: str, served: Served):
    found = story(name)
    for workload, told in views(found):
        served.plane.want(WEB, Wanted.of(blobs(found.mesh, told)))
        async with knowing(served.target) as (knowledge, client):
            stranger = await wanted(knowledge, "www.example.org")
            ways = {PASSTHROUGH} if not told.is_registry_only else set()
            assert set(clusters_of(stranger.host)) == ways, workload.name
            for outbound in told.outbound:
                if outbound.answers_bare and outbound.protocol.is_http:
                    for host in outbound.hosts:
                        known = await wanted(knowledge, f"{host}:{outbound.service.port}")
                        agrees(found.mesh, told, known)
            assert client.refusals() == ()
            await served.plane.until(lambda: is_in_sync(served.plane))


def is_in_sync(plane: Plane) -> bool:
    return all(status.sync is Sync.IN_SYNC for status in plane.seats[-1].conversation.status())


def agrees(mesh: Mesh, told: View, known: Known) -> None:
    """What is known of each cluster is what the View says."""
    clusters = {each.service.path: each for each in told.clusters}
    assert known.destinations.keys() == set(clusters_of(known.host)) & clusters.keys()
    assert known.endpoints.keys() == known.destinations.keys()
    for name, destination in known.destinations.items():
        assert destination.discovery is Discovery.EDS
        assert destination.is_tls
        assert set(destination.cluster.identities) == set(clusters[name].identities)
        assert destination.cluster.traffic == clusters[name].traffic
        said = endpoints(mesh, NO_STEERING, destination.cluster.service, told.vantage.zone)
        assert addresses(known.endpoints[name]) == addresses(said)


def addresses(found) -> list[tuple[object, ...]]:
    return sorted(
        (locality.zone, locality.priority, each.address, each.port, each.health, each.is_mtls, each.via)
        for locality in found.localities
        for each in locality.endpoints
    )


def mirror() -> tuple[Mesh, View]:
    found = story("mirror")
    return found.mesh, next(told for workload, told in views(found) if workload.name.name.startswith("web"))


async def test_a_change_of_endpoints_and_routes_is_known_live_and_acknowledged(served: Served):
    mesh, told = mirror()
    made = blobs(mesh, told)
    served.plane.want(WEB, Wanted.of(made))
    async with knowing(served.target) as (knowledge, _):
        before = await wanted(knowledge, "orders")
        name = next(iter(before.endpoints))
        gone = endpoints_encoder.blob(replace(before.endpoints[name], localities=()))
        world = Wanted.of(gone if (each.type_url, each.name) == (ENDPOINTS, name) else each for each in made)
        served.plane.want(WEB, world)
        await until(lambda: knowledge.known("orders") is not before)
        after = knowledge.known("orders")
        assert after is not None
        assert after.endpoints[name].localities == ()
        assert after.host is before.host, "what did not change is the same object"
        await served.plane.until(lambda: served.plane.seats[-1].conversation.is_live(world) or is_in_sync(served.plane))


async def test_what_the_library_refuses_is_seen_at_the_control_plane_and_what_was_good_stays(served: Served):
    mesh, told = mirror()
    made = blobs(mesh, told)
    served.plane.want(WEB, Wanted.of(made))
    async with knowing(served.target) as (knowledge, client):
        before = await wanted(knowledge, "orders")
        name = next(iter(before.destinations))
        bad = framing.blob(CLUSTER, name, framing.text(1, name) + b"\x10\x63")
        broken = [bad if (each.type_url, each.name) == (CLUSTER, name) else each for each in made]
        served.plane.want(WEB, Wanted.of(broken))
        await served.plane.until(lambda: served.plane.seats[-1].rejected)
        (rejection,) = served.plane.seats[-1].rejected
        assert rejection.name == name
        assert rejection.why.startswith(f"{name}: ")
        assert knowledge.known("orders") is before
        assert [key for key, _ in client.refusals()] == [(CLUSTER, name)]
        served.plane.want(WEB, Wanted.of(made))
        await until(lambda: not client.refusals())
        assert knowledge.known("orders") == before


async def test_the_control_plane_restarts_and_nothing_is_forgotten(tmp_path: Path):
    mesh, told = mirror()
    plane = Plane()
    plane.want(WEB, Wanted.of(blobs(mesh, told)))
    path = tmp_path / "xds.sock"
    async with knowing(f"unix:{path}") as (knowledge, client):
        waiting = knowledge.want("orders")
        await until(lambda: "the control plane at unix:" in knowledge.waiting_for())
        async with serving(path, plane):
            before = await asyncio.wait_for(asyncio.wrap_future(waiting), 10)
        await until(lambda: not client.is_connected)
        assert knowledge.known("orders") is before
        fresh = Plane()
        fresh.want(WEB, Wanted.of(blobs(mesh, told)))
        async with serving(path, fresh):
            await until(lambda: fresh.seats and fresh.seats[-1].answers >= 4)
            assert knowledge.known("orders") is before, "the same configuration changes nothing"


async def test_the_client_asks_for_the_listener_and_the_clusters_of_whom_it_calls_alone(served: Served):
    mesh, told = mirror()
    served.plane.want(WEB, Wanted.of(blobs(mesh, told)))
    async with knowing(served.target) as (knowledge, client):
        known = await wanted(knowledge, "orders")
        asked = {kind: set(book.entries) for kind, book in client.subscriber._books.items()}
        assert asked[LISTENER] == {CLIENT_LISTENER}
        assert asked[CLUSTER] == asked[ENDPOINTS] == known.destinations.keys()
