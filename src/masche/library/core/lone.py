"""The usual call: one attempt that is answered well, without the machinery for what else may become of a call.

Most calls need nothing of a ``Run`` but its end: nothing is hedged, copied, mirrored or stuck to, nobody is ejected,
and the first answer is good. All that such a call does is here: it claims an instance, says where the request goes,
settles the claim, leaves the gate and tells. Whatever comes otherwise is handed over to a Run, which goes on as if it
had begun the call itself. It makes half of the objects of a Run, and saves a third of what a call costs. Invariant: it
comes to what a Run comes to (a property test makes the same calls both ways), and however it ends, its claim is settled
once, its request leaves the gate once, and there is one record of it.
"""

from collections.abc import Mapping
from typing import Generic

from masche.library.core import outcomes, tracing
from masche.library.core.exchange import Asked, Exchange, Final_co, Head, Raw, Target
from masche.library.core.facade import Facade
from masche.library.core.limits import ENTERED, Waiter
from masche.library.core.opening import Opened
from masche.library.core.ports import Called, Tried
from masche.library.core.router import answer_headers
from masche.library.core.run import Run, onward
from masche.traffic import orca
from masche.traffic.balancer import Claim
from masche.traffic.call import Steps
from masche.traffic.callee import Callee
from masche.traffic.deadline import SHORTEST, Deadline
from masche.traffic.outcome import Outcome
from masche.traffic.request import Headers
from masche.traffic.retry import Attempted

Handed = tuple[Run[Raw, Final_co], Steps]
"""The Run that goes on with a call, and what it is to do next."""

_CANCELLED = Outcome.CANCELLED


class Lone(Generic[Raw, Final_co]):
    """One call to one service, as long as it is a usual one; then the Ending of its answer's body."""

    __slots__ = (
        "_asked", "_callee", "_claim", "_ends_at", "_exchange", "_facade", "_headers", "_is_over", "_opened", "_run",
        "_status",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 # made in this module alone, once for every call
        self,
        facade: Facade,
        opened: Opened,
        exchange: Exchange[Raw, Final_co],
        asked: Asked,
        ends_at: float,
        callee: Callee,
        claim: Claim,
    ) -> None:
        self._facade, self._opened, self._exchange, self._asked = facade, opened, exchange, asked
        self._ends_at, self._callee, self._claim = ends_at, callee, claim
        self._run: Run[Raw, Final_co] | None = None
        self._is_over = False
        self._status = 0
        self._headers: Headers = ()

    def __repr__(self) -> str:
        return f"<Lone {self._opened.request.method} {self._opened.channel.title}: {self._claim!r}>"

    def __del__(self) -> None:
        """An answer that nobody reads or closes ends when it is forgotten: a finalizer may run anywhere, within
        whatever lock its thread holds, so then somebody else ends it.
        """
        if not self._is_over:
            self._opened.channel.forgotten.append(self._end)

    def target(self) -> Target | None:
        """Say where the attempt goes; None when its instance has left in the meantime."""
        opened, claim = self._opened, self._claim
        place = opened.channel.places.get(claim.endpoint.id)
        if place is None:
            return None
        send, view, cluster, is_tls = opened.send, place.view, place.destination.cluster, place.is_tls
        left, per_try = self._ends_at - claim.started_at, send.rules.per_try_timeout
        return Target(
            opened.channel.name,
            view.address,
            view.port,
            cluster.identities,
            is_tls,
            place.way,
            opened.request,
            onward(opened, left, is_tls=is_tls),
            per_try if 0 < per_try < left else left,
            cluster.traffic.connect_timeout,
            send.idle_timeout,
        )

    # What becomes of the attempt: None is the end of the call, of which ``final`` is the answer

    def answered(self, raw: Raw) -> Handed[Raw, Final_co] | None:
        """It was answered."""
        exchange = self._exchange
        if self.took(exchange.head(raw), is_spent=exchange.is_spent) is not None:
            return None
        run = self._handed_over()
        return run, run.answered(1, raw)

    def took(self, head: Head, *, is_spent: bool) -> Headers | None:
        """Take an answer with this head, if it is a good one, and return its headers as the application sees them;
        None: it is not, and nothing is settled. ``is_spent``: the request's body cannot be sent again.
        """
        said = head.said
        if said is None:
            said = dict(head.headers)
        attempted = outcomes.of_answer(head.status, head.headers, said, is_spent=is_spent)
        opened = self._opened
        if not attempted.outcome.is_success or opened.send.rules.repeats_fine:
            return None
        self._settle(attempted, head, said)
        self._headers = found = answer_headers(opened.send, head.headers, said, is_spent=False, has_asked=opened.asks)
        return found

    def seconds(self) -> float:
        """How long it has taken so far."""
        return self._facade.now() - self._claim.started_at

    def carried_by(self, exchange: Exchange[Raw, Final_co]) -> None:
        """Go on with this exchange, of a call that was begun without one."""
        self._exchange = exchange

    def _settle(self, attempted: Attempted, head: Head, said: Mapping[str, str]) -> None:
        """The answer is a good one; what came as a whole is over."""
        facade, callee, claim, channel = self._facade, self._callee, self._claim, self._opened.channel
        outcome, report, received = attempted.outcome, orca.told(said), head.received
        now = facade.now()
        with channel.lock:
            callee.settle(claim, outcome, now=now, reached=attempted.reached)
            if report is not None:
                callee.balancer.told(claim.endpoint.id, report, now=now)
            events = callee.take_events()
            admitted = channel.gate.leave() if received >= 0 else None
        if events:
            channel.tell(events)
        service_seconds = outcomes.service_seconds(said)
        facade.recorder.tried(Tried(channel.name, claim.endpoint.id, outcome, now - claim.started_at, service_seconds))
        self._status = head.status
        if received >= 0:
            self._is_over = True
            self._left(admitted, now, "", received)

    def failed(self, error: Exception) -> Handed[Raw, Final_co]:
        """It ended with an exception of the client's."""
        run = self._handed_over()
        return run, run.failed(1, error)

    def timed_out(self) -> Handed[Raw, Final_co]:
        """It has had all the time it was given, and was stopped."""
        run = self._handed_over()
        return run, run.timed_out(1)

    def gone(self) -> Handed[Raw, Final_co]:
        """Its instance left before it was called."""
        run = self._handed_over()
        return run, run.gone(1)

    def final(self, raw: Raw) -> Final_co:
        """Give the answer. From here on the body's end is the end of the call."""
        return self._exchange.finished(raw, self._headers, self)

    # The Ending of the answer's body

    def over(self, *, received: int = 0, is_broken: bool = False) -> None:
        """The body of ``received`` bytes has ended or was closed; ``is_broken``: the connection ended before it."""
        self._end(received, is_broken)

    def left(self) -> float:
        """Seconds that are left for the whole body, infinite: no limit."""
        return max(0.0, self._ends_at - self._facade.now())

    def end(self) -> None:
        """End it, whatever came of it: the client has gone, or it went wrong outside of the attempt."""
        if self._run is not None:
            self._run.end()
        self._end(0, False)  # noqa: FBT003 - as an Over is called

    # Within

    def _handed_over(self) -> Run[Raw, Final_co]:
        """A Run that goes on; nothing is left to be done here."""
        self._is_over = True
        asked = self._asked
        self._run = run = Run(
            self._facade,
            self._opened,
            self._exchange,
            deadline=Deadline(self._ends_at),
            can_repeat=asked.can_repeat,
            bytes_sent=asked.sent_bytes,
        )
        run.adopt(self._callee, self._claim)
        return run

    def _end(self, received: int, is_broken: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        claim, channel = self._claim, self._opened.channel
        flag = "UC" if is_broken else ""
        now = self._facade.now()
        with channel.lock:
            if not claim.is_settled:
                self._callee.settle(claim, _CANCELLED, now=now)
                flag = "DC"
            admitted = channel.gate.leave()
        self._left(admitted, now, flag, received)

    def _left(self, admitted: Waiter | None, now: float, flag: str, received: int) -> None:
        """The request has left the gate ``now``: whoever enters for it is told, and there is the record of it."""
        opened, status = self._opened, self._status
        if admitted is not None:
            admitted.admit()
        if opened.span is not None:
            tracing.end(opened.span, status=status, flag="" if flag == "UC" else flag)
        seconds, sent = now - self._claim.started_at, self._asked.sent_bytes
        self._facade.recorder.called(
            Called(opened.channel.name, opened.send.rule, status, seconds, flag, sent, received)
        )


def begun(  # noqa: PLR0917 # once for every call
    facade: Facade, opened: Opened, exchange: Exchange[Raw, Final_co], asked: Asked, ends_at: float, now: float
) -> Lone[Raw, Final_co] | None:
    """Let a request enter the gate and begin its call ``now``, within the lock once; None: it has not entered, for
    there is no room, or it needs a Run. ``ends_at``: when it has to end, whatever its route says.
    """
    channel, send = opened.channel, opened.send
    if not channel.is_usual or send.mirrors:
        return None
    if channel.forgotten:
        channel.end_forgotten()
    timeout = send.rules.timeout
    if timeout > 0 and now + timeout < ends_at:
        ends_at = now + timeout
    with channel.lock:
        callee, gate = channel.callee, channel.gate
        if callee.breaker.has_out or ends_at - now < SHORTEST or gate.enter() is not ENTERED:
            return None
        claim = callee.start(now=now, rng=facade.rng, method=opened.request.method)
        if claim is None:
            gate.active -= 1  # nobody can have come to wait meanwhile
            return None
        callee.count(now=now)
    return Lone(facade, opened, exchange, asked, ends_at, callee, claim)
