"""Calls that block their thread: carries out the steps of a Run, and decides nothing.

The usual call makes its attempts in the caller's own thread, and the client's own timeouts end them. Only a call that
may be hedged, a copy or a mirrored request has threads of its own, which are bounded. A thread cannot be cancelled: an
attempt that has lost ends by its timeout at the latest, and its answer is closed. Invariant: when a call ends, nothing
of it is under way in the pipeline's books.
"""

import os
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from contextvars import copy_context
from math import inf
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import sleep
from typing import Generic

from masche.library.core import context, opening
from masche.library.core.exchange import Answer, Asked, Final_co, Raw, SyncExchange
from masche.library.core.facade import Facade
from masche.library.core.limits import Admission, Waiter
from masche.library.core.lone import Lone, begun
from masche.library.core.opening import FacadeOf, Opened
from masche.library.core.ports import Known
from masche.library.core.router import Outside, is_never_ours
from masche.library.core.run import Run
from masche.traffic.call import Abandon, Finish, Start, Steps
from masche.traffic.deadline import Deadline


class Helpers:
    """Threads for what nobody waits for, at most so many at a time; what is too much is left out."""

    __slots__ = ("_lock", "_most", "_running", "process")

    def __init__(self, most: int) -> None:
        self.process = os.getpid()
        self._most = most
        self._running = 0
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<Helpers {self._running} of {self._most}>"

    @property
    def has_room(self) -> bool:
        """May one more be started?"""
        return self._running < self._most

    def start(self, work: Callable[[], None]) -> bool:
        """Run something that handles its own errors; False: there is no room."""
        with self._lock:
            if self._running >= self._most:
                return False
            self._running += 1
        Thread(target=copy_context().run, args=(self._work, work), name="masche-beside", daemon=True).start()
        return True

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._running -= 1


class SyncDriver:
    """The calls of one client, by any number of threads."""

    __slots__ = ("_facade_of", "_helpers")

    def __init__(self, facade_of: FacadeOf) -> None:
        self._facade_of = facade_of
        self._helpers: Helpers | None = None

    def call(self, asked: Asked, exchange: SyncExchange[Raw, Final_co]) -> Final_co:
        """Make a call. Raises the client's own exceptions, or NotReadyError when too little is known."""
        authority = asked.request.authority
        if is_never_ours(authority):
            return exchange.outside(asked.request)
        facade = self._facade_of()
        known = facade.knowledge.known(authority) or _known(facade, authority)
        opened = opening.opened(facade, known, asked)
        if isinstance(opened, Outside):
            return exchange.outside(asked.request)
        if isinstance(opened, Answer):
            return exchange.answered(opened)
        now = facade.now()
        ends_at = context.ends_at(asked.timeout, now)
        if opened.send.fault is not None:
            if (refused := _fault(facade, opened, Deadline(ends_at))) is not None:
                return exchange.answered(refused)
            now = facade.now()
        lone = begun(facade, opened, exchange, asked, ends_at, now)
        if lone is None:
            return self._run(facade, opened, exchange, asked, Deadline(ends_at))
        return self._alone(lone, exchange, facade)

    def _run(
        self, facade: Facade, opened: Opened, exchange: SyncExchange[Raw, Final_co], asked: Asked, deadline: Deadline
    ) -> Final_co:
        """A call that is no lone one. Once the request has entered the gate, the Run leaves it."""
        admission = opening.entered(opened.channel)
        if admission is Admission.WAITING:
            admission = _queued(facade, opened, deadline, exchange)
        if admission is Admission.OVERFLOW:
            return exchange.answered(opening.overflow(facade, opened))
        run = Run(facade, opened, exchange, deadline=deadline, can_repeat=asked.can_repeat, bytes_sent=asked.sent_bytes)
        helpers = self._aside(facade)
        try:
            if opened.send.mirrors and asked.can_repeat:
                for mirrored in opening.mirrors(facade, opened, lambda: helpers.has_room):
                    _mirror(Run(facade, mirrored, exchange, is_counted=False), exchange, facade, helpers)
            _Carrier(run, exchange, facade, helpers).carry(run.begin())
            return run.final()
        except BaseException:
            run.end()
            raise

    def _alone(self, lone: Lone[Raw, Final_co], exchange: SyncExchange[Raw, Final_co], facade: Facade) -> Final_co:
        """The usual call: an attempt that is answered well, or a Run that goes on from there."""
        try:
            target = lone.target()
            if target is None:
                run, steps = lone.gone()
            else:
                try:
                    raw = exchange.attempt(target)
                except Exception as error:  # noqa: BLE001 - the exchange says what it means, or it is raised
                    run, steps = lone.failed(error)
                else:
                    handed = lone.answered(raw)
                    if handed is None:
                        return lone.final(raw)
                    run, steps = handed
            _Carrier(run, exchange, facade, self._aside(facade)).carry(steps)
            return run.final()
        except BaseException:
            lone.end()
            raise

    def _aside(self, facade: Facade) -> Helpers:
        if self._helpers is None or self._helpers.process != os.getpid():  # a fork has no threads of its parent's
            self._helpers = Helpers(facade.options.max_beside)
        return self._helpers


def _known(facade: Facade, authority: str) -> Known:
    """Wait until something is known of whom is called."""
    future = facade.knowledge.want(authority)
    try:
        return future.result(opening.patience(facade))
    except FutureTimeoutError:
        raise opening.not_ready(facade, authority) from None
    finally:
        future.cancel()


def _fault(facade: Facade, opened: Opened, deadline: Deadline) -> Answer | None:
    """Make the trouble that somebody asked for, on this call."""
    with opening.trouble(facade, opened) as trouble:
        if trouble.delay:
            sleep(min(trouble.delay, deadline.left(now=facade.now())))
    return trouble.answer and opening.counted(facade, opened, trouble.answer)


def _queued(facade: Facade, opened: Opened, deadline: Deadline, exchange: SyncExchange[Raw, Final_co]) -> Admission:
    """Wait for a connection, in turn. Raises the client's own timeout when none comes in time."""
    turn = Event()
    waiter = Waiter(turn.set)
    admission = opening.queued(opened.channel, waiter)
    if admission is not Admission.WAITING:
        return admission
    since = facade.now()
    left = deadline.within(opened.send.rules.timeout, now=since).left(now=since)
    with ExitStack() as leaving:
        leaving.callback(opening.forgone, opened.channel, waiter)
        if not turn.wait(None if left == inf else left):
            raise exchange.timed_out(opening.in_vain(facade, opened, since=since, flag="UT"))
        leaving.pop_all()
    return Admission.ENTERED


def _mirror(run: Run[Raw, Final_co], exchange: SyncExchange[Raw, Final_co], facade: Facade, helpers: Helpers) -> None:
    """Send a copy to a mirror; its answer is dropped, and counts for nothing."""

    def work() -> None:
        try:
            _Carrier(run, exchange, facade, helpers).carry(run.begin())
            for raw in run.rest():
                exchange.drop(raw)
        finally:
            run.end()

    if not helpers.start(work):
        run.end()


_Told = Callable[[], Steps]
"""What became of an attempt, to be told to the Run by the thread of the call."""


class _Carrier(Generic[Raw, Final_co]):
    """Carries out the steps of one Run."""

    __slots__ = ("_exchange", "_facade", "_helpers", "_run")

    def __init__(
        self, run: Run[Raw, Final_co], exchange: SyncExchange[Raw, Final_co], facade: Facade, helpers: Helpers
    ) -> None:
        self._run, self._exchange, self._facade, self._helpers = run, exchange, facade, helpers

    def carry(self, steps: Steps) -> None:
        """Do what there is to do, from these ``steps`` on, until it is known what the call comes to."""
        run = self._run
        try:
            if run.can_hedge:
                self._together(steps)
            else:
                while not run.is_over:
                    steps = self._alone(steps)
            self._drop(run.losers())
        except BaseException:
            self._drop(run.rest())
            raise

    def _drop(self, answers: list[Raw]) -> None:
        for raw in answers:
            self._exchange.drop(raw)

    def _alone(self, steps: Steps) -> Steps:
        """One attempt after the other, in this thread; copies run beside."""
        run = self._run
        first: Start | None = None
        for step in steps:
            if isinstance(step, Start):
                if step.is_copy:
                    self._copy(step)
                else:
                    first = step
        self._drop(run.losers())
        if first is None:
            sleep(max(0.0, run.wake_at - self._facade.now()))
            return run.wake()
        return self._attempt(first)()

    def _attempt(self, start: Start) -> _Told:
        """Make an attempt, and return what is to be told of it."""
        run, number = self._run, start.number
        target = run.target(start)
        if target is None:
            return lambda: run.gone(start.number)
        try:
            raw = self._exchange.attempt(target)
        except Exception as caught:  # noqa: BLE001 - whatever it is, the exchange says what it means, or it is raised
            error = caught
            return lambda: run.failed(number, error)
        return lambda: run.answered(number, raw)

    def _copy(self, start: Start) -> None:
        """Send a copy whose answer only tells how the instance is."""

        def work() -> None:
            self._attempt(start)()
            self._drop(self._run.losers())

        if not self._helpers.start(work):
            self._run.abandon(start.number)

    # Hedged calls: each attempt has a thread

    def _together(self, steps: Steps) -> None:
        """Attempts beside each other, until one of them counts."""
        run = self._run
        told: SimpleQueue[_Told] = SimpleQueue()
        self._carry_out(steps, told)
        while not run.is_over:
            due = run.wake_at - self._facade.now()
            try:
                following = told.get(timeout=None if due == inf else max(0.0, due))()
            except Empty:
                following = run.wake()
            self._carry_out(following, told)
            self._drop(run.losers())

    def _carry_out(self, steps: Steps, told: "SimpleQueue[_Told]") -> None:
        for step in steps:
            match step:
                case Start() if step.is_copy:
                    self._copy(step)
                case Start():
                    self._beside(step, told)
                case Abandon() | Finish():
                    pass

    def _beside(self, start: Start, told: "SimpleQueue[_Told]") -> None:
        """Make an attempt in a thread. Once the call is over nobody reads what is told, so the thread tells itself:
        an answer that has lost is closed.
        """
        run = self._run

        def work() -> None:
            tell = self._attempt(start)
            if run.is_over:
                tell()
                self._drop(run.losers())
            else:
                told.put(tell)

        if not self._helpers.start(work):
            told.put(self._attempt(start))
