"""A gRPC server with raw bytes for messages: unary, streaming in all directions, statuses, deadlines, cancellation."""

import asyncio
import json
import os
import signal

import grpc

NAME = os.environ.get("NAME", "greeter")
reached, cancelled = asyncio.Event(), asyncio.Event()


async def describe(request, context):
    """Who asked, for what, and how much time is left."""
    metadata = [[key, value] for key, value in context.invocation_metadata() if isinstance(value, str)]
    told = {"name": NAME, "metadata": metadata, "length": len(request), "left": context.time_remaining()}
    context.set_trailing_metadata((("served-by", NAME),))
    return json.dumps(told).encode()


async def echo(request, _context):
    return request


async def fail(request, context):
    """The status that the request names."""
    context.set_trailing_metadata((("why-bin", b"\x00\x01"), ("why", "because")))
    await context.abort(getattr(grpc.StatusCode, request.decode()), "as you wished: 100 % sure")


async def hang(_request, _context):
    """Until the caller gives up."""
    reached.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.set()
        raise


async def was_reached(_request, _context):
    """Wait until a call of ``hang`` is here."""
    await reached.wait()
    return b"yes"


async def was_cancelled(_request, _context):
    """Wait until a caller of ``hang`` gave up."""
    await cancelled.wait()
    return b"yes"


async def count(request, _context):
    for number in range(int(request)):
        yield str(number).encode()


async def total(requests, _context):
    length = 0
    async for request in requests:
        length += len(request)
    return str(length).encode()


async def converse(requests, _context):
    async for request in requests:
        yield b"you said " + request


async def tick(request, _context):
    """A message every so many milliseconds."""
    number = 0
    while True:
        yield str(number).encode()
        number += 1
        await asyncio.sleep(int(request) / 1000)


HANDLERS = {
    "Describe": grpc.unary_unary_rpc_method_handler(describe),
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "WasReached": grpc.unary_unary_rpc_method_handler(was_reached),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Tick": grpc.unary_stream_rpc_method_handler(tick),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Converse": grpc.stream_stream_rpc_method_handler(converse),
}


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.Greeter", HANDLERS),))
    server.add_insecure_port(f"{os.environ['HOST']}:{os.environ['PORT']}")
    await server.start()
    await stop.wait()
    await server.stop(0.2)


asyncio.run(main())
