"""A proxy that speaks xDS and does nothing else: it behaves as Envoy does towards a control plane, and remembers.

It applies, acknowledges and refuses as Envoy was seen to do: of clusters and listeners the good ones of a refused
response are applied and the bad ones named; of other types nothing is. When it connects again it says what it holds.
"""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, cast

import grpc
import grpc.aio

from masche.model.refs import PortRef
from masche.wire import discovery
from masche.wire.discovery import DeltaRequest, DeltaResponse, Framed, SotwRequest, SotwResponse
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES

_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
_NAMED = frozenset({CLUSTER, LISTENER})
_FOLLOWS = {CLUSTER: ENDPOINTS, LISTENER: ROUTES}

Rejects = Callable[[str, Framed], str | None]
"""Why a resource (type URL, resource) is refused, or None."""


class _Line:
    """One raw xDS stream: what was received so far, and waiting for more of it."""

    def __init__(self, channel: grpc.aio.Channel, method: str) -> None:
        self._channel, self._method = channel, method
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self._news = asyncio.Condition()
        self._writing = asyncio.Lock()  # gRPC takes one write at a time, and the test writes beside the reader
        self.code: grpc.StatusCode | None = None
        self.details = ""

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def connect(self) -> None:
        """Open a stream."""
        self.code, self.details = None, ""
        multi = cast("Any", self._channel).stream_stream(f"{_SERVICE}/{self._method}")
        self._call = multi()
        self._reader = asyncio.create_task(self._read())

    async def disconnect(self) -> None:
        """Drop the stream without a word, as a proxy that dies does."""
        if self._reader:
            self._call.cancel()
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    def stop_reading(self) -> None:
        """Become a slow consumer: what comes now is left in the connection."""
        self._reading.clear()

    def go_on_reading(self) -> None:
        """Read, and answer, again."""
        self._reading.set()

    async def until(self, condition: Callable[[], object], *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - a deadline for tests
        """Wait until something received makes ``condition`` true; else raise TimeoutError with what is held."""
        try:
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(condition)
        except TimeoutError:
            raise TimeoutError(f"after {timeout} s: {self!r}") from None

    async def _write(self, data: bytes) -> None:
        try:
            async with self._writing:
                await self._call.write(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._ended()

    async def _ended(self) -> None:
        async with self._news:
            self.code, self.details = await self._call.code(), await self._call.details() or ""
            self._news.notify_all()

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            try:
                data = cast("object", await self._call.read())
            except grpc.aio.AioRpcError:
                return await self._ended()
            if not isinstance(data, bytes):
                return await self._ended()
            await self._receive(data)
            async with self._news:
                self._news.notify_all()

    async def _receive(self, data: bytes) -> None:
        raise NotImplementedError


class FakeProxy(_Line):
    """A proxy on a delta stream.

    ``held`` is what it applied, by type URL and name; ``responses`` is every response in order; ``answers`` switches
    ACK and NACK off. With ``follows`` it subscribes, as Envoy does, to the endpoints of each ``outbound/...`` cluster
    and the routes of each ``outbound/...`` or ``proxy`` listener that it holds.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        node_id: str,
        *,
        rejects: Rejects = lambda _kind, _framed: None,
        follows: bool = False,
    ) -> None:
        super().__init__(channel, "DeltaAggregatedResources")
        self.node_id = node_id
        self.rejects = rejects
        self.follows = follows
        self.answers = True
        self.held: dict[str, dict[str, Framed]] = {}
        self.asked: dict[str, set[str]] = {}
        self.responses: list[DeltaResponse] = []
        self._is_introduced = False

    async def connect(self) -> None:
        """Open a stream; a proxy that was connected before asks for the same again and says what it holds."""
        await super().connect()
        self._is_introduced = False
        for kind, names in self.asked.items():
            versions = {name: framed.version for name, framed in self.held.get(kind, {}).items()}
            await self.send(DeltaRequest(type_url=kind, subscribe=tuple(sorted(names)), initial_versions=versions))

    async def subscribe(self, type_url: str, *names: str) -> None:
        """Ask for these names; for none at first, which of clusters and listeners means everything."""
        self.asked.setdefault(type_url, set()).update(names)
        self.held.setdefault(type_url, {})
        await self.send(DeltaRequest(type_url=type_url, subscribe=names))

    async def unsubscribe(self, type_url: str, *names: str) -> None:
        """Give these names up and forget what they held."""
        self.asked[type_url] -= set(names)
        for name in names:
            self.held[type_url].pop(name, None)
        await self.send(DeltaRequest(type_url=type_url, unsubscribe=names))

    async def send(self, request: DeltaRequest) -> None:
        """Send any request; the first one of a stream gets the node."""
        node_id, self._is_introduced = ("" if self._is_introduced else self.node_id), True
        await self._write(
            discovery.encode_delta_request(
                DeltaRequest(
                    type_url=request.type_url,
                    node_id=node_id,
                    nonce=request.nonce,
                    error_code=request.error_code,
                    error_message=request.error_message,
                    subscribe=request.subscribe,
                    unsubscribe=request.unsubscribe,
                    initial_versions=request.initial_versions,
                )
            )
        )

    def versions(self, type_url: str) -> dict[str, str]:
        """Return what it holds of a type: version by name."""
        return {name: framed.version for name, framed in self.held.get(type_url, {}).items()}

    def names(self, type_url: str) -> set[str]:
        """Return the names that it holds of a type."""
        return set(self.held.get(type_url, {}))

    async def _receive(self, data: bytes) -> None:
        response = discovery.decode_delta_response(data)
        self.responses.append(response)
        if not self.answers:
            return
        bad = [(framed.name, why) for framed in response.resources if (why := self.rejects(response.type_url, framed))]
        self._apply(response, {name for name, _ in bad})
        await self.send(
            DeltaRequest(type_url=response.type_url, nonce=response.nonce, **_error(response.type_url, bad))
        )
        await self._follow(response)

    def _apply(self, response: DeltaResponse, bad: set[str]) -> None:
        held = self.held.setdefault(response.type_url, {})
        for name in response.removed:
            held.pop(name, None)
        if not bad or response.type_url in _NAMED:
            held.update({framed.name: framed for framed in response.resources if framed.name not in bad})

    async def _follow(self, response: DeltaResponse) -> None:
        kind = _FOLLOWS.get(response.type_url) if self.follows else None
        if not kind:
            return
        known = self.asked.get(kind, set())
        names = {name for name in self.held[response.type_url] if name == "proxy" or PortRef.parse(name)}
        gone = known & set(response.removed)
        if names - known:
            await self.subscribe(kind, *sorted(names - known))
        if gone:
            await self.unsubscribe(kind, *sorted(gone))

    def __repr__(self) -> str:
        held = ", ".join(f"{kind.rpartition('.')[2]} {sorted(names)}" for kind, names in self.held.items())
        return f"<FakeProxy {self.node_id} holds {held or 'nothing'} after {len(self.responses)} responses{_end(self)}>"


def _end(line: _Line) -> str:
    return f", ended by {line.code.name}: {line.details}" if line.code else ""


def _error(type_url: str, bad: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what Envoy says: it names bad clusters and listeners, and of other types only tells the first reason."""
    found = list(bad)
    if not found:
        return {}
    listed = ", ".join(f"{name}: {why}" for name, why in found)
    kind = {CLUSTER: "cluster(s)", LISTENER: "listener(s)"}.get(type_url)
    return {"error_code": 13, "error_message": f"Error adding/updating {kind} {listed}" if kind else found[0][1]}


class SotwProxy(_Line):
    """A client on a state-of-the-world stream, as grpcio's is: every response is all there is.

    ``refusal`` is asked of each response and returns why it is refused, or None.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        node_id: str,
        *,
        refusal: Callable[[SotwResponse], str | None] = lambda _response: None,
    ) -> None:
        super().__init__(channel, "StreamAggregatedResources")
        self.node_id = node_id
        self.refusal = refusal
        self.held: dict[str, SotwResponse] = {}
        self.asked: dict[str, tuple[str, ...]] = {}
        self.responses: list[SotwResponse] = []
        self._nonces: dict[str, str] = {}

    async def subscribe(self, type_url: str, *names: str) -> None:
        """Ask for exactly these names of a type from now on."""
        self.asked[type_url] = names
        await self._ask(type_url)

    async def send(self, request: SotwRequest) -> None:
        """Send any request as it is."""
        await self._write(discovery.encode_sotw_request(request))

    async def _ask(self, type_url: str, **error: Any) -> None:
        held = self.held.get(type_url)
        await self.send(
            SotwRequest(
                type_url=type_url,
                node_id=self.node_id,
                version=held.version if held else "",
                nonce=self._nonces.get(type_url, ""),
                names=self.asked[type_url],
                **error,
            )
        )

    async def _receive(self, data: bytes) -> None:
        response = discovery.decode_sotw_response(data)
        self.responses.append(response)
        self._nonces[response.type_url] = response.nonce
        why = self.refusal(response)
        if why is None:
            self.held[response.type_url] = response
        await self._ask(response.type_url, **({"error_code": 3, "error_message": why} if why else {}))

    def __repr__(self) -> str:
        held = ", ".join(f"{len(found.resources)} {kind.rpartition('.')[2]}" for kind, found in self.held.items())
        return f"<SotwProxy {self.node_id} holds {held or 'nothing'} after {len(self.responses)} responses{_end(self)}>"
