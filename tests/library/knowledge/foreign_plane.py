"""A control plane of another's making: state-of-the-world ADS as small servers do it, which send whenever they like.

It sends a type's whole state on every change and on every request that is no plain answer, with a version per type."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from masche.wire import framing
from masche.wire.discovery import SotwRequest, decode_sotw_request, encode_sotw_response


@dataclass
class ForeignPlane:
    """What it serves, by type and name, and what it was asked and answered. It says nothing before it ``knows``."""

    knows: bool = True
    resources: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[SotwRequest] = field(default_factory=list)
    streams: "list[_Stream]" = field(default_factory=list)

    def put(self, kind: str, name: str, message: bytes) -> None:
        self.resources.setdefault(kind, {})[name] = message

    def remove(self, kind: str, name: str) -> None:
        self.resources.get(kind, {}).pop(name, None)

    def push(self) -> None:
        for stream in self.streams:
            stream.wake.set()

    def asked(self, kind: str) -> set[str]:
        """What the last stream asks for now."""
        return set(self.streams[-1].names.get(kind, ())) if self.streams else set()

    @property
    def refusals(self) -> list[str]:
        return [request.error_message for request in self.requests if request.error_code]

    async def serve(self, _requests: object, context: Any) -> None:
        stream = _Stream(self, context)
        self.streams.append(stream)
        try:
            await stream.run()
        finally:
            self.streams.remove(stream)


class _Stream:
    def __init__(self, plane: ForeignPlane, context: Any) -> None:
        self.plane, self.context = plane, context
        self.wake = asyncio.Event()
        self.names: dict[str, tuple[str, ...]] = {}
        self.sent: dict[str, tuple[object, ...]] = {}
        self.version = 0

    async def run(self) -> None:
        writer = asyncio.create_task(self.write())
        try:
            while isinstance(data := await self.context.read(), bytes):
                request = decode_sotw_request(data)
                self.plane.requests.append(request)
                self.names[request.type_url] = request.names
                self.wake.set()
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def write(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            if not self.plane.knows:
                continue
            for kind, names in list(self.names.items()):
                found = self.plane.resources.get(kind, {})
                given = {name: found[name] for name in names if name in found}
                state = (tuple(sorted(given.items())), names)
                if self.sent.get(kind) != state:
                    self.sent[kind] = state
                    self.version += 1
                    frames = [framing.field(2, framing.packed(kind, message)) for message in given.values()]
                    version = str(self.version)
                    await self.context.write(encode_sotw_response(kind, f"n{version}", frames, version))


@asynccontextmanager
async def serving(path: Path, plane: ForeignPlane) -> AsyncIterator[str]:
    """Serve it on a Unix socket, and return how to reach it."""
    server = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(plane.serve)
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    methods = {"StreamAggregatedResources": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield f"unix:{path}"
    finally:
        await server.stop(0)
