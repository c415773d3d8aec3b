"""One state-of-the-world stream of a program with an xDS client of its own, gRPC's, passed on to control planes.

Responses and acknowledgements pass byte for byte. The stream outlives the control plane: while none is there it is
silent, and the next one is told what the client wants and holds, so that the client notices nothing. Invariant: a
control plane only hears of nonces that it gave itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc.aio

from masche.link.upstream import OverError, Upstream, ending
from masche.wire import framing
from masche.wire.discovery import SotwRequest, decode_sotw_request, decode_sotw_response, encode_sotw_request
from masche.wire.framing import WireError
from masche.wire.types import SECRET

STATE_OF_THE_WORLD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
"""What gRPC's own clients speak."""

AGAIN_SECONDS = 0.2
"""Between two looks for a control plane, while none is there or it ends our streams."""


@dataclass(slots=True, eq=False)
class _Talk:
    """What one control plane was told and said. ``node`` is owed to it with the first request."""

    upstream: Upstream
    node: bytes
    given: dict[str, str] = field(default_factory=dict[str, str])
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def tell(self, raw: bytes, request: SotwRequest) -> None:
        """Pass on what the program says; what answers another control plane is left out, its wishes are not."""
        given = self.given.get(request.type_url, "")
        if request.nonce == given:
            await self._write(raw, has_node=bool(request.node_id))
        elif not given:
            await self.ask(request)
        # Otherwise it has not answered this control plane yet. When it does, it will say all that it wants.

    async def ask(self, request: SotwRequest) -> None:
        """Say what the program wants, as if it asked for the first time."""
        anew = replace(request, node_id="", nonce="", error_code=0, error_message="")
        await self._write(encode_sotw_request(anew), has_node=False)

    async def _write(self, raw: bytes, *, has_node: bool) -> None:
        """Fields of a message may come in any order, so putting one in front is a valid message."""
        async with self._writing:
            node, self.node = self.node, b""
            with ending():
                await self.upstream.write(raw if has_node else node + raw)

    async def hear(self) -> bytes:
        """Return the next response, whole. Raises OverError at the end of the stream."""
        with ending():
            raw: Any = await self.upstream.read()
        if not isinstance(raw, bytes):
            raise OverError  # grpc's end of the stream
        response = decode_sotw_response(raw)
        self.given[response.type_url] = response.nonce
        return raw


class Courier:
    """One stream of one program.

    ``open_upstream`` returns None while no control plane is there; ``note`` hears every answer of the program, and
    ``told`` whether a control plane tells it what to hold. The stream ends when ``over`` is set.
    """

    def __init__(
        self,
        requests: AsyncIterator[bytes],
        write: Callable[[bytes], Awaitable[None]],
        *,
        open_upstream: Callable[[], Upstream | None],
        note: Callable[[SotwRequest], None],
        told: Callable[[bool], None],
    ) -> None:
        self.over = asyncio.Event()
        self._requests = requests
        self._write = write
        self._open_upstream = open_upstream
        self._note = note
        self._told = told
        self._node = b""
        self._wants: dict[str, SotwRequest] = {}
        self._talk: _Talk | None = None

    def __repr__(self) -> str:
        return f"<Courier of {len(self._wants)} types, {'told' if self._talk else 'waiting'}>"

    async def run(self, first: bytes) -> None:
        """Pass on until the program goes or the stream is over."""
        self._node = b"".join(first[part.start : part.end] for part in framing.fields(first) if part.number == 2)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._from_program(first))
                group.create_task(self._from_control_planes())
                group.create_task(self._until_over())
        except* (OverError, WireError, grpc.aio.UsageError):
            pass  # whatever ended it, the program comes again and says what it holds

    async def _until_over(self) -> None:
        await self.over.wait()
        raise OverError

    async def _from_program(self, first: bytes) -> None:
        await self._take(first)
        async for raw in self._requests:
            await self._take(raw)
        raise OverError

    async def _take(self, raw: bytes) -> None:
        request = decode_sotw_request(raw)
        if request.type_url == SECRET:
            return  # keys are made on this machine, and gRPC reads them from its files
        self._note(request)
        self._wants[request.type_url] = request
        if self._talk:
            try:
                await self._talk.tell(raw, request)
            except OverError:
                return  # whoever reads that stream sees its end too; the next control plane is told

    async def _from_control_planes(self) -> None:
        while True:
            if upstream := self._open_upstream():
                try:
                    await self._converse(_Talk(upstream, self._node))
                except OverError:
                    pass  # another one, or the same again, will go on
                finally:
                    self._talk = None
                    self._told(False)  # noqa: FBT003 - it says whether it is so, and has no other argument
                    upstream.cancel()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _converse(self, talk: _Talk) -> None:
        self._talk = talk
        for type_url in tuple(self._wants):
            await talk.ask(self._wants[type_url])  # as it is by now: it may have said something new meanwhile
        self._told(True)  # noqa: FBT003 - as below
        while True:
            await self._write(await talk.hear())
