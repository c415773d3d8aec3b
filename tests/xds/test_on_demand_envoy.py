"""Scope on demand with Envoy itself: clusters that it was not given are asked for when a request needs them."""

import time
from pathlib import Path

from test_real_envoy import application, envoy, get
from xds_messages import ADS, HCM, address, cluster, encoded, endpoints, free_port
from xds_plane import Plane, serving

from masche.model.blob import Blob
from masche.wire.types import CLUSTER, LISTENER, PREFIX
from masche.xds.verdict import Sync
from masche.xds.wanted import Table, Wanted

ON_DEMAND = f"{PREFIX}envoy.extensions.filters.http.on_demand.v3.OnDemand"
WAIT = 3.0
"""Seconds that the filter waits for a cluster: what is answered sooner was not waited for."""


def front(port: int, *targets: str) -> Blob:
    """A listener that sends ``/name`` to the cluster of that name, whether or not there is one."""
    matches: list[dict[str, object]] = [{"match": {"path": f"/{each}"}, "route": {"cluster": each}} for each in targets]
    asleep = {"demand": {"@type": ON_DEMAND.replace("OnDemand", "PerRouteConfig")}}
    matches.append({"match": {"prefix": "/never"}, "route": {"cluster": "never"}, "typed_per_filter_config": asleep})
    demand = {"@type": ON_DEMAND, "odcds": {"source": ADS, "timeout": f"{WAIT:g}s"}}
    manager = {
        "@type": HCM,
        "stat_prefix": "front",
        "route_config": {
            "name": "front",
            "validate_clusters": False,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": matches}],
        },
        "http_filters": [
            {"name": "demand", "typed_config": demand},
            {"name": "router", "typed_config": {"@type": f"{PREFIX}envoy.extensions.filters.http.router.v3.Router"}},
        ],
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    return encoded(LISTENER, {"name": "front", "address": address(port), "filter_chains": [chain]})


def offering(offered: frozenset[str], *blobs: Blob) -> Wanted:
    whole = Wanted.of(blobs)
    return Wanted({**whole, CLUSTER: Table(whole.table(CLUSTER).values(), offered=offered)})


async def timed(port: int, path: str) -> tuple[bytes, float]:
    began = time.monotonic()
    return await get(port, path), time.monotonic() - began


async def settled(plane: Plane, port: int) -> None:
    await plane.until(lambda: plane.seats and len(plane.seats[-1].conversation.status()) >= 2)
    await plane.until(lambda: all(each.sync is Sync.IN_SYNC for each in plane.seats[-1].conversation.status()))


async def test_a_first_call_waits_for_its_cluster_and_what_does_not_exist_fails_at_once(tmp_path: Path):
    plane = Plane()
    async with application(b"hello") as app, serving(tmp_path / "xds.sock", plane), envoy(tmp_path, plane) as proxy:
        port = free_port()
        blobs = (cluster("a"), endpoints("a", app), cluster("b"), endpoints("b", app), front(port, "a", "b", "no"))
        wanted = offering(frozenset({"a"}), *blobs)
        plane.want("web", wanted)
        await settled(plane, port)
        assert await proxy.stats("cluster.b.membership_total") == {}
        for path in ("/a", "/b", "/b"):
            answer, seconds = await timed(port, path)
            assert answer.endswith(b"hello")
            assert seconds < WAIT / 2
        answer, seconds = await timed(port, "/no")
        assert b" 503 " in answer
        assert seconds < WAIT / 2
        for _ in range(3):
            answer, seconds = await timed(port, "/never")
            assert b" 503 " in answer
            assert seconds < WAIT / 2, "a route to what never exists asks for nothing"
        await settled(plane, port)
        assert proxy.seat.conversation.is_live(wanted)


async def test_a_cluster_got_on_demand_follows_changes_and_outlives_the_control_plane(tmp_path: Path):
    plane = Plane()
    async with application(b"old") as old, application(b"new") as new, envoy(tmp_path, plane) as proxy:
        port = free_port()
        rest = (cluster("b"), front(port, "b"))
        async with serving(tmp_path / "xds.sock", plane):
            plane.want("web", offering(frozenset(), *rest, endpoints("b", old)))
            await settled(plane, port)
            assert (await get(port, "/b")).endswith(b"old")
            await settled(plane, port)
        before = len(plane.seats)
        assert (await get(port, "/b")).endswith(b"old"), "nobody is needed for what is known"
        async with serving(tmp_path / "xds.sock", plane):
            await plane.until(lambda: len(plane.seats) > before)
            await settled(plane, port)
            assert proxy.seat.answers == 0, "it has everything"
            changed = offering(frozenset(), cluster("b", lb_policy="RANDOM"), rest[1], endpoints("b", new))
            plane.want("web", changed)
            await plane.until(lambda: proxy.seat.answers and proxy.seat.conversation.is_live(changed))
            assert (await get(port, "/b")).endswith(b"new")


async def test_a_bad_cluster_that_is_asked_for_is_refused_and_the_others_are_not(tmp_path: Path):
    plane = Plane()
    async with application(b"hello") as app, serving(tmp_path / "xds.sock", plane), envoy(tmp_path, plane) as proxy:
        port = free_port()
        bad = cluster("bad", transport_socket={"name": "no-such-socket"})
        blobs = (bad, cluster("b"), endpoints("b", app), front(port, "b", "bad"))
        plane.want("web", offering(frozenset(), *blobs))
        await settled(plane, port)
        assert b" 503 " in await get(port, "/bad")
        await plane.until(lambda: proxy.seat.rejected)
        assert [(each.name, each.version) for each in proxy.seat.rejected] == [("bad", bad.version)]
        assert (await get(port, "/b")).endswith(b"hello")
        good = offering(frozenset(), cluster("bad"), endpoints("bad", app), *blobs[1:])
        plane.want("web", good)
        await plane.until(lambda: proxy.seat.conversation.is_live(good))
        assert (await get(port, "/bad")).endswith(b"hello")
