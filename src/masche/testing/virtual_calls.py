"""Calls of ``masche.traffic.call`` in virtual time: servers that answer, fail, are slow or stay silent.

Nothing is real here. ``World`` does what is due in order of time; ``Caller`` is the edge that a library is in reality:
it carries out the steps of a Call. The same seed gives the same run, to the last digit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random

from masche.traffic.call import Abandon, Call, Finish, Start, Steps
from masche.traffic.callee import Callee
from masche.traffic.deadline import NO_DEADLINE, Deadline
from masche.traffic.ejection import Event
from masche.traffic.outcome import Outcome
from masche.traffic.pushback import DO_NOT_REPEAT, Pushback
from masche.traffic.retry import Attempted

STATUS = {Outcome.SUCCESS: 200, Outcome.FAILURE: 500, Outcome.REFUSED: 503}
"""What a simulated answer carries."""

Answer = Callable[[Outcome, Pushback | None], None]
"""Takes the answer to one call, once; later ones are ignored."""
Serve = Callable[[str, Deadline, Answer], None]
"""Takes a call to an instance of that name."""


class World:
    """Virtual time: what is due is done in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<World at {self.now:g} s, {len(self._due)} to do>"

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do ``action`` then, or now when that is past."""
        heappush(self._due, (max(when, self.now), next(self._order), action))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heappop(self._due)
            action()
        self.now = until

    def steadily(self, rate: float, begins: float, ends: float, action: Callable[[], None]) -> None:
        """Do ``action`` ``rate`` times a second, evenly, open loop."""
        number = 0

        def again() -> None:
            nonlocal number
            number += 1
            if (following := begins + number / rate) < ends:
                self.at(following, again)
            action()

        self.at(begins, again)


@dataclass(slots=True)
class Done:
    """What became of one call; times in seconds of virtual time. ``endpoint``: whose answer, or lack of one, it was."""

    at: float
    latency: float
    outcome: Outcome
    endpoint: str


class Caller:
    """One simulated client of one service. ``done`` has what became of its calls."""

    def __init__(self, world: World, callee: Callee, serve: Serve, *, seed: int = 1, name: str = "client") -> None:
        self.world, self.callee, self.serve, self.name = world, callee, serve, name
        self.rng = Random(seed)  # noqa: S311 - a simulation
        self.done: list[Done] = []
        self.events: list[Event] = []
        self.calls = self.attempts = self.hedges = self.copies = 0

    def __repr__(self) -> str:
        return f"<Caller {self.name}: {self.calls} calls, {self.attempts} attempts, {len(self.failed)} failed>"

    @property
    def failed(self) -> list[Done]:
        """The calls that were not answered well."""
        return [each for each in self.done if not each.outcome.is_success]

    def call(self, then: Answer | None = None, *, method: str = "GET", deadline: Deadline = NO_DEADLINE) -> None:
        """Make one call; ``then`` gets the answer of the client."""
        self.calls += 1
        call = Call(self.callee, method=method, now=self.world.now, rng=self.rng, deadline=deadline)
        _Edge(self, call, then).begin()


class _Edge:
    """Carries out the steps of one call."""

    __slots__ = ("_asked_at", "_call", "_caller", "_last", "_pushback", "_then", "_wakes_at")

    def __init__(self, caller: Caller, call: Call, then: Answer | None) -> None:
        self._caller, self._call, self._then = caller, call, then
        self._asked_at = caller.world.now
        self._wakes_at = inf
        self._last = ""
        self._pushback: Pushback | None = None

    def begin(self) -> None:
        self._do(self._call.begin(now=self._caller.world.now))

    def _do(self, steps: Steps) -> None:
        for step in steps:
            match step:
                case Start():
                    self._start(step)
                case Abandon():
                    pass
                case Finish():
                    self._finish(step)
        self._caller.events += self._caller.callee.take_events()
        self._sleep()

    def _start(self, step: Start) -> None:
        caller = self._caller
        caller.attempts += 1
        caller.hedges += step.is_hedge
        caller.copies += step.is_copy
        if not step.is_copy:
            self._last = step.endpoint.id
        number = step.number

        def answer(outcome: Outcome, pushback: Pushback | None) -> None:
            if number not in self._call.under_way:
                return
            self._pushback, self._last = pushback, step.endpoint.id
            attempted = Attempted(outcome=outcome, status=STATUS.get(outcome, 0), pushback=pushback)
            self._do(self._call.answered(number, attempted, now=caller.world.now))

        caller.serve(step.endpoint.id, Deadline(caller.world.now + step.timeout), answer)

    def _finish(self, step: Finish) -> None:
        caller = self._caller
        now = caller.world.now
        caller.done.append(Done(self._asked_at, now - self._asked_at, step.outcome, self._last))
        if self._then is not None:
            self._then(step.outcome, DO_NOT_REPEAT if step.forbids_repeats else self._pushback)

    def _sleep(self) -> None:
        """Be woken in time, once for each time that is earlier than the one known."""
        due = self._call.wake_at
        if due < self._wakes_at:
            self._wakes_at = due
            self._caller.world.at(due, self._wake)

    def _wake(self) -> None:
        self._wakes_at = inf
        self._do(self._call.wake(now=self._caller.world.now))
