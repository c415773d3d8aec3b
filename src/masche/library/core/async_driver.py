"""Calls on an event loop: carries out the steps of a Run with tasks and timers, and decides nothing.

The usual call is one attempt, awaited in the caller's own task. Where it may be hedged, attempts are tasks of their
own. Invariant: however a call ends, be it by cancellation at any ``await``, nothing of it stays under way but copies,
which are bounded and end with the client.
"""

import asyncio
from math import inf
from typing import Generic

from masche.library.core import context, opening
from masche.library.core.beside import Beside
from masche.library.core.exchange import Answer, Asked, AsyncExchange, Final_co, Raw
from masche.library.core.facade import Facade
from masche.library.core.limits import ENTERED, Admission, Waiter
from masche.library.core.opening import FacadeOf, Opened
from masche.library.core.ports import Known
from masche.library.core.router import Outside
from masche.library.core.run import Run
from masche.library.core.time_limits import TimeLimits
from masche.traffic.call import Abandon, Finish, Start, Steps
from masche.traffic.deadline import Deadline


class _GoneError(Exception):
    """The instance of an attempt has left before it was called."""


class _OutOfTimeError(Exception):
    """An attempt has had all the time it was given."""


class AsyncDriver:
    """The calls of one client of one event loop. ``close`` it with the client."""

    __slots__ = ("_beside", "_facade_of", "_limits")

    def __init__(self, facade_of: FacadeOf) -> None:
        self._facade_of = facade_of
        self._beside: Beside | None = None
        self._limits: TimeLimits | None = None

    async def call(self, asked: Asked, exchange: AsyncExchange[Raw, Final_co]) -> Final_co:
        """Make a call. Raises the client's own exceptions, or NotReadyError when too little is known."""
        if not opening.is_ours(asked):
            return await exchange.outside(asked.request)
        facade = self._facade_of()
        authority = asked.request.authority
        known = facade.knowledge.known(authority) or await _known(facade, authority)
        opened = opening.opened(facade, known, asked)
        if isinstance(opened, Outside):
            return await exchange.outside(asked.request)
        if isinstance(opened, Answer):
            return exchange.answered(opened)
        now = facade.now()
        deadline = context.current().within(asked.timeout, now=now)
        if opened.send.fault is not None and (refused := await _fault(facade, opened, deadline)) is not None:
            return exchange.answered(refused)
        admission = opening.entered(opened.channel)
        if admission is not ENTERED:
            if admission is Admission.WAITING:
                admission = await _queued(facade, opened, deadline, exchange)
            if admission is Admission.OVERFLOW:
                return exchange.answered(opening.overflow(facade, opened))
        # The request has entered the gate: from here on the Run leaves it.
        run = Run(facade, opened, exchange, deadline=deadline, can_repeat=asked.can_repeat, bytes_sent=asked.sent_bytes)
        try:
            if opened.send.mirrors and asked.can_repeat:
                self._mirror(facade, opened, exchange)
            await _Carrier(run, exchange, facade, self._aside(facade), self._time_limits()).carry()
            return run.final()
        except BaseException:
            run.end()
            raise

    async def close(self) -> None:
        """End what still runs beside the calls."""
        if self._limits is not None:
            self._limits.close()
        if self._beside is not None:
            await self._beside.close()

    def _aside(self, facade: Facade) -> Beside:
        if self._beside is None:
            self._beside = Beside(facade.options.max_beside)
        return self._beside

    def _time_limits(self) -> TimeLimits:
        """Those of the loop that runs now: whoever calls from one loop after the other has others in each."""
        loop, limits = asyncio.get_running_loop(), self._limits
        if limits is None or limits.loop is not loop:
            limits = self._limits = TimeLimits(loop)
        return limits

    def _mirror(self, facade: Facade, opened: Opened, exchange: AsyncExchange[Raw, Final_co]) -> None:
        """Send copies to the mirrors of a route, once each; their answers are dropped, and count for nothing."""
        beside = self._aside(facade)
        for mirrored in opening.mirrors(facade, opened, lambda: beside.has_room):
            run = Run(facade, mirrored, exchange, is_counted=False)
            carrier = _Carrier(run, exchange, facade, beside, self._time_limits())
            beside.start(_mirrored(carrier, run), run.end)


async def _known(facade: Facade, authority: str) -> Known:
    """Wait until something is known of whom is called."""
    future = asyncio.wrap_future(facade.knowledge.want(authority))
    try:
        return await asyncio.wait_for(future, opening.patience(facade))
    except TimeoutError:
        raise opening.not_ready(facade, authority) from None


async def _fault(facade: Facade, opened: Opened, deadline: Deadline) -> Answer | None:
    """Make the trouble that somebody asked for, on this call."""
    with opening.trouble(facade, opened) as trouble:
        if trouble.delay:
            await asyncio.sleep(min(trouble.delay, deadline.left(now=facade.now())))
    return trouble.answer and opening.counted(facade, opened, trouble.answer)


async def _queued(
    facade: Facade, opened: Opened, deadline: Deadline, exchange: AsyncExchange[Raw, Final_co]
) -> Admission:
    """Wait for a connection, in turn. Raises the client's own timeout when none comes in time."""
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()

    def admit() -> None:
        """Called by whoever leaves; the place goes to the next when nobody waits for it any more."""
        try:
            loop.call_soon_threadsafe(lambda: turn.done() or turn.set_result(None))
        except RuntimeError:  # the loop is closed
            opening.forgone(opened.channel, waiter)

    waiter = Waiter(admit)
    admission = opening.queued(opened.channel, waiter)
    if admission is not Admission.WAITING:
        return admission
    left = deadline.within(opened.send.rules.timeout, now=facade.now()).left(now=facade.now())
    try:
        await asyncio.wait_for(turn, None if left == inf else left)
    except BaseException as error:
        opening.forgone(opened.channel, waiter)
        if isinstance(error, TimeoutError):
            raise exchange.timed_out(opening.no_connection(opened)) from None
        raise
    return Admission.ENTERED


async def _mirrored(carrier: "_Carrier[Raw, Final_co]", run: Run[Raw, Final_co]) -> None:
    await carrier.carry()
    await carrier.drop(run.rest())


class _Carrier(Generic[Raw, Final_co]):
    """Carries out the steps of one Run."""

    __slots__ = ("_beside", "_exchange", "_facade", "_limits", "_run", "_tasks")

    def __init__(
        self,
        run: Run[Raw, Final_co],
        exchange: AsyncExchange[Raw, Final_co],
        facade: Facade,
        beside: Beside,
        limits: TimeLimits,
    ) -> None:
        self._run, self._exchange, self._facade, self._beside = run, exchange, facade, beside
        self._limits = limits
        self._tasks: dict[asyncio.Task[Raw], Start] = {}

    async def carry(self) -> None:
        """Do what there is to do until it is known what the call comes to."""
        run = self._run
        try:
            steps = run.begin()
            if run.can_hedge:
                await self._together(steps)
            else:
                while not run.is_over:
                    first = self._first_of(steps)
                    if losers := run.losers():
                        await self.drop(losers)
                    steps = await self._pause() if first is None else await self._alone(first)
            if losers := run.losers():
                await self.drop(losers)
        except BaseException:
            for raw in run.rest():
                self._beside.clear(self._exchange.drop(raw))
            raise

    async def drop(self, answers: list[Raw]) -> None:
        """Close answers that nobody wants."""
        for raw in answers:
            await self._exchange.drop(raw)

    def _first_of(self, steps: Steps) -> Start | None:
        """The attempt that is to be awaited here; copies run beside it."""
        first: Start | None = None
        for step in steps:
            if isinstance(step, Start):
                if step.is_copy:
                    self._copy(step)
                else:
                    first = step
        return first

    async def _pause(self) -> Steps:
        """Wait until there is something to do."""
        await asyncio.sleep(max(0.0, self._run.wake_at - self._facade.now()))
        return self._run.wake()

    async def _alone(self, start: Start) -> Steps:
        """One attempt, awaited here: what ``_attempt`` does, with a limit that costs less."""
        run, number = self._run, start.number
        target = run.target(start)
        if target is None:
            return run.gone(start)
        limit = self._limits.begin(start.timeout)
        try:
            raw = await self._exchange.attempt(target)
        except asyncio.CancelledError:
            if limit.end():
                return run.timed_out(number)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the exchange says what it means, or it is raised
            limit.end()
            return run.failed(number, error)
        except BaseException:
            limit.end()
            raise
        limit.end()
        return run.answered(number, raw)

    async def _attempt(self, start: Start) -> Raw:
        target = self._run.target(start)
        if target is None:
            raise _GoneError
        if start.timeout == inf:
            return await self._exchange.attempt(target)
        limit = asyncio.timeout(start.timeout)
        try:
            async with limit:
                return await self._exchange.attempt(target)
        except TimeoutError:
            if limit.expired():
                raise _OutOfTimeError from None
            raise

    # Hedged calls: each attempt is a task

    async def _together(self, steps: Steps) -> None:
        """Attempts beside each other, until one of them counts; who has lost is cancelled."""
        run = self._run
        try:
            self._carry_out(steps)
            while not run.is_over:
                due = run.wake_at - self._facade.now()
                await self._until(None if due == inf else max(0.0, due))
                for task in [task for task in self._tasks if task.done()]:
                    self._carry_out(self._ended(task, self._tasks.pop(task)))
                if run.wake_at <= self._facade.now() and not run.is_over:
                    self._carry_out(run.wake())
                if losers := run.losers():
                    await self.drop(losers)
        finally:
            for task in list(self._tasks):
                self._give_up(task)

    async def _until(self, seconds: float | None) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        elif seconds is not None:
            await asyncio.sleep(seconds)

    def _carry_out(self, steps: Steps) -> None:
        for step in steps:
            match step:
                case Start() if step.is_copy:
                    self._copy(step)
                case Start():
                    task = asyncio.get_running_loop().create_task(self._attempt(step))
                    self._tasks[task] = step
                case Abandon():
                    for task in [task for task, start in self._tasks.items() if start.number == step.number]:
                        self._give_up(task)
                case Finish():
                    pass

    def _ended(self, task: "asyncio.Task[Raw]", start: Start) -> Steps:
        run = self._run
        if task.cancelled():
            run.abandon(start.number)
            return ()
        error = task.exception()
        match error:
            case None:
                return run.answered(start.number, task.result())
            case _GoneError():
                return run.gone(start)
            case _OutOfTimeError():
                return run.timed_out(start.number)
            case Exception():
                return run.failed(start.number, error)
            case _:
                raise error

    def _give_up(self, task: "asyncio.Task[Raw]") -> None:
        """Cancel an attempt, and see to it that an answer that came all the same is closed."""
        del self._tasks[task]
        task.cancel()
        self._beside.clear(_closed(task, self._exchange))

    def _copy(self, start: Start) -> None:
        """Send a copy whose answer only tells how the instance is."""
        run = self._run
        if self._beside.has_room:
            self._beside.start(self._copied(start), lambda: run.abandon(start.number))
        else:
            run.abandon(start.number)

    async def _copied(self, start: Start) -> None:
        run = self._run
        try:
            raw = await self._attempt(start)
        except _GoneError:
            run.gone(start)
        except _OutOfTimeError:
            run.timed_out(start.number)
        except Exception as error:  # noqa: BLE001 - it is about the instance, and nobody waits for it
            run.failed(start.number, error)
        else:
            run.answered(start.number, raw)
            await self.drop(run.losers())


async def _closed(task: "asyncio.Task[Raw]", exchange: AsyncExchange[Raw, Final_co]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        await exchange.drop(task.result())
