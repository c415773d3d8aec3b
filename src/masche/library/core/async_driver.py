"""Calls on an event loop: carries out the steps of a Run with tasks and timers, and decides nothing.

The usual call is one attempt, awaited in the caller's own task. Where it may be hedged, attempts are tasks of their
own. Invariant: however a call ends, be it by cancellation at any ``await``, nothing of it stays under way but copies,
which are bounded and end with the client.
"""

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Generic

from masche.library.core import context, opening
from masche.library.core.beside import Beside
from masche.library.core.exchange import Answer, Asked, AsyncExchange, Final_co, Raw, Target
from masche.library.core.facade import Facade
from masche.library.core.limits import Admission, Waiter
from masche.library.core.lone import Handed, Lone, begun
from masche.library.core.opening import FacadeOf, Opened
from masche.library.core.ports import Known
from masche.library.core.router import Outside, is_never_ours
from masche.library.core.run import Run
from masche.library.core.time_limits import OutOfTimeError, TimeLimits
from masche.traffic.call import Abandon, Finish, Start, Steps
from masche.traffic.deadline import Deadline

_NOBODY: Any = None
"""The exchange of a call that has none yet."""


class _GoneError(Exception):
    """The instance of an attempt has left before it was called."""


class AsyncDriver:
    """The calls of one client of one event loop. ``close`` it with the client."""

    __slots__ = ("_beside", "_facade_of", "_limits")

    def __init__(self, facade_of: FacadeOf) -> None:
        self._facade_of = facade_of
        self._beside: Beside | None = None
        self._limits: TimeLimits | None = None

    async def call(self, asked: Asked, exchange: AsyncExchange[Raw, Final_co]) -> Final_co:
        """Make a call. Raises the client's own exceptions, or NotReadyError when too little is known."""
        return await self.begin(asked, exchange)

    def begin(self, asked: Asked, exchange: AsyncExchange[Raw, Final_co]) -> Coroutine[Any, Any, Final_co]:
        """Begin a call, and return what is to be awaited at once: the same, without a coroutine for it."""
        authority = asked.request.authority
        if is_never_ours(authority):
            return exchange.outside(asked.request)
        facade = self._facade_of()
        known = facade.knowledge.known(authority)
        if known is None:
            return self._patient(facade, asked, exchange)
        opened = opening.opened(facade, known, asked)
        if not isinstance(opened, Opened) or opened.send.fault is not None:
            return self._unusual(facade, opened, exchange, asked)
        now = facade.now()
        ends_at = context.ends_at(asked.timeout, now)
        lone = begun(facade, opened, exchange, asked, ends_at, now)
        if lone is None:
            return self._run(facade, opened, exchange, asked, Deadline(ends_at))
        return self._alone(lone, exchange, facade)

    def lone(self, asked: Asked) -> Lone[Any, Any] | None:
        """Begin a call that has no exchange yet, if it is a usual one; None: nothing has been begun.

        Whoever has it makes its attempt, and hands over to ``resumed`` what it cannot do itself.
        """
        authority = asked.request.authority
        if is_never_ours(authority):
            return None
        facade = self._facade_of()
        known = facade.knowledge.known(authority)
        opened = None if known is None else opening.usual(facade, known, asked)
        if opened is None:
            return None
        now = facade.now()
        return begun(facade, opened, _NOBODY, asked, context.ends_at(asked.timeout, now), now)

    async def resumed(
        self,
        lone: Lone[Raw, Final_co],
        exchange: AsyncExchange[Raw, Final_co],
        came: Raw | Exception | None,
        target: Target | None = None,
    ) -> Final_co:
        """Go on with a call that ``lone`` began: ``came`` is what its attempt came to, None where it is still to be
        made, or to be read; ``target``: where it went to already.
        """
        facade = self._facade_of()
        lone.carried_by(exchange)
        if came is None:
            return await self._alone(lone, exchange, facade, target, lone.seconds())
        try:
            handed = _handed(lone, came) if isinstance(came, Exception) else lone.answered(came)
            return lone.final(came) if handed is None else await self._gone_on(handed, exchange, facade)  # type: ignore[arg-type] # an exception is always handed over
        except BaseException:
            lone.end()
            raise

    async def _patient(self, facade: Facade, asked: Asked, exchange: AsyncExchange[Raw, Final_co]) -> Final_co:
        """A call to somebody of whom nothing is known yet."""
        known = await _known(facade, asked.request.authority)
        return await self._unusual(facade, opening.opened(facade, known, asked), exchange, asked)

    async def _unusual(
        self, facade: Facade, opened: Opened | Answer | Outside, exchange: AsyncExchange[Raw, Final_co], asked: Asked
    ) -> Final_co:
        """Whatever becomes of a call."""
        if isinstance(opened, Outside):
            return await exchange.outside(asked.request)
        if isinstance(opened, Answer):
            return exchange.answered(opened)
        ends_at = context.ends_at(asked.timeout, facade.now())
        deadline = Deadline(ends_at)
        if opened.send.fault is not None and (refused := await _fault(facade, opened, deadline)) is not None:
            return exchange.answered(refused)
        lone = begun(facade, opened, exchange, asked, ends_at, facade.now())
        if lone is None:
            return await self._run(facade, opened, exchange, asked, deadline)
        return await self._alone(lone, exchange, facade)

    async def _run(
        self, facade: Facade, opened: Opened, exchange: AsyncExchange[Raw, Final_co], asked: Asked, deadline: Deadline
    ) -> Final_co:
        """A call that is no lone one. Once the request has entered the gate, the Run leaves it."""
        admission = opening.entered(opened.channel)
        if admission is Admission.WAITING:
            admission = await _queued(facade, opened, deadline, exchange)
        if admission is Admission.OVERFLOW:
            return exchange.answered(opening.overflow(facade, opened))
        run = Run(facade, opened, exchange, deadline=deadline, can_repeat=asked.can_repeat, bytes_sent=asked.sent_bytes)
        try:
            if opened.send.mirrors and asked.can_repeat:
                self._mirror(facade, opened, exchange)
            await self._carrier(run, exchange, facade).carry(run.begin())
            return run.final()
        except BaseException:
            run.end()
            raise

    async def _alone(
        self,
        lone: Lone[Raw, Final_co],
        exchange: AsyncExchange[Raw, Final_co],
        facade: Facade,
        target: Target | None = None,
        late: float = 0.0,
    ) -> Final_co:
        """The usual call: an attempt that is answered well, or a Run that goes on from there. ``target``, if that is
        known already; the attempt has begun ``late`` seconds ago.
        """
        try:
            try:
                target = target or lone.target()
                if target is None:
                    raise _GoneError
                with self.limits().within(target.timeout - late):
                    raw = await exchange.attempt(target)
            except Exception as error:  # noqa: BLE001 - whatever it is, the exchange says what it means, or it is raised
                handed = _handed(lone, error)
            else:
                handed = lone.answered(raw)
                if handed is None:
                    return lone.final(raw)
            return await self._gone_on(handed, exchange, facade)
        except BaseException:
            lone.end()
            raise

    async def _gone_on(
        self, handed: Handed[Raw, Final_co], exchange: AsyncExchange[Raw, Final_co], facade: Facade
    ) -> Final_co:
        """What was a usual call goes on as a Run."""
        run, steps = handed
        await self._carrier(run, exchange, facade).carry(steps)
        return run.final()

    async def close(self) -> None:
        """End what still runs beside the calls."""
        if self._limits is not None:
            self._limits.close()
        if self._beside is not None:
            await self._beside.close()

    def _carrier(
        self, run: Run[Raw, Final_co], exchange: AsyncExchange[Raw, Final_co], facade: Facade
    ) -> "_Carrier[Raw, Final_co]":
        return _Carrier(run, exchange, facade, self._aside(facade), self.limits)

    def _aside(self, facade: Facade) -> Beside:
        if self._beside is None:
            self._beside = Beside(facade.options.max_beside)
        return self._beside

    def limits(self) -> TimeLimits:
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
            beside.start(_mirrored(self._carrier(run, exchange, facade), run), run.end)


async def _known(facade: Facade, authority: str) -> Known:
    """Wait until something is known of whom is called."""
    future = asyncio.wrap_future(facade.knowledge.want(authority))
    try:
        async with asyncio.timeout(opening.patience(facade)):
            return await future
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
    since = facade.now()
    left = deadline.within(opened.send.rules.timeout, now=since).left(now=since)
    try:
        async with asyncio.timeout(None if left == inf else left):
            await turn
    except BaseException as error:
        opening.forgone(opened.channel, waiter)
        is_late = isinstance(error, TimeoutError)
        why = opening.in_vain(facade, opened, since=since, flag="UT" if is_late else "DC")
        if is_late:
            raise exchange.timed_out(why) from None
        raise
    return Admission.ENTERED


async def _mirrored(carrier: "_Carrier[Raw, Final_co]", run: Run[Raw, Final_co]) -> None:
    await carrier.carry(run.begin())
    await carrier.drop(run.rest())


def _handed(lone: Lone[Raw, Final_co], error: Exception) -> Handed[Raw, Final_co]:
    """What goes on after the attempt of a lone call ended with an exception."""
    match error:
        case _GoneError():
            return lone.gone()
        case OutOfTimeError():
            return lone.timed_out()
        case _:
            return lone.failed(error)


class _Carrier(Generic[Raw, Final_co]):
    """Carries out the steps of one Run."""

    __slots__ = ("_beside", "_exchange", "_facade", "_limits", "_run", "_tasks")

    def __init__(
        self,
        run: Run[Raw, Final_co],
        exchange: AsyncExchange[Raw, Final_co],
        facade: Facade,
        beside: Beside,
        limits: Callable[[], TimeLimits],
    ) -> None:
        self._run, self._exchange, self._facade, self._beside = run, exchange, facade, beside
        self._limits = limits
        self._tasks: dict[asyncio.Task[Raw], Start] = {}

    async def carry(self, steps: Steps) -> None:
        """Do what there is to do, from these ``steps`` on, until it is known what the call comes to."""
        run = self._run
        try:
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
        """One attempt, awaited here, and what follows from it."""
        run, number = self._run, start.number
        try:
            raw = await self._attempt(start)
        except _GoneError:
            return run.gone(number)
        except OutOfTimeError:
            return run.timed_out(number)
        except Exception as error:  # noqa: BLE001 - whatever it is, the exchange says what it means, or it is raised
            return run.failed(number, error)
        return run.answered(number, raw)

    async def _attempt(self, start: Start) -> Raw:
        """Make an attempt. Raises _GoneError without a target, OutOfTimeError, or what the client raises."""
        target = self._run.target(start)
        if target is None:
            raise _GoneError
        with self._limits().within(target.timeout):
            return await self._exchange.attempt(target)

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
                return run.gone(start.number)
            case OutOfTimeError():
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
        await self._alone(start)
        await self.drop(self._run.losers())


async def _closed(task: "asyncio.Task[Raw]", exchange: AsyncExchange[Raw, Final_co]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        await exchange.drop(task.result())
