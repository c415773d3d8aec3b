"""The state-of-the-world protocol with grpcio's own xDS client at the other end, which runs no code of ours."""

import asyncio
import json
import os
import sys
from pathlib import Path

import grpc
import grpc.aio
from xds_messages import ADS, HCM, cluster, encoded, endpoints, free_port, routes
from xds_plane import Plane, serving
from xds_worlds import world

from masche.model.blob import Blob
from masche.wire.types import LISTENER, PREFIX

CALLER = """
import sys
import grpc
with grpc.insecure_channel("xds:///orders") as channel:
    call = channel.unary_unary("/shop.Orders/Get")
    for line in sys.stdin:
        print(call(b"", timeout=20, wait_for_ready=True).decode(), flush=True)
"""


def api_listener(name: str) -> Blob:
    router = {"@type": f"{PREFIX}envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": HCM,
        "rds": {"route_config_name": name, "config_source": ADS},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    return encoded(LISTENER, {"name": name, "api_listener": {"api_listener": manager}})


async def application(word: bytes) -> tuple[grpc.aio.Server, int]:
    async def get(_request: bytes, _context: object) -> bytes:
        return word

    server, port = grpc.aio.server(), free_port()
    methods = {"Get": grpc.unary_unary_rpc_method_handler(get)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


async def test_a_grpc_client_follows_its_endpoints_from_one_instance_to_another(tmp_path: Path):
    plane = Plane()
    one, one_port = await application(b"one")
    other, other_port = await application(b"other")

    def orders(port: int):
        locality = {"region": "here"}
        weighted = {"locality": locality, "load_balancing_weight": 1}
        target = endpoints("orders", port, **weighted)
        return world(api_listener("orders"), routes("orders", "orders"), cluster("orders"), target)

    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"unix:{tmp_path}/xds.sock",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "web"},
    }
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)}
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    async with serving(tmp_path / "xds.sock", plane):
        plane.want("web", orders(one_port))
        caller = await asyncio.create_subprocess_exec(sys.executable, "-c", CALLER, env=environment, **pipes)
        assert caller.stdin is not None
        assert caller.stdout is not None

        async def call() -> bytes:
            caller.stdin.write(b"\n")
            return (await asyncio.wait_for(caller.stdout.readline(), 25)).strip()

        assert await call() == b"one"
        moved = orders(other_port)
        plane.want("web", moved)
        await plane.until(lambda: plane.seats[0].conversation.is_live(moved))
        async with asyncio.timeout(10):
            while await call() != b"other":
                pass
        assert plane.seats[0].rejected == []
        caller.stdin.close()
        assert await caller.wait() == 0
    for server in (one, other):
        await server.stop(0)
