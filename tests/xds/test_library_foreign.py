"""The library driven by a control plane of another's making, whose resources have the names that gRPC gives them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from library.knowledge.foreign_plane import ForeignPlane, serving
from library.knowledge.foreign_resources import AGGREGATE, eds, encoded, endpoints, listener, served, table
from masche.library.core.ports import Known, MeshError
from masche.library.knowledge.knowledge import XdsKnowledge
from masche.model.told import Discovery
from masche.traffic.virtual_hosts import clusters_of
from masche.wire.decode.decoders import decoders
from masche.wire.discovery import encode_node
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client import XdsClient
from masche.xds.client_bootstrap import parse


@asynccontextmanager
async def driven(tmp_path: Path, plane: ForeignPlane) -> AsyncIterator[XdsKnowledge]:
    """The library, as a bootstrap of gRPC's says."""
    path = tmp_path / "foreign.sock"
    content = f'{{"xds_servers": [{{"server_uri": "unix:{path}", "channel_creds": [{{"type": "insecure"}}]}}]}}'
    bootstrap = parse(content.encode(), source="bootstrap")
    node = encode_node(bootstrap.node)
    client = XdsClient(bootstrap.planes, node=lambda: node, decoders=decoders, rng=Random(7))
    knowledge = XdsKnowledge(client, now=monotonic, rng=Random(7), template=bootstrap.template)
    async with serving(path, plane):
        tasks = [asyncio.create_task(client.run()), asyncio.create_task(knowledge.run())]
        try:
            yield knowledge
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def wanted(knowledge: XdsKnowledge, authority: str) -> Known:
    return await asyncio.wait_for(asyncio.wrap_future(knowledge.want(authority)), 10)


async def test_a_foreign_control_plane_is_followed_by_the_names_that_it_gives(tmp_path: Path):
    plane = served()
    async with driven(tmp_path, plane) as knowledge:
        known = await wanted(knowledge, "greeter.example:50051")
        assert set(clusters_of(known.host)) == known.destinations.keys() == {"blue", "green"}
        (locality,) = known.endpoints["blue"].localities
        assert [(each.address, each.port) for each in locality.endpoints] == [("127.0.0.1", 1001), ("127.0.0.1", 1002)]
        assert not known.destinations["blue"].is_tls, "nobody said TLS"
        assert plane.asked(LISTENER) == {"greeter.example:50051"}
        assert plane.refusals == []
        plane.put(ENDPOINTS, "green", endpoints("green", 1004))
        plane.push()
        async with asyncio.timeout(10):
            while knowledge.known("greeter.example:50051") is known:
                await asyncio.sleep(0.01)
        plane.put(ROUTES, "greeter-routes", encoded(ROUTES, table("greeter-routes", "*", green=1)))
        plane.push()
        async with asyncio.timeout(10):
            while plane.asked(CLUSTER) != {"green"}:
                await asyncio.sleep(0.01)


async def test_a_listener_may_bring_its_table_and_clusters_may_be_aggregates_or_names(tmp_path: Path):
    plane = served()
    inline = {"route_config": table("inline", "shop.example", both=1)}
    plane.put(LISTENER, "shop.example", listener("shop.example", **inline))
    both = {"name": "aggregate", "typed_config": {"@type": AGGREGATE, "clusters": ["blue", "legacy"]}}
    aggregate = {"name": "both", "cluster_type": both, "lb_policy": "CLUSTER_PROVIDED"}
    plane.put(CLUSTER, "both", encoded(CLUSTER, aggregate))
    where = {"address": {"socket_address": {"address": "localhost", "port_value": 1005}}}
    assignment = {"cluster_name": "legacy", "endpoints": [{"lb_endpoints": [{"endpoint": where}]}]}
    legacy = {"name": "legacy", "type": "LOGICAL_DNS", "load_assignment": assignment}
    plane.put(CLUSTER, "legacy", encoded(CLUSTER, legacy))
    async with driven(tmp_path, plane) as knowledge:
        known = await wanted(knowledge, "shop.example")
        assert known.destinations["both"].members == ("blue", "legacy")
        assert known.destinations["legacy"].discovery is Discovery.LOGICAL_DNS
        (locality,) = known.endpoints["legacy"].localities
        assert {each.port for each in locality.endpoints} == {1005}
        assert {each.address for each in locality.endpoints} <= {"127.0.0.1", "::1"}
        assert plane.refusals == []


async def test_what_a_foreign_control_plane_does_not_have_is_said_by_name(tmp_path: Path):
    plane = served()
    async with driven(tmp_path, plane) as knowledge:
        await wanted(knowledge, "greeter.example:50051")
        with pytest.raises(MeshError, match=r"the control plane has no Listener nobody\.example"):
            await wanted(knowledge, "nobody.example")
        plane.remove(LISTENER, "greeter.example:50051")
        plane.push()
        async with asyncio.timeout(10):
            while knowledge.known("greeter.example:50051") is not None:
                await asyncio.sleep(0.01)


async def test_what_cannot_be_carried_out_is_refused_by_name_and_the_rest_is_used(tmp_path: Path):
    plane = served()
    plane.put(CLUSTER, "green", encoded(CLUSTER, {**eds("green"), "transport_socket": {"name": "unheard-of"}}))
    async with driven(tmp_path, plane) as knowledge:
        known = await wanted(knowledge, "greeter.example:50051")
        assert known.destinations.keys() == {"blue"}
        async with asyncio.timeout(10):
            while not plane.refusals:
                await asyncio.sleep(0.01)
        assert plane.refusals[0].startswith("green: ")
