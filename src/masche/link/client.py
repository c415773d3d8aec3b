"""The agent's side of the link: one Register stream that is always being kept up, and calls beside it.

What is registered is remembered here and said again, whole, after every reconnect, so that a control plane which lost
everything knows it all after one round trip; what it told us last (Scopes, roots) stays in force while it is away.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from types import MappingProxyType
from typing import Final, TypeVar, assert_never

import msgspec

from masche.identity import dialling
from masche.identity.presented import Presented
from masche.link import backoff, messages
from masche.link.calls import ADMITTED, SERVICE, refused
from masche.link.messages import (
    Accepted,
    Drained,
    FromControl,
    Heartbeat,
    Hello,
    MessageError,
    Plight,
    ProxyGone,
    ProxyState,
    Refused,
    Report,
    ReportReply,
    Roots,
    Scope,
    SignReply,
    SignRequest,
    Synced,
    Verdict,
)
from masche.link.refusal import RefusedError
from masche.model.frozen import frozen
from masche.model.refs import Name
from masche.rpc.call import Call
from masche.rpc.channel import Channel
from masche.rpc.status import RpcError

HEARTBEAT: Final = 5.0
"""Seconds; a third of a lease."""

LAST_CALLS: Final = 0.3
"""Seconds after Drained for which a workload still takes calls: a caller says that it knows, and its threads follow."""

CALL_TIMEOUT: Final = 10.0
EVENTS: Final = 10_000
"""So many events wait for the agent before the stream stops reading, and so the control plane is held back."""

T = TypeVar("T")


@frozen
class Target:
    """A control plane: ``host:port`` with what this machine presents (asked again for each connection), or
    ``unix:/path`` with None.
    """

    address: str
    presented: Callable[[], Presented] | None = None


@frozen(kw_only=False)
class Connected:
    """An event: the stream is up and everything was registered again."""


@frozen(kw_only=False)
class Disconnected:
    """An event: the stream ended, ``why``; it is being made again."""

    why: str


Event = FromControl | Connected | Disconnected


class LinkClient:
    """Keeps a link. ``run`` it in a TaskGroup of yours and read ``events``; the rest may be called at any time."""

    def __init__(self, targets: Sequence[Target], hello: Callable[[], Hello], *, rng: Random) -> None:
        if not targets:
            raise ValueError("a link needs at least one control plane")
        self._targets = tuple(targets)
        self._hello = hello
        self._rng = rng
        self._proxies: dict[str, bytes] = {}
        self._scopes: dict[tuple[str, Name], Scope] = {}
        self._unsaid: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        self._up = asyncio.Event()
        self._events: asyncio.Queue[Event] = asyncio.Queue(EVENTS)
        self._channel: Channel | None = None
        self._failures = 0
        self._is_parting = False
        self._parted = asyncio.Event()
        self.roots: Roots | None = None
        self.refusal: RefusedError | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a control plane has taken the stream and it is up."""
        return self._up.is_set()

    @property
    def scopes(self) -> Mapping[tuple[str, Name], Scope]:
        """The last Scope of each (proxy, workload)."""
        return MappingProxyType(self._scopes)

    async def events(self) -> AsyncIterator[Event]:
        """What the control plane says, and when it comes and goes; for one reader, for ever."""
        while True:
            yield await self._events.get()

    def put(self, state: ProxyState) -> None:
        """Register a proxy or replace what was said of it. Only the newest state of a proxy waits to be said.

        Raises MessageError when the state is too long to be sent.
        """
        self._proxies[state.proxy] = messages.encode(state)
        self._say(state.proxy, self._proxies[state.proxy])

    def forget(self, proxy: str) -> None:
        """The proxy left in order. After a reconnect it is simply not among those that are registered."""
        self._proxies.pop(proxy, None)
        for key in [key for key in self._scopes if key[0] == proxy]:
            del self._scopes[key]
        self._say(proxy, messages.encode(ProxyGone(proxy=proxy)))

    def retract(self, proxy: str) -> None:
        """The proxy was refused for good: it is not said again, and was nothing that could leave."""
        self._proxies.pop(proxy, None)
        self._unsaid.pop(proxy, None)

    def tell(self, word: Verdict | Plight) -> None:
        """Say at once that a proxy cut an endpoint off or let it back in, or that an instance fails or is well again;
        nothing when nobody is there to hear it.

        Only the newest word on one waits to be said, so that one which changes its mind fills no queue.
        """
        if self.is_connected:
            match word:
                case Verdict():
                    about = f"{word.service} {word.endpoint} {word.via}"
                case Plight():
                    about = f"{word.workload} {word.port}"
            self._say(f"{word.proxy} {about}", messages.encode(word))

    async def sign(self, request: SignRequest) -> SignReply:
        """Have a workload's certificate signed. Raises RefusedError, ConnectionError."""
        return await self._call("SignCsr", request, SignReply)

    async def report(self, report: Report) -> ReportReply:
        """Send one Report. Raises RefusedError, ConnectionError; then send it again under its number."""
        return await self._call("Report", report, ReportReply)

    async def part(self) -> None:
        """Say what is still unsaid, end the stream and return when the control plane has heard it all, or is not there.

        After that ``run`` has ended.
        """
        self._is_parting = True
        self._wake.set()
        if self.is_connected:
            await self._parted.wait()

    async def run(self) -> None:
        """Connect, register, listen, and begin again whenever that ends. Returns by cancellation, or once it parted."""
        while not self._is_parting:
            target = self._targets[self._failures % len(self._targets)]
            try:
                why = await self._session(target)
            finally:
                self._up.clear()
            if self._is_parting:
                break
            await self._events.put(Disconnected(why))
            self._failures += 1
            await asyncio.sleep(backoff.pause(self._failures, rng=self._rng))
        self._parted.set()

    def _say(self, about: str, message: bytes) -> None:
        self._unsaid[about] = message
        self._wake.set()

    async def _session(self, target: Target) -> str:
        """One connection, from its first byte to its end; says why it ended."""
        try:
            opened = _channel(target)
        except (OSError, ValueError) as error:
            return f"no connection to {target.address} can be opened: {error}"
        async with opened as channel, asyncio.TaskGroup() as tasks:
            call: Call | None = None
            writer: asyncio.Task[None] | None = None
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    call = await channel.stream(f"/{SERVICE}/Register")
                self._channel = channel
                if await self._is_admitted(call):
                    writer = tasks.create_task(self._write(call))
                return await self._read(call)
            except RpcError as error:
                return self._note(error)
            except TimeoutError:
                return f"{target.address} did not answer within {CALL_TIMEOUT:.0f} s"
            except MessageError as error:
                return f"{target.address} sent what is not a message: {error}"
            finally:
                self._channel = None
                if writer:
                    writer.cancel()
                if call:
                    call.cancel()

    def _note(self, error: RpcError) -> str:
        found = refused(error)
        self.refusal = found if isinstance(found, RefusedError) else None
        return str(found)

    async def _write(self, call: Call) -> None:
        """Say everything once, then what changes. When the call has ended, its reader knows why."""
        with suppress(RpcError):
            await call.write(messages.encode(self._hello()))
            self._unsaid.clear()
            for state in list(self._proxies.values()):
                await call.write(state)
            await call.write(messages.encode(Synced()))
            while not self._is_parting or self._unsaid:
                await self._write_changes(call)
            await call.done_writing()

    async def _write_changes(self, call: Call) -> None:
        """What was put or forgotten, or a Heartbeat when for HEARTBEAT seconds nothing was."""
        try:
            async with asyncio.timeout(HEARTBEAT):  # wait_for may swallow a cancellation (Python 3.11)
                await self._wake.wait()
        except TimeoutError:
            await call.write(messages.encode(Heartbeat()))
        self._wake.clear()
        unsaid, self._unsaid = self._unsaid, {}
        for message in unsaid.values():
            await call.write(message)

    async def _is_admitted(self, call: Call) -> bool:
        """Whether the stream was taken. Nothing is written before: a failed write would hide why it was refused."""
        async with asyncio.timeout(CALL_TIMEOUT):
            metadata = await call.initial_metadata()
        if ADMITTED[0][0] not in metadata:
            return False
        self.refusal = None
        self._up.set()
        await self._events.put(Connected())
        return True

    async def _read(self, call: Call) -> str:
        async for data in call:
            self._failures = 0
            if (message := messages.from_control(data)) is not None:
                await self._events.put(self._take(message))
        return "the control plane ended the stream"

    def _take(self, message: FromControl) -> FromControl:
        """Keep what stays in force while no control plane is there; return it as it is kept."""
        match message:
            case Scope():
                message = self._sharing(message)
                self._scopes[message.proxy, message.workload] = message
            case Roots():
                self.roots = message
            case Accepted() | Refused() | Drained():
                pass
            case _:
                assert_never(message)
        return message

    def _sharing(self, scope: Scope) -> Scope:
        """The same with the very services of another Scope that has equal ones: many on a machine may call the same."""
        others = (each.services for each in self._scopes.values())
        services = next((each for each in others if each == scope.services), None)
        return scope if services is None else msgspec.structs.replace(scope, services=services)

    async def _call(self, method: str, request: msgspec.Struct, kind: type[T]) -> T:
        channel = self._channel
        if channel is None:
            raise ConnectionError("no control plane is connected")
        try:
            answer = await channel.unary(f"/{SERVICE}/{method}", messages.encode(request), within=CALL_TIMEOUT)
        except RpcError as error:
            raise refused(error) from error
        return messages.decode(answer, kind)


def _channel(target: Target) -> Channel:
    presented = target.presented() if target.presented else None
    return dialling.channel(target.address, presented, max_receive_bytes=messages.MAX_SCOPE_BYTES)
