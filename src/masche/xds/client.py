"""A client of xDS control planes over gRPC: keeps one aggregated stream up, and tells its watchers how resources stand.

The shell of ``subscriber``. One response is read at a time, decoded in slices so that its event loop is never held for
long, applied, told to the watchers, and only then answered, so a hasty control plane is held back. Invariant: what
is held outlives every stream; a control plane that is away, or ends, takes nothing from anybody.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Final, TypeVar

from masche.model.frozen import frozen
from masche.rpc.call import Call
from masche.rpc.channel import Channel
from masche.rpc.status import RpcError
from masche.wire import discovery
from masche.wire.framing import WireError
from masche.xds.client_words import (
    Bounds,
    Decoders,
    Incoming,
    Key,
    Part,
    Patience,
    Refused,
    Resource,
    Standing,
    TooMuchError,
)
from masche.xds.subscriber import Subscriber

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""What a control plane's channel should be made with: a longer response ends its stream."""

ANSWER_TIMEOUT: Final = 10.0
"""Seconds until a control plane must have taken the first request; a connection that hangs is given up then."""

RETURN: Final = 60.0
"""Seconds between looks whether a control plane that is to be preferred is back."""

SLICE: Final = 0.002
"""Seconds of work after which the loop is given to others."""

STANDSTILL: Final = 0.25
"""Seconds by which a look comes too late when the loop, or the process, stood still."""

LARGE: Final = 64 * 1024
"""Bytes of one message from which on it is decoded in a thread, because a slice cannot end within it."""

FIRST_PAUSE: Final = 0.2
LAST_PAUSE: Final = 5.0

Now = Callable[[], float]
"""Monotonic seconds. ``model.ports`` has the same word, and with it all that is written in YAML: too much for here."""

T = TypeVar("T")


@frozen
class ControlPlane:
    """Whom to ask: its ``name`` for people (``10.0.0.1:15012``), and how a new channel to it is opened.

    ``ignores_deletion`` is gRFC A53.
    """

    name: str
    open: Callable[[], Channel]
    ignores_deletion: bool = False


class Watch:
    """One wish for one resource. ``close`` takes it back, once."""

    __slots__ = ("_client", "_is_asked", "_key", "heard", "resource")

    def __init__(self, client: "XdsClient", key: Key, heard: Callable[[Resource], None] | None) -> None:
        self._client, self._key, self.heard = client, key, heard
        try:
            self.resource = client.subscriber.subscribe(*key)
            self._is_asked = True
        except TooMuchError as error:
            self.resource = Resource(Standing.REFUSED, None, str(error))
            self._is_asked = False

    def tell(self, resource: Resource) -> None:
        """Hear that the resource stands differently."""
        self.resource = resource
        if self.heard:
            self.heard(resource)

    def close(self) -> None:
        """Want it no more."""
        self._client.forget(self, self._key, is_asked=self._is_asked)
        self._is_asked = False

    def __repr__(self) -> str:
        return f"<Watch {self._key[0].rpartition('.')[2]} {self._key[1]}: {self.resource.standing}>"


class XdsClient:
    """One client of control planes that all say the same, or of which the first is to be preferred.

    ``node`` is encoded (``discovery.encode_node``) and asked for each stream. Everything but ``run`` is to be called in
    the thread of the loop that ``run`` runs in, before or while it does.
    """

    def __init__(
        self,
        planes: Sequence[ControlPlane],
        *,
        node: Callable[[], bytes],
        decoders: Decoders,
        rng: Random,
        prefers_first: bool = True,
        now: Now = time.monotonic,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        if not planes:
            raise ValueError("an xDS client needs at least one control plane")
        self.subscriber = Subscriber(patience=patience, bounds=bounds)
        self._planes = tuple(planes)
        self._node, self._decoders, self._rng, self._now = node, decoders, rng, now
        self._prefers_first = prefers_first
        self._watches: dict[Key, list[Watch]] = {}
        self._stir = asyncio.Event()
        self._alarm = asyncio.Event()
        self._telling = asyncio.Lock()
        self._settled: list[Callable[[], Awaitable[None]]] = []
        self._at = 0
        self._last: ControlPlane | None = None
        self._failures = 0
        self._responded = False
        self._trouble: dict[str, str] = {}

    @property
    def is_connected(self) -> bool:
        """Whether a control plane has answered on the stream that is up now."""
        return self._responded

    def waiting_for(self) -> str:
        """Say which control plane is waited for and what is wrong with it; empty when one has answered."""
        if self._responded:
            return ""
        return " and ".join(
            f"the control plane at {plane.name}" + (f" ({why})" if (why := self._trouble.get(plane.name)) else "")
            for plane in self._planes
            if not self._trouble or plane.name in self._trouble
        )

    def refusals(self) -> tuple[tuple[Key, str], ...]:
        """Return what of the control plane's resources is refused now, and why."""
        return self.subscriber.refusals()

    def watch(self, type_url: str, name: str, heard: Callable[[Resource], None] | None = None) -> Watch:
        """Ask for a resource. ``heard`` is called whenever it stands differently from now on."""
        if type_url not in self._decoders:
            raise ValueError(f"no decoder for {type_url}")
        watch = Watch(self, (type_url, name), heard)
        self._watches.setdefault((type_url, name), []).append(watch)
        self._stir.set()
        return watch

    def forget(self, watch: Watch, key: Key, *, is_asked: bool) -> None:
        """Take a Watch off; for its ``close``."""
        kept = [each for each in self._watches.get(key, ()) if each is not watch]
        if kept:
            self._watches[key] = kept
        else:
            self._watches.pop(key, None)
        if is_asked:
            self.subscriber.unsubscribe(*key)
            self._stir.set()

    def after_changes(self, settled: Callable[[], Awaitable[None]]) -> None:
        """Have ``settled`` awaited after each batch of changes was told, and before the response is answered."""
        self._settled.append(settled)

    async def run(self) -> None:
        """Connect, ask, listen, and begin again whenever that ends. Returns only by cancellation."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_time())
            while True:
                await self._asked()
                plane = self._planes[self._at]
                began = self._now()
                why = await self._session(plane)
                await asyncio.sleep(self._next(plane, why, lived=self._now() - began))

    async def _asked(self) -> None:
        """Wait until something is wanted: a stream on which nothing is said is ended by the control plane."""
        while not self._watches:
            self._stir.clear()
            await self._stir.wait()

    # What comes after a stream

    def _next(self, plane: ControlPlane, why: str, *, lived: float) -> float:
        """Choose the next control plane, and return how long to wait before.

        A stream that served and broke is tried again where it was; else the next in order, without a pause until none
        is left that was not tried. The pause doubles, with jitter, so that a herd spreads; only a stream that served
        and ``lived`` for a while begins the count anew, for one that breaks at its first response would be a storm.
        """
        self._trouble[plane.name] = why
        was_good, self._responded = self._responded, False
        self._failures = 1 if was_good and lived >= LAST_PAUSE else self._failures + 1
        if was_good:
            return self._pause(self._failures)
        self._at = (self._at + 1) % len(self._planes)
        rounds, tried = divmod(self._failures, len(self._planes))
        return 0.0 if tried else self._pause(rounds)

    def _pause(self, failures: int) -> float:
        return min(LAST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 30)) * self._rng.uniform(0.5, 1.0)

    # One stream

    async def _session(self, plane: ControlPlane) -> str:
        """One connection, from its first byte to its end; says why it ended."""
        try:
            channel = plane.open()
        except (OSError, ValueError) as error:
            return f"no connection can be opened: {error}"
        try:
            async with channel:
                return await self._converse(channel, plane)
        finally:
            self.subscriber.disconnect()

    async def _converse(self, channel: Channel, plane: ControlPlane) -> str:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                call = await channel.stream(METHOD)
        except RpcError as error:
            return error.details
        except TimeoutError:
            return f"it took no connection within {ANSWER_TIMEOUT:.0f} s"
        self.subscriber.connect(is_another=plane is not self._last)
        self.subscriber.ignores_deletion = plane.ignores_deletion
        self._last = plane
        helpers: list[asyncio.Task[str | None]] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(call))
                helpers = [tasks.create_task(self._write(call)), tasks.create_task(self._look_for_better())]
                done, _ = await asyncio.wait((reader, *helpers), return_when=asyncio.FIRST_COMPLETED)
                why = next((found for task in done if (found := _result(task))), "the stream ended")
                for task in (reader, *helpers):
                    task.cancel()
                return why
        finally:
            call.cancel()

    async def _write(self, call: Call) -> str:
        node = self._node()
        try:
            while True:
                while request := self.subscriber.outgoing():
                    async with asyncio.timeout(ANSWER_TIMEOUT):
                        await call.write(discovery.encode_sotw_request(request, node=node))
                    node = b""
                    self.subscriber.wrote(request, now=self._now())
                    self._alarm.set()
                self._stir.clear()
                await self._stir.wait()
        except TimeoutError:
            return f"it took no request within {ANSWER_TIMEOUT:.0f} s"
        except RpcError:
            # The call has ended, and its reader knows why.
            await asyncio.Event().wait()
            raise

    async def _read(self, call: Call) -> str:
        try:
            while (data := await call.read()) is not None:
                response = await self._response(data)
                self._responded = True
                self._trouble.clear()
                await self._take(response)
        except RpcError as error:
            return error.details
        except WireError as error:
            return f"it sent what is no response: {error}"
        return "it ended the stream"

    async def _response(self, data: bytes) -> discovery.SotwResponse:
        if len(data) < LARGE:
            return discovery.decode_sotw_response(data)
        return await asyncio.to_thread(discovery.decode_sotw_response, data)

    async def _take(self, response: discovery.SotwResponse) -> None:
        incoming = await paced(self.subscriber.receive(response))
        if incoming is None:
            return
        decoded = await self._decode(incoming)
        await self._tell(self.subscriber.apply(incoming, decoded, now=self._now()))
        self._stir.set()
        self._alarm.set()

    async def _decode(self, incoming: Incoming) -> dict[str, object]:
        decoder = self._decoders[incoming.type_url]
        decoded: dict[str, object] = {}
        began = time.perf_counter()
        for part in incoming.parts:
            if len(part.message) < LARGE:
                decoded[part.name] = _decoded(decoder, part)
            else:
                decoded[part.name] = await asyncio.to_thread(_decoded, decoder, part)
            if time.perf_counter() - began > SLICE:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return decoded

    async def _tell(self, changed: Sequence[Key]) -> None:
        if not changed:
            return
        async with self._telling:
            await paced(self._tell_each(changed))
            for settled in self._settled:
                await settled()

    def _tell_each(self, changed: Sequence[Key]) -> Generator[None, None, None]:
        for key in changed:
            resource = self.subscriber.found(*key)
            for watch in self._watches.get(key, ()):
                if resource is not None:
                    watch.tell(resource)
            yield

    # Time

    async def _keep_time(self) -> None:
        """Look every so often whether something did not come that was asked for.

        A process that stood still, or had no time for this loop, may have the answer lying before it: time in which it
        could not look is not held against a control plane.
        """
        while True:
            self._alarm.clear()
            deadline = self.subscriber.next_deadline()
            try:
                async with asyncio.timeout(None if deadline is None else max(0.0, deadline - self._now())):
                    await self._alarm.wait()
                continue
            except TimeoutError:
                late = self._now() - (deadline or 0.0)
            if late > STANDSTILL:
                self.subscriber.postpone(late + STANDSTILL)
            else:
                await self._tell(self.subscriber.tick(now=self._now()))

    async def _look_for_better(self) -> str:
        """Return when a control plane that is to be preferred to this one can be reached again."""
        while True:
            await asyncio.sleep(RETURN * self._rng.uniform(0.75, 1.25))
            for index, plane in enumerate(self._planes[: self._at if self._prefers_first else 0]):
                if await _is_reachable(plane):
                    self._at = index
                    return f"{plane.name} is back"


def _result(task: "asyncio.Task[Any]") -> str:
    return str(task.result() or "") if task.done() and not task.cancelled() and not task.exception() else ""


def _decoded(decoder: Callable[[str, bytes], object], part: Part) -> object:
    try:
        return decoder(part.name, part.message)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in a decoder refuses one resource and ends nothing
        return Refused(str(error) or type(error).__name__)


async def paced(steps: Generator[None, None, T]) -> T:
    """Carry out steps in slices of SLICE seconds, with the loop free between them; return what comes of it."""
    began = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        if time.perf_counter() - began > SLICE:
            await asyncio.sleep(0)
            began = time.perf_counter()


async def _is_reachable(plane: ControlPlane) -> bool:
    with suppress(TimeoutError, OSError, ValueError, RpcError):
        async with plane.open() as channel, asyncio.timeout(ANSWER_TIMEOUT):
            await channel.ready()
            return True
    return False
