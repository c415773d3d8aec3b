"""One run of the resident in one event loop: finds a way in, keeps the link up, and leaves in order.

It ends when it is stopped, at the end of the process or around a fork; all that outlives it is the Presence's.
Invariant: nothing of an application waits here, and whatever goes wrong is said in ``waiting_for`` and tried again.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from masche.identity import dialling
from masche.identity.presented import Presented
from masche.library.core.channel import Channels
from masche.library.life import verdicts
from masche.library.life.entry import Entry, NoEntryError
from masche.library.life.feeding import Feeding
from masche.library.life.presence import Presence, Serving
from masche.library.life.reporter import Reporter
from masche.link import address, backoff, probe
from masche.link.client import LAST_CALLS, Connected, Disconnected, Event, LinkClient
from masche.link.machine import Machine
from masche.link.messages import (
    PROTOCOL_VERSION,
    Accepted,
    Drained,
    Hello,
    Refused,
    Report,
    ReportReply,
    Roots,
    Scope,
    SignReply,
    SignRequest,
)
from masche.model.refs import Name
from masche.rpc.channel import Channel
from masche.telemetry.logs import say
from masche.version import VERSION
from masche.xds.client import MAX_RESPONSE_BYTES

if TYPE_CHECKING:
    from masche.library.life.outlet import Outlet

AGAIN: Final = 5.0
"""Seconds until a state that was refused is said again."""

LAST_WORDS: Final = 4.0
"""Seconds that the end of a process waits for its last Report and the end of its stream."""

_log = logging.getLogger("masche.library")


class Life:
    """See the module. ``on_change`` is called whenever ``is_ready`` may have become true."""

    def __init__(
        self,
        presence: Presence,
        feed: Feeding,
        *,
        channels: Callable[[], Channels],
        on_change: Callable[[], None],
    ) -> None:
        self._presence = presence
        self._feed = feed
        self._channels = channels
        self._on_change = on_change
        self._stop = asyncio.Event()
        self._registered = asyncio.Event()
        self._drained = asyncio.Event()
        self._wanted = asyncio.Event()
        self._machine: Machine | None = None
        self._link: LinkClient | None = None
        self._reporter: Reporter | None = None
        self._group: asyncio.TaskGroup | None = None
        self._stream: asyncio.Task[None] | None = None
        self._entry = Entry(presence.options, rng=presence.rng)
        self._address = self._entry.guess()
        self._why = "looking for a control plane"

    def __repr__(self) -> str:
        return f"<Life {self.waiting_for() or f'with {self._address}'}>"

    @property
    def is_connected(self) -> bool:
        """Whether a control plane is there."""
        return self._link is not None and self._link.is_connected

    @property
    def address(self) -> str:
        """The control plane that is used, or tried last."""
        return self._address

    def waiting_for(self) -> str:
        """What is waited for before we are somebody; "" for nothing."""
        presence = self._presence
        if presence.keeper.is_held:
            return ""
        if self._machine is None:
            return f"a way into the mesh{f': {self._why}' if self._why else ''}"
        if not self.is_connected:
            why = f" ({self._why.splitlines()[0]})" if self._why else ""
            return f"the control plane at {self._address}{why}"
        if presence.refusal:
            return f"the control plane at {self._address} to accept {presence.name}: {presence.refusal}"
        error = presence.keeper.error
        return f"a certificate for {presence.options.account}{f' ({error})' if error else ''}"

    # -- from other threads -------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """End as if nothing happened: we are back in a moment. In the loop's thread."""
        self._stop.set()

    def changed(self) -> None:
        """Our ports are others, or their state is. In the loop's thread."""
        for serving in self._presence.serving:
            if not serving.is_watched and self._group:
                serving.is_watched = True
                self._feed.listen(serving.port.port)
                self._group.create_task(self._watch(serving))
        self._put()

    async def open_outlet(self) -> Path:
        """Let gRPC in this process ask the mesh too; return its bootstrap. We have a name and a certificate."""
        presence = self._presence
        assert presence.name is not None
        if presence.outlet is None:
            from masche.library.life.outlet import Outlet  # only applications of gRPC have one

            options, certificates = presence.options, presence.certificates
            presence.outlet = Outlet(
                presence.name,
                service=options.app,
                zone=options.zone or presence.zone,
                presented=certificates.presented,
            )
            self._serve_outlet(presence.outlet)
        presence.outlet.show()
        return presence.outlet.bootstrap

    def _serve_outlet(self, outlet: "Outlet") -> None:
        assert self._group is not None
        self._group.create_task(outlet.serve())
        self._put()

    async def drain(self, within: float) -> bool:
        """Take our ports out of traffic; say whether every caller has heard of it."""
        presence = self._presence
        if not presence.serving:
            return True
        presence.is_draining = True
        self._drained.clear()
        self._put()
        if self.is_connected and presence.is_registered:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._drained.wait()
                    await asyncio.sleep(LAST_CALLS)
        return self._drained.is_set()

    async def leave(self, drain_within: float) -> None:
        """Leave in order: out of traffic, the last Report, out of the mesh; then ``run`` ends."""
        self._feed.end()
        if not self._presence.is_draining:
            await self.drain(drain_within)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._part()
        self._stop.set()

    async def _part(self) -> None:
        if self._link is None or not self._link.is_connected:
            return
        if self._presence.is_registered and self._reporter:
            await self._reporter.report()
        self._link.forget(self._presence.proxy)
        if self._presence.outlet:
            self._link.forget(self._presence.outlet.proxy)
        await self._link.part()

    # -- its run ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until stopped. Whatever else ends it, another run follows, and who waits goes on waiting."""
        living = asyncio.ensure_future(self._live())
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({living, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if living.done() and not self._stop.is_set():
                await living
        finally:
            living.cancel()
            stopped.cancel()
            await asyncio.gather(living, stopped, return_exceptions=True)
            # What is held on to here holds on to gRPC's calls, by the frames in which they ended.
            self._stream = self._group = self._link = self._reporter = None

    async def _live(self) -> None:
        presence = self._presence
        presence.is_registered = False
        presence.keeper.restore(presence.folder.certificate() if presence.folder else None)
        self._feed.begin(self._address, self._channel)
        self._on_change()
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._feed.run())
            group.create_task(presence.keeper.run(self._asked, self._sign, on_change=self._on_change))
            group.create_task(self._take_part(group))
            if presence.outlet:
                group.create_task(presence.outlet.serve())

    async def _take_part(self, group: asyncio.TaskGroup) -> None:
        """Find a way in, and do from then on what is to be done."""
        machine = self._machine = await self._entered()
        presence, rng = self._presence, self._presence.rng
        presence.on(machine.id, zone=machine.zone, address=address.reachable(machine.addresses))
        targets = machine.targets(self._on_use)
        self._address, self._why = targets[0].address, ""
        link = self._link = LinkClient(targets, self._hello, rng=rng)
        reporter = self._reporter = Reporter(presence, self._report, is_live=self._is_live)
        for serving in presence.serving:
            serving.is_watched = False
        self.changed()
        group.create_task(self._dispatch(link))
        group.create_task(link.run())
        group.create_task(machine.run())
        group.create_task(reporter.run())
        group.create_task(
            verdicts.watch(self._channels, proxy=lambda: presence.proxy, tell=link.tell, now=time.monotonic)
        )

    async def _entered(self) -> Machine:
        """Look for a way in until there is one."""
        failures = 0
        while True:
            try:
                return await self._entry.find()
            except NoEntryError as error:
                self._why = str(error)
            failures += 1
            await asyncio.sleep(backoff.pause(failures, rng=self._presence.rng))

    def _hello(self) -> Hello:
        presence = self._presence
        return Hello(
            machine=presence.machine,
            process=presence.process,
            agent_version=VERSION,
            zone=presence.options.zone or presence.zone,
            addresses=(presence.address,),
            protocol_version=PROTOCOL_VERSION,
        )

    def _on_use(self, used: str) -> None:
        self._address = used

    def _put(self) -> None:
        if self._link is not None and self._presence.name is not None:
            state = self._presence.state()
            self._link.put(state)
            if self._presence.outlet:
                self._link.put(self._presence.outlet.state(state))

    async def _asked(self) -> tuple[str, Name]:
        """Return proxy and workload once they are registered."""
        await self._registered.wait()
        assert self._presence.name is not None
        return self._presence.proxy, self._presence.name

    async def _sign(self, request: SignRequest) -> SignReply:
        if self._link is None:
            raise ConnectionError("no control plane was found")
        return await self._link.sign(request)

    async def _report(self, report: Report) -> ReportReply:
        assert self._link is not None
        return await self._link.report(report)

    def _is_live(self) -> bool:
        return self._presence.keeper.is_held and self._feed.is_live()

    # -- what the control plane says ----------------------------------------------------------------------------------

    async def _dispatch(self, link: LinkClient) -> None:
        async for event in link.events():
            self._hear(event)
            self._on_change()

    def _hear(self, event: Event) -> None:
        match event:
            case Connected():
                self._why = ""
            case Disconnected(why=why):
                self._why = why
                self._presence.is_registered = False
                self._registered.clear()
                if (outlet := self._presence.outlet) and self._group:
                    self._group.create_task(outlet.disconnect())
            case Refused():
                self._on_refusal(event)
            case Scope(proxy=proxy):  # said once every part of the control plane knows us, xDS among them
                if proxy == self._presence.proxy and not self._presence.is_registered:
                    self._on_registered()
                elif (outlet := self._presence.outlet) and proxy == outlet.proxy:
                    self._connect(outlet)
            case Accepted(created=created):
                self._on_created(tuple(map(str, created)))
            case Drained():
                self._drained.set()
            case Roots():
                if self._machine:
                    self._machine.trust(event)
                self._presence.keeper.trust(event)
            case _:
                assert_never(event)

    def _on_registered(self) -> None:
        self._presence.is_registered = True
        self._presence.refusal = ""
        self._registered.set()
        if self._group and (self._stream is None or self._stream.done()):
            self._stream = self._group.create_task(self._feed.ask())

    def _on_created(self, created: tuple[str, ...]) -> None:
        self._presence.created = (*self._presence.created, *created)
        for name in created:
            say(_log, logging.WARNING, f"there was no Service {name}: one was created for this process")

    def _on_refusal(self, refused: Refused) -> None:
        """Somebody else's name: another one. Anything else is said, and tried again in a while."""
        if refused.proxy != self._presence.proxy and refused.proxy:
            return
        if refused.is_taken and self._link and not self._presence.is_registered:
            self._link.retract(self._presence.proxy)
            self._close_stream()
            self._presence.rename()
            self._put()
            return
        why = f"{refused.why}{f': {refused.fix}' if refused.fix else ''}"
        if why != self._presence.refusal:
            say(_log, logging.WARNING, f"the control plane refused this process: {why}")
        self._presence.refusal = why
        asyncio.get_running_loop().call_later(AGAIN, self._put)

    # -- xDS ----------------------------------------------------------------------------------------------------------

    def _channel(self) -> Channel:
        """A connection beside the link. Raises OSError while it is not known by what."""
        return dialling.channel(self._address, self._shown(), max_receive_bytes=MAX_RESPONSE_BYTES)

    def _shown(self) -> Presented | None:
        if self._machine is None:
            raise OSError(self._why)
        return self._machine.presented() if self._machine.is_joined else None

    def _connect(self, outlet: "Outlet") -> None:
        """gRPC's stream goes beside ours, once it is known that it may."""
        if not outlet.is_connected:
            outlet.connect(self._address, self._shown())

    def _close_stream(self) -> None:
        if self._stream:
            self._stream.cancel()
            self._stream = None

    # -- our own ports ------------------------------------------------------------------------------------------------

    async def _watch(self, serving: Serving) -> None:
        """Ask one of our ports how it is, for ever."""
        asked = serving.probe
        ask = probe.parse(asked, serving.host, serving.port.port) if isinstance(asked, str) else asked
        while True:
            before = serving.pulse.phase
            serving.pulse = serving.pulse.after(await ask() if ask else "")
            if serving.pulse.phase != before:
                self._put()
                self._on_change()
            if ask is None:
                return
            await asyncio.sleep(serving.pulse.interval)
