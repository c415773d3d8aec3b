"""An asyncio gRPC server in the mesh by the library: mutual TLS and policies in its own process, without xDS."""

import asyncio
import json
import os
import signal
import sys

import grpc

from masche.library import peer
from masche.library.grpc import guard

PORT = os.environ["PORT"]


async def whoami(_request, context):
    context.set_trailing_metadata((("served-by", os.environ["NAME"]),))
    return json.dumps({"name": os.environ["NAME"], "peer": [str(peer.current())]}).encode()


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    guarded = guard(PORT)
    server = grpc.aio.server(interceptors=[guarded.aio_interceptor])
    methods = {"WhoAmI": grpc.unary_unary_rpc_method_handler(whoami)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.Greeter", methods),))
    server.add_secure_port(f"127.0.0.1:{PORT}", await asyncio.to_thread(guarded.credentials))
    await server.start()
    guarded.begin()
    sys.stdout.write(json.dumps({"listens": PORT}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    sys.stdout.write(json.dumps({"left": await asyncio.to_thread(guarded.leave)}) + "\n")
    sys.stdout.flush()
    await server.stop(0.2)


asyncio.run(main())
