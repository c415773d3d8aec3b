"""One call through the pipeline, without I/O: what both drivers share, and the only place that settles.

The order, each step with its reason: the *deadline* first, since all below have only what is left of it; then *faults*,
which are made once for a call, not for each try; the *limit* of requests under way, so that what is refused costs no
instance anything; then *repeats*, which cost a token; the *hedge*, a race within one round; *breaker and balancer* anew
for each attempt; last the *target*: the connection and its identity, which belong to the instance that was chosen.
Invariants: whatever a driver does, every attempt is settled once, the request leaves the gate once, and there is one
record of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Generic

from masche.library.core import answers, context, outcomes, tracing
from masche.library.core.exchange import Answer, Exchange, Final_co, Head, Over, Raw, Target
from masche.library.core.facade import Facade
from masche.library.core.hashing import Sticking, sticking
from masche.library.core.opening import Opened
from masche.library.core.ports import Called, Tried
from masche.library.core.router import answer_headers
from masche.traffic import deadline as deadlines
from masche.traffic import orca
from masche.traffic.balancer import Claim
from masche.traffic.call import Abandon, Call, Finish, Start, Steps
from masche.traffic.callee import Callee
from masche.traffic.deadline import NO_DEADLINE, Deadline
from masche.traffic.outcome import Outcome
from masche.traffic.request import Headers
from masche.traffic.retry import Attempted

_FLAGS = {Outcome.TIMEOUT: "UT", Outcome.FAILURE: "UF", Outcome.REFUSED: "UF", Outcome.CANCELLED: "DC"}
"""Envoy's response flags for a call that no instance answered."""

_NOBODY = Sticking()


class _BodyEnding:
    """The Ending of an answer's body. When it is forgotten, ``over`` is only handed to ``forgotten``, for a finalizer
    may run anywhere, within whatever lock its thread holds.
    """

    __slots__ = ("_forgotten", "_left", "_over")

    def __init__(self, over: Over, left: Callable[[], float], forgotten: Callable[[Over], None]) -> None:
        self._over: Over | None = over
        self._left, self._forgotten = left, forgotten

    def __repr__(self) -> str:
        return f"<Ending {'to come' if self._over else 'over'}>"

    def over(self, *, received: int = 0, is_broken: bool = False) -> None:
        over, self._over = self._over, None
        if over is not None:
            over(received, is_broken)

    def left(self) -> float:
        return self._left()

    def __del__(self) -> None:
        if self._over is not None:
            self._forgotten(self._over)


class Run(Generic[Raw, Final_co]):
    """One call to one service."""

    __slots__ = (
        "_answers", "_bytes_sent", "_call", "_channel", "_drops", "_errors", "_exchange", "_facade", "_finish",
        "_flag", "_is_counted", "_is_over", "_opened", "_released", "_repeats", "_round", "_span", "_started_at",
        "_starts", "_status", "send", "sticks",
    )  # fmt: skip

    def __init__(
        self,
        facade: Facade,
        opened: Opened,
        exchange: Exchange[Raw, Final_co],
        *,
        deadline: Deadline = NO_DEADLINE,
        can_repeat: bool = True,
        bytes_sent: int = 0,
        is_counted: bool = True,
    ) -> None:
        now = facade.now()
        channel, send = opened.channel, opened.send
        self._facade, self._channel, self._exchange, self.send = facade, channel, exchange, send
        self._opened, self._span = opened, opened.span
        self._started_at = now
        self._answers: dict[int, tuple[Raw, Head, Mapping[str, str]]] = {}
        self._drops: list[Raw] = []
        self._errors: dict[int, Exception] = {}
        self._starts: dict[int, tuple[Start, float]] = {}
        self._finish: Finish | None = None
        self._is_over = False
        self._status, self._flag, self._bytes_sent, self._is_counted = 0, "", bytes_sent, is_counted
        self._round = self._released = 0
        self._repeats = channel.repeats
        self.sticks = self._sticking() if channel.is_sticky else _NOBODY
        rules = send.rules
        if not can_repeat and rules.retry is not None and rules.retry.any_method:
            rules = replace(rules, retry=replace(rules.retry, any_method=False))
        call = Call(
            channel.callee,
            # Who cannot be sent again is treated as what must not be sent again.
            method=opened.request.method if can_repeat else "POST",
            now=now,
            rng=facade.rng,
            deadline=deadline,
            key=self.sticks.key,
            rules=rules,
        )
        self._call = call

    def __repr__(self) -> str:
        return f"<Run {self._opened.request.method} {self._channel.title}: {self._call!r}>"

    @property
    def is_over(self) -> bool:
        """Is it known what becomes of the call? Copies of it may still be under way."""
        return self._finish is not None

    @property
    def wake_at(self) -> float:
        """When ``wake`` has something to do."""
        return self._call.wake_at

    @property
    def deadline(self) -> Deadline:
        """Until when it must have been answered."""
        return self._call.deadline

    @property
    def can_hedge(self) -> bool:
        """May a second attempt begin beside the first?"""
        return self._channel.callee.hedger.is_on

    # What happens

    def adopt(self, callee: Callee, claim: Claim) -> None:
        """Go on with a call that was begun as a lone one: attempt 1 of it is ``claim``, of ``callee``."""
        self._started_at = claim.started_at
        start = self._call.adopt(callee, claim, now=claim.started_at)
        self._starts[start.number] = (start, claim.started_at)

    def begin(self) -> Steps:
        """Start; the request has entered the gate, and this Run was made for it just now."""
        with self._channel.lock:
            steps = self._call.begin(now=self._started_at)
        return self._noted(steps)

    def answered(self, number: int, raw: Raw) -> Steps:
        """Attempt ``number`` was answered; the answer is kept until it is known whether it counts."""
        exchange = self._exchange
        head = exchange.head(raw)
        said = dict(head.headers)
        attempted = outcomes.of_answer(head.status, head.headers, said, is_spent=exchange.is_spent)
        found = self._starts.get(number)
        if found is None or found[0].is_copy or not self._call.is_under_way(number):
            self._drops.append(raw)
        else:
            self._answers[number] = (raw, head, said)
        now = self._facade.now()
        if found is not None and attempted.outcome.is_success and (report := orca.told(said)) is not None:
            with self._channel.lock:
                self._channel.callee.balancer.told(found[0].endpoint.id, report, now=now)
        self._tried(number, attempted, now, outcomes.service_seconds(said))
        return self._told(number, attempted, now)

    def failed(self, number: int, error: Exception) -> Steps:
        """Attempt ``number`` ended with an exception of the client's."""
        exchange = self._exchange
        attempted = outcomes.of_blame(exchange.blame(error), is_spent=exchange.is_spent)
        self._errors[number] = error
        now = self._facade.now()
        self._tried(number, attempted, now)
        return self._told(number, attempted, now)

    def wake(self) -> Steps:
        """Do what is due by time."""
        now = self._facade.now()
        with self._channel.lock:
            steps = self._call.wake(now=now)
            events = self._channel.callee.take_events()
        if events:
            self._channel.tell(events)
        for step in steps:
            if isinstance(step, Abandon):
                self._tried(step.number, _OUT_OF_TIME, now)
        return self._noted(steps)

    def timed_out(self, number: int) -> Steps:
        """Attempt ``number`` has had all the time it was given, and was stopped."""
        now = self._facade.now()
        self._tried(number, _OUT_OF_TIME, now)
        return self._told(number, _OUT_OF_TIME, now)

    def abandon(self, number: int) -> None:
        """Attempt ``number`` was given up by the driver itself; nothing happens when it is over."""
        with self._channel.lock:
            self._call.answered(number, _GIVEN_UP, now=self._facade.now())

    def cancel(self) -> Steps:
        """The client has gone, or all is done: nothing stays under way."""
        now = self._facade.now()
        with self._channel.lock:
            return self._call.cancel(now=now)

    # What is to be done

    def target(self, start: Start) -> Target | None:
        """Say where an attempt goes; None when its instance has left in the meantime."""
        channel, send = self._channel, self.send
        place = channel.places.get(start.endpoint.id)
        if place is None:
            return None
        destination = place.destination
        view = place.view
        now = self._facade.now()
        self._starts[start.number] = (start, now)
        return Target(
            channel.name,
            view.address,
            view.port,
            destination.cluster.identities,
            place.is_tls,
            place.way,
            self._opened.request,
            onward(self._opened, self._call.deadline.at - now, is_tls=place.is_tls),
            start.timeout,
            destination.cluster.traffic.connect_timeout,
            send.idle_timeout,
            start.is_copy,
        )

    def gone(self, number: int) -> Steps:
        """The instance of an attempt left before it was called: nothing was sent, so another one is."""
        with self._channel.lock:
            steps = self._call.answered(number, _LEFT, now=self._facade.now())
        return self._noted(steps)

    def losers(self) -> list[Raw]:
        """Take the answers that do not count (any more): to be dropped."""
        if not self._drops and not (self._answers if self._finish is None else len(self._answers) > 1):
            return []
        found, self._drops = self._drops, []
        if self._finish is not None or self._call.repeats > self._round:
            winner = None if self._finish is None else self._finish.number
            found += [self._answers.pop(number)[0] for number in list(self._answers) if number != winner]
            self._round = self._call.repeats
        return found

    def rest(self) -> list[Raw]:
        """Take all answers that were not given to anybody: to be dropped."""
        found = [*self._drops, *(raw for raw, _, _ in self._answers.values())]
        self._drops, self._answers = [], {}
        return found

    def final(self) -> Final_co:
        """Give what the call came to. Raises the client's own exception when no instance answered it."""
        finish = self._finish
        assert finish is not None, "a call is over before its end is given"
        number = finish.number
        if number is not None and number in self._answers:
            return self._answer(number, finish)
        if finish.outcome is Outcome.REFUSED and number is None:
            self._flag = "UH"
            return self._mesh(503, answers.NO_INSTANCE)
        self._flag = _FLAGS.get(finish.outcome, "UF")
        if finish.forbids_repeats:
            context.spend()
        error = self._errors.get(number) if number is not None else None
        self.end()
        if error is not None:
            raise error
        raise self._exchange.timed_out(f"{answers.TIMED_OUT}: {self._channel.title} {finish.why}".rstrip())

    def end(self, received: int = 0, is_broken: bool = False) -> None:
        """Settle all that is left: called when the body has ended, or when there will be none."""
        if self._is_over:
            return
        self._is_over = True
        facade, channel = self._facade, self._channel
        now = facade.now()
        with channel.lock:
            if not self._call.is_over:
                self._call.cancel(now=now)
                self._flag = self._flag or "DC"
            if self._repeats is not None:
                self._release()
            admitted = channel.gate.leave()
        if admitted is not None:
            admitted.admit()
        if self._span is not None:
            tracing.end(self._span, status=self._status, flag=self._flag)
        if not self._is_counted:
            return
        facade.recorder.called(
            Called(
                cluster=channel.name,
                rule=self.send.rule,
                status=self._status,
                seconds=now - self._started_at,
                flag=self._flag or ("UC" if is_broken else ""),
                bytes_sent=self._bytes_sent,
                bytes_received=received,
            )
        )

    # Within

    def _sticking(self) -> Sticking:
        send, facade = self.send, self._facade
        traffic = send.destination.cluster.traffic
        return sticking(send.hashes, traffic, self._opened.request, caller=facade.options.caller, rng=facade.rng)

    def _told(self, number: int, attempted: Attempted, now: float) -> Steps:
        channel = self._channel
        with channel.lock:
            if self._repeats is not None and self._call.under_way == (number,):
                self._release()  # before it is decided whether there is room for another one
            steps = self._call.answered(number, attempted, now=now)
            events = channel.callee.take_events()
        if events:
            channel.tell(events)
        return self._noted(steps)

    def _noted(self, steps: Steps) -> Steps:
        for step in steps:
            if isinstance(step, Finish):
                self._finish = step
        return steps

    def _tried(self, number: int, attempted: Attempted, now: float, service_seconds: float = -1.0) -> None:
        found = self._starts.pop(number, None)
        if found is None or attempted.outcome.is_cancelled or not self._is_counted:
            return
        start, at = found
        tried = Tried(
            cluster=self._channel.name,
            address=start.endpoint.id,
            outcome=attempted.outcome,
            seconds=now - at,
            service_seconds=service_seconds,
        )
        self._facade.recorder.tried(tried)

    def _answer(self, number: int, finish: Finish) -> Final_co:
        raw, head, said = self._answers.pop(number)
        self._status = head.status
        is_spent = finish.forbids_repeats and not finish.outcome.is_success
        if is_spent:
            context.spend()
            self._flag = "URX"
        headers = answer_headers(
            self.send, head.headers, said, is_spent=is_spent, has_asked=self._opened.asks, cookie=self.sticks.cookie
        )
        return self._exchange.finished(raw, headers, _BodyEnding(self.end, self._left, self._channel.forgotten.append))

    def _mesh(self, status: int, why: str) -> Final_co:
        made: Answer = answers.answer(status, why, flag=self._flag, request=self._opened.request)
        self._status = made.status
        self.end(len(made.body))
        return self._exchange.answered(made)

    def _left(self) -> float:
        return self._call.deadline.left(now=self._facade.now())

    def _release(self) -> None:
        """Repeats that have ended make room for others, where the policy limits how many are under way."""
        ended = self._call.repeats - self._released
        if self._repeats is not None and ended > 0:
            self._released += ended
            self._repeats.release(ended)


def onward(opened: Opened, left: float, *, is_tls: bool) -> Headers:
    """The headers that go out. What is left of the time (seconds) is told to peers of the mesh only: others would not
    take it off again; and they only are asked for their load.
    """
    headers = opened.headers
    if not is_tls:
        return headers
    if not opened.asks:
        headers += _ASK
    if left == inf or left < deadlines.SHORTEST:
        return headers
    is_grpc = opened.request.method == "POST" and answers.is_grpc(headers)
    return headers + deadlines.handed_on(left, is_grpc=is_grpc)


_ASK = (orca.ASK,)
_OUT_OF_TIME = Attempted(outcome=Outcome.TIMEOUT)
_GIVEN_UP = Attempted(outcome=Outcome.CANCELLED)
_LEFT = Attempted(outcome=Outcome.FAILURE, reached=False)
