"""One port of the application, as a door: who may pass is asked of ``inbound``; here is what must be remembered.

Thread-safe; the same for ASGI and WSGI servers. Invariant: while nobody has said who may come in, nobody comes in, and
every request that came is counted once, whatever became of it.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from threading import Lock
from uuid import uuid4

from masche.library.core import context
from masche.library.core.ports import Counter, Now, Received, Reception
from masche.library.inbound import deciding
from masche.library.inbound.deciding import Admitted, Answer, Shown, Spot
from masche.model.calling import UNLIMITED
from masche.model.view import Inbound, MtlsMode
from masche.telemetry.logs import say
from masche.traffic import deadline as deadlines
from masche.traffic import orca
from masche.traffic.concurrency import Concurrency, ConcurrencyRules, Slot
from masche.traffic.deadline import NO_DEADLINE, Deadline
from masche.traffic.limit import Limiter
from masche.traffic.outcome import Outcome
from masche.traffic.pushback import SPENT
from masche.traffic.request import Headers, Request

_log = logging.getLogger(__name__)
_SERVER_ERROR = 500


def _new_id() -> str:
    return str(uuid4())


class Door:
    """Judges the requests of one ``port``, which Services may call ``name``. ``workload`` says whose it is.
    ``joins_headers``: its server joins repeated headers. ``under_way``: requests that are in the application.

    ``now`` is monotonic seconds; ``new_id`` names requests that have no name.
    """

    def __init__(
        self,
        port: int,
        *,
        name: str = "",
        joins_headers: bool = False,
        workload: Callable[[], str],
        reception: Reception,
        counter: Counter,
        now: Now = time.monotonic,
        rng: Random | None = None,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self.port = port
        self._workload = workload
        self._spot = Spot(workload="", port=port, name=name, joins_headers=joins_headers)
        self._reception = reception
        self._counter = counter
        self._now = now
        self._rng = rng or Random()  # noqa: S311 - spreads measurements; nothing is kept secret by it
        self._new_id = new_id
        self._lock = Lock()
        self.under_way = 0
        self._asked = UNLIMITED
        self._limit: Concurrency | None = None
        self._limiter = Limiter((), now=0.0)

    def __repr__(self) -> str:
        told = self._reception.inbound(self.port)
        state = deciding.mode(told, self.port) if told else f"waiting for {self._reception.waiting_for()}"
        return f"<Door {self.spot.workload}:{self.port} {state}{f', {self._limit}' if self._limit else ''}>"

    @property
    def spot(self) -> Spot:
        """Our port, by the name that our workload has now."""
        workload = self._workload()
        if workload != self._spot.workload:
            self._spot = replace(self._spot, workload=workload)
        return self._spot

    def mode(self) -> MtlsMode | None:
        """How connections are taken now; None: nobody has said so yet."""
        told = self._reception.inbound(self.port)
        return deciding.mode(told, self.port) if told else None

    def enter(self, request: Request, shown: Shown | None) -> "Passage | Answer":
        """Let a request pass, or answer it. An Answer is counted already; a Passage must be ended."""
        started = self._now()
        decided, room = self._decide(request, shown)
        if isinstance(decided, Admitted):
            # Only who proved who it is may say how long its answer is of use: the word is one between proxies.
            deadline = deadlines.incoming(request.headers, now=started) if shown else NO_DEADLINE
            return Passage(self, decided, shown, room, started, deadline)
        self._tell(request, decided, shown)
        peer, seconds = shown.peer if shown else "", self._now() - started
        self._counter.received(
            Received(
                port=self.port,
                peer=peer,
                status=decided.status,
                seconds=seconds,
                rule=decided.rule,
                bytes_sent=len(decided.body),
            )
        )
        return decided

    def _decide(self, request: Request, shown: Shown | None) -> tuple[Admitted | Answer, "_Room | None"]:
        told = self._reception.inbound(self.port)
        if told is None:
            what = self._reception.waiting_for()
            return deciding.waiting(what, request, is_known=shown is not None), None
        request_id = "" if request.values("x-request-id") else self._new_id()
        found = deciding.receive(told, request, spot=self.spot, shown=shown, request_id=request_id)
        if isinstance(found, Answer):
            return found, None
        with self._lock:
            if told.limits and (exceeded := self._counting(told).take(found.request, now=self._now())):
                return deciding.limited(exceeded, request, is_known=shown is not None), None
            limit = self._limited(told)
            slot = None if limit is None else limit.start(now=self._now())
            if limit is not None and slot is None:
                return deciding.overloaded(request), None
            self.under_way += 1
        return found, (limit, slot) if limit is not None and slot is not None else None

    def _counting(self, told: Inbound) -> Limiter:
        """The limits as they are now; their buckets are full again when somebody asks for others."""
        if told.limits is not self._limiter.limits and told.limits != self._limiter.limits:
            self._limiter = Limiter(told.limits, now=self._now())
        return self._limiter

    def _limited(self, told: Inbound) -> Concurrency | None:
        """The limit as it is asked for now; it is learnt anew when somebody asks for another."""
        asked = deciding.spoken(told, self.spot).concurrency
        if asked is not self._asked and asked != self._asked:
            self._limit = Concurrency(ConcurrencyRules.of(asked)) if asked.enabled else None
        self._asked = asked
        return self._limit

    def _tell(self, request: Request, answer: Answer, shown: Shown | None) -> None:
        """A line for each refusal, as our proxies write it; what passes, or is above a limit, is only counted."""
        if not answer.why:
            return
        say(
            _log,
            logging.WARNING,
            f"refused a request: {answer.why}",
            code=answer.status,
            method=request.method,
            authority=request.authority,
            path=request.path,
            peer=shown.peer if shown else "",
            rule=answer.rule,
            source=request.connection.source_ip,
        )

    def settle(self, room: "_Room | None", status: int) -> None:
        """A request is over: give its room back, if it had one. What failed says nothing of how long requests take."""
        outcome = Outcome.FAILURE if status >= _SERVER_ERROR or not status else Outcome.SUCCESS
        with self._lock:
            self.under_way -= 1
            if room is not None:
                limit, slot = room
                limit.settle(slot, outcome, now=self._now(), rng=self._rng)

    def passed(self, passage: "Passage", *, sent: int, received: int) -> None:
        """Count a request that the application had."""
        self._counter.received(
            Received(
                port=self.port,
                peer=passage.shown.peer if passage.shown else "",
                status=passage.status,
                seconds=self._now() - passage.started,
                flag=passage.flag,
                bytes_sent=sent,
                bytes_received=received,
            )
        )

    def service_us(self, started: float) -> int:
        """Microseconds since ``started``."""
        return round((self._now() - started) * 1e6)


_Room = tuple[Concurrency, Slot]
"""A request's place among those that are carried at a time, and the limit that gave it."""


class Passage:
    """One request in the application, which gets ``request``. Call ``begin`` with its answer and ``end`` after it.

    ``idle_timeout`` is how long nothing may move on it, 0 for ever; ``deadline`` until when its caller waits; ``flag``
    Envoy's response flag, when it has one.
    """

    __slots__ = (
        "_door", "_is_over", "_room", "deadline", "flag", "idle_timeout", "request", "shown", "started", "status",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 # made in one place, for every request
        self,
        door: Door,
        admitted: Admitted,
        shown: Shown | None,
        room: _Room | None,
        started: float,
        deadline: Deadline,
    ) -> None:
        self._door, self._room, self._is_over = door, room, False
        self.request, self.shown, self.started, self.deadline = admitted.request, shown, started, deadline
        self.idle_timeout = admitted.idle_timeout
        self.status, self.flag = 0, ""

    def __repr__(self) -> str:
        return f"<Passage {self.request.method} {self.request.path} {self.status or 'not answered yet'}>"

    def begin(self, status: int, headers: Headers) -> Headers:
        """The application's answer begins: return its headers as the caller gets them.

        A failure for which repeats further on were of no avail is not to be repeated here either: each tier would
        multiply those of the next.
        """
        self.status = status
        service_us = self._door.service_us(self.started) if self.shown else None
        if status >= _SERVER_ERROR and context.is_spent() and all(name != SPENT[0] for name, _ in headers):
            headers = (*headers, SPENT)
        under_way = self._door.under_way - 1 if self.shown and orca.asks(self.request.headers) else None
        return deciding.answer_headers(headers, service_us=service_us, under_way=under_way)

    def end(self, *, sent: int = 0, received: int = 0, is_broken: bool = False) -> None:
        """The answer is over, or the caller went away; once. ``is_broken``: the application failed to answer."""
        if self._is_over:
            return
        self._is_over = True
        if is_broken and not self.status:
            self.status = _SERVER_ERROR
        self._door.settle(self._room, self.status)
        self._door.passed(self, sent=sent, received=received)


def ended(answer: Answer) -> Answer:
    """Return the answer with the header that closes an HTTP/1 connection when it is to end with it."""
    return replace(answer, headers=(*answer.headers, ("connection", "close"))) if answer.ends else answer
