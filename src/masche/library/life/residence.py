"""The thread in which a process lives in the mesh, and what the process holds of it.

Everything here may be called from any thread. Invariants: there is at most one thread; around a fork it stands still
with nothing of gRPC left running (gRPC does not survive a fork that it was not told of); what was handed out stays
valid in parent and child, and starts the thread again by being used.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from masche.identity.presented import Presented
from masche.library.core.channel import Channels
from masche.library.core.facade import CallOptions, Facade
from masche.library.core.ports import Known, NotReadyError
from masche.library.core.tls import Certificates
from masche.library.life import verdicts
from masche.library.life.feeding import Feeding
from masche.library.life.handed import LivingIdentity, LivingKnowledge, LivingReception
from masche.library.life.measures import Measures
from masche.library.life.memory import Folder, Memory
from masche.library.life.options import Options, OptionsError, port
from masche.library.life.presence import Presence, Serving
from masche.library.life.rest import until_gone, until_grpc_rests
from masche.link import probe
from masche.link.probe import Probe
from masche.model.port import Port
from masche.model.refs import Name
from masche.telemetry.logs import say

if TYPE_CHECKING:
    from masche.library.life.life import Life
    from masche.wire.discovery import Node

T = TypeVar("T")

DRAIN_WITHIN: Final = 5.0
"""Seconds that the end of a process waits for its callers to have heard of it."""

LEAVE_WITHIN: Final = 5.0
"""Seconds beyond that for everything else."""

STANDSTILL_WITHIN: Final = 5.0

AFTER_DEFECT: Final = 1.0

_log = logging.getLogger("masche.library")


class Resident:
    """One process in the mesh; see the module."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: Life | None = None
        self._is_over = False
        self._measures = Measures()
        self._certificates = Certificates()
        self._begin()
        self.facade = Facade(
            knowledge=LivingKnowledge(self),
            identity=LivingIdentity(self, self._certificates),
            recorder=self._measures,
            options=self._call_options(),
        )
        self.reception = LivingReception(self)
        self._measures.attend(lambda: verdicts.standings(self.facade.channels))

    def __repr__(self) -> str:
        state = "closed" if self._is_over else self.waiting_for() or "ready"
        return f"<Resident {self._presence!r}: {state}>"

    def _begin(self, avoided: frozenset[Name] = frozenset()) -> None:
        """Be a new workload."""
        self._was_running = False
        self._presence = Presence(
            options=self.options,
            certificates=self._certificates,
            measures=self._measures,
            rng=Random(),  # noqa: S311 - jitter, no secrets
            folder=self._folder(),
            avoided=avoided,
        )
        memory, rng = Memory(self._presence.folder), self._presence.rng
        self._feed = Feeding(memory, node=self._node, rng=rng, prepare=self._prepare)

    def _prepare(self, known: Known) -> None:
        self.facade.prepare(known)

    def _folder(self) -> Folder | None:
        options = self.options
        if not options.keeps_last_good:
            return None
        return Folder(options.data / "library" / f"{options.namespace}~{options.app}~{options.account}")

    def _node(self) -> "Node":
        from masche.library.life.asking import node

        presence = self._presence
        return node(presence.proxy, service=self.options.app, zone=self.options.zone or presence.zone)

    def _call_options(self) -> CallOptions:
        return CallOptions(caller=self._presence.process, known_as=self._known_as, patience=self.options.ready_timeout)

    def _known_as(self) -> str:
        return self._presence.proxy

    # -- how it is ----------------------------------------------------------------------------------------------------

    @property
    def feed(self) -> Feeding:
        """What the control plane says of others and of our ports."""
        return self._feed

    @property
    def counter(self) -> Measures:
        """Who counts what comes to our own ports."""
        return self._measures

    @property
    def workload(self) -> str:
        """``namespace/name`` of our workload, "" before a machine is known."""
        return str(self._presence.name or "")

    @property
    def proxy(self) -> str:
        """What ``masche status`` calls this process, "" before a machine is known."""
        return self._presence.proxy

    def presented(self) -> Presented:
        """Return what we show and whom we trust now, for what does its own TLS (gRPC). Raises NotReadyError."""
        return self._certificates.presented()

    def open_outlet(self) -> Path:
        """Let gRPC's own xDS client in this process ask the mesh too, and return the path of its bootstrap.

        Waits as ``wait_ready`` does. Raises NotReadyError.
        """
        self.start()
        with self._changed:
            self._changed.wait_for(lambda: self._presence.keeper.is_held, self.options.ready_timeout)
        path = self._ask(lambda life: life.open_outlet(), within=STANDSTILL_WITHIN) if self.presented() else None
        if path is None:
            raise NotReadyError(f"gRPC cannot ask the mesh: {self.waiting_for() or 'the resident is busy'}")
        return path

    @property
    def process(self) -> str:
        """What tells this process from all others, also from its parent."""
        return self._presence.process

    @property
    def created(self) -> tuple[str, ...]:
        """The Services that were created for this process."""
        return self._presence.created

    @property
    def is_connected(self) -> bool:
        """Whether a control plane is there now."""
        return self._life is not None and self._life.is_connected

    @property
    def is_ready(self) -> bool:
        """Whether we can call, and be called: we have a certificate, and our ports take calls."""
        if not self._presence.keeper.is_held:
            return False
        return not self._presence.serving or self._presence.health.phase == "READY"

    def waiting_for(self) -> str:
        """What is waited for before calls can be made; "" for nothing."""
        if self._is_over:
            return "nothing any more: the mesh was left"
        if self._presence.keeper.is_held:
            return ""
        return self._life.waiting_for() if self._life else "the resident thread to start"

    # -- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, unless it has begun. Returns at once."""
        if self._thread is None and not self._is_over:
            with self._lock:
                if self._thread is None and not self._is_over:
                    self._start()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Return once calls can be made and our ports take calls.

        Waits ``timeout`` seconds, or as long as the options say. Raises NotReadyError, which says for what was waited.
        """
        self.start()
        within = self.options.ready_timeout if timeout is None else timeout
        with self._changed:
            if not self._changed.wait_for(lambda: self.is_ready, within):
                raise NotReadyError(f"not ready after {within:g} s: waiting for {self._missing()}")

    def _missing(self) -> str:
        if waiting := self.waiting_for():
            return waiting
        late = [one for one in self._presence.serving if one.pulse.phase != "READY"]
        return "; ".join(f"port {one.port.port} ({one.pulse.reason or one.pulse.phase})" for one in late) or "nothing"

    def close(self, *, drain: float = DRAIN_WITHIN) -> None:
        """Leave the mesh in order, for good: out of traffic, the last counts, out of what others know.

        Takes ``drain`` seconds at the most for callers of our ports, and LEAVE_WITHIN for the rest.
        """
        with self._lock:
            self._is_over = True
            self._ask(lambda life: life.leave(drain), within=drain + LEAVE_WITHIN)
            self._stop()
            self._certificates.withdraw()
            if self._presence.outlet:
                self._presence.outlet.close()

    def drain(self, within: float = DRAIN_WITHIN) -> bool:
        """Take our ports out of traffic; say whether every caller has heard of it in that time. Blocks."""
        return bool(self._ask(lambda life: life.drain(within), within=within + LEAVE_WITHIN))

    def serve(self, given: "int | str | Port", *, probe: str | Probe = "tcp", host: str = "127.0.0.1") -> None:
        """Register a port on which this process takes mutual TLS itself; it gets traffic once it is well.

        ``probe`` is asked at ``host``: ``tcp``, ``http:/path``, ``grpc``, or ``none`` for well at once; or it is the
        question itself, asked in this thread's loop. Raises OptionsError.
        """
        if isinstance(probe, str):
            _check_probe(probe)
        self._presence.serve(Serving(port=port(given), probe=probe, host=host))
        self.start()
        self._tell(lambda life: life.changed())

    # -- around a fork ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stand still before a fork, in the thread that forks: nothing of gRPC runs when this returns."""
        self._lock.acquire()
        self._stop()

    def go_on(self) -> None:
        """After a fork, in the parent: as before."""
        try:
            if self._was_running and not self._is_over:
                self._start()
        finally:
            self._lock.release()

    def begin_afresh(self) -> None:
        """After a fork, in the child: another workload, with nothing of the parent's but its options."""
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self._thread = self._loop = self._life = None
        self._is_over = False
        self._certificates.begin_afresh()
        self._measures.forget()
        parent = self._presence
        self._begin(parent.avoided | frozenset[Name]({parent.name} if parent.name else ()))
        self.facade.channels = Channels(caller=self._presence.process, known_as=self._known_as)
        self.facade.options = self._call_options()
        self.facade.rng = Random()  # noqa: S311 - as above

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        _at_the_end_of_a_child(self)
        begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(begun,), name="masche-resident", daemon=True)
        self._thread.start()
        begun.wait(STANDSTILL_WITHIN)

    def _run(self, begun: threading.Event) -> None:
        """Live; after a defect again, so that no defect of ours ends the mesh for a process."""
        while self._thread is threading.current_thread():
            try:
                asyncio.run(self._main(begun))
            except Exception:  # noqa: BLE001 - the process goes on, and what it holds serves meanwhile
                _log.exception("the resident of the mesh failed and begins again")
                time.sleep(AFTER_DEFECT)
            else:
                return

    async def _main(self, begun: threading.Event) -> None:
        from masche.library.life.life import Life

        life = Life(self._presence, self._feed, channels=lambda: self.facade.channels, on_change=self._on_change)
        self._loop, self._life = asyncio.get_running_loop(), life
        begun.set()
        await life.run()
        del life
        self._life = None
        if "masche.library.life.outlet" in sys.modules:  # which is what loads gRPC here, if anything does
            await until_grpc_rests()

    def _stop(self) -> None:
        """End the thread, if there is one. The lock is held."""
        thread, self._thread = self._thread, None
        self._was_running = thread is not None
        if thread is None:
            return
        self._tell(lambda life: life.pause())
        thread.join(STANDSTILL_WITHIN)
        if thread.is_alive():
            say(_log, logging.ERROR, "the resident of the mesh did not stand still; a fork now may break its gRPC")
        else:
            until_gone(thread)
        self._life = self._loop = None

    def _on_change(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _tell(self, what: "Callable[[Life], None]") -> None:
        """Have something done in the thread's loop."""
        loop, life = self._loop, self._life
        if loop is not None and life is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(what, life)

    def _ask(self, what: "Callable[[Life], Coroutine[Any, Any, T]]", *, within: float) -> T | None:
        """Have something awaited in the thread's loop, and wait for it; None when it does not end in time."""
        loop, life, thread = self._loop, self._life, self._thread
        if loop is None or life is None or thread is None or not thread.is_alive():
            return None
        future = asyncio.run_coroutine_threadsafe(what(life), loop)
        with suppress(TimeoutError):
            return future.result(within)
        return None


def _check_probe(text: str) -> None:
    try:
        probe.parse(text, "127.0.0.1", 1)
    except probe.HealthError as error:
        raise OptionsError(f"probe: {error}") from error


def _at_the_end_of_a_child(resident: Resident) -> None:
    """Children of multiprocessing end without ``atexit``; they have their own way of saying so."""
    ending = sys.modules.get("multiprocessing.util")
    if ending is not None:
        ending.Finalize(None, resident.close, exitpriority=0)
