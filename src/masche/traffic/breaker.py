"""Which instances of a service are cut off for one caller, and when they are let back: one state machine per instance.

From what attempts came to, and from how long attempts under way have been out, an instance goes from ADMITTED to
EJECTED, and by good trials through PROBING back to ADMITTED. Invariants: never more than the allowed share is out at
once, never all; whoever is out is tried again and again, so what is well again is readmitted.

Sources: consecutive failures and ejection times that grow with repeats are Envoy's outlier detection; ejection by
latency is what Envoy discusses since 2016 (issue 288) and does not have: here against the median of the others
(``outlier``), and also by calls that are *still out*: as in the accrual failure detector (Hayashibara et al. 2004),
silence is judged by how long answers usually take, before any timeout. Probing with one call at a time is the half-open
state of Nygard's circuit breaker ("Release It!", 2007); probing with *copies* of idempotent calls, whose own answers
come from elsewhere, lets nobody pay for finding out.
"""

from collections.abc import Iterable
from itertools import islice
from math import inf

from masche.traffic.budget import Allowance
from masche.traffic.ejection import Cause, EjectionRules, Event, SharedVerdict, State, Trial
from masche.traffic.load import Ticket
from masche.traffic.outcome import Outcome
from masche.traffic.outlier import Limits, Measured, limits, milliseconds, outlier
from masche.traffic.standing import Attempt, Standing
from masche.traffic.window import Sum

_MOST_CALLERS = 32
"""So many callers' verdicts about one instance are remembered; more would not say more."""

_RECENT, _TELLING = 1.0, 10
"""Over so many seconds, and from so many calls on, it is judged whether the service fails as a whole."""

_SUSPECTED = 1.0
"""For so many seconds others may add their own failures to what a caller only suspects."""

_COPIES_OVER = 10.0
"""Copies are a share of the calls of so many seconds."""

_AT_ONCE = 64
"""So many instances are measured at a time: of more, each has its turn, so that looking at many holds nobody up."""

_NOBODY: frozenset[str] = frozenset()


class Breaker:
    """The instances of one service, as one caller sees them.

    Before each call: ``check`` when ``next_deadline`` has come, pick an instance that is not in ``shunned``, ``start``
    an attempt and ``settle`` it. Beside it: when ``trial`` returns one, start and settle that, too. Whatever returns
    events has changed a state.
    """

    __slots__ = (
        "_busy", "_check_at", "_copies", "_earned", "_held", "_out", "_recent_calls", "_recent_faults", "_shunned",
        "_shunned_until", "_standings", "_started", "_turn", "name", "rules",
    )  # fmt: skip

    def __init__(self, rules: EjectionRules | None = None, *, name: str = "") -> None:
        self.rules = rules or EjectionRules()
        self.name = name
        self._standings: dict[str, Standing] = {}
        self._out: dict[str, Standing] = {}
        self._busy: dict[str, Standing] = {}
        self._turn = 0
        self._held = _NOBODY
        self._shunned = _NOBODY
        self._shunned_until = inf
        self._check_at = inf
        self._started = self._earned = 0
        self._copies = Allowance(ratio=self.rules.max_copy_percent / 100, ttl=_COPIES_OVER)
        self._recent_calls = Sum(_RECENT)
        self._recent_faults = Sum(_RECENT)

    def __repr__(self) -> str:
        admitted = len(self._standings) - len(self._out)
        held = f" ({', '.join(sorted(self._held))} held)" if self._held else ""
        out = "".join(f", {each!r}" for each in islice(self._out.values(), 10))
        return f"<Breaker{' ' + self.name if self.name else ''}: {admitted} admitted{held}{out}>"

    def state(self, endpoint: str) -> State:
        """The state of one instance; raises KeyError when it is none of the service."""
        return self._standings[endpoint].state

    def until(self, endpoint: str) -> float:
        """Until when one instance is ejected; 0 when it is not. Raises KeyError when it is none of the service."""
        standing = self._standings[endpoint]
        return standing.until if standing.state is State.EJECTED else 0.0

    def limits(self, endpoint: str) -> Limits:
        """What the others make of one instance; raises KeyError when it is none of the service."""
        return self._standings[endpoint].limits

    # Who there is

    def members(self, endpoints: Iterable[str], *, now: float) -> tuple[Event, ...]:
        """Take over who belongs to the service; when it has shrunk, who was out may have to be let back."""
        wanted = dict.fromkeys(endpoints)
        for gone in self._standings.keys() - wanted.keys():
            del self._standings[gone]
            self._out.pop(gone, None)
            self._busy.pop(gone, None)
        for name in wanted:
            if name not in self._standings:
                self._standings[name] = Standing(name, self.rules)
        self._changed()
        events: list[Event] = []
        while len(self._out) > self.rules.allowed(len(self._standings)):
            soonest = min(self._out.values(), key=lambda each: (each.until, each.name))
            events.append(self._readmit(soonest, Cause.ROOM, f"only {len(self._standings)} instances are left", now))
        return tuple(events)

    # Asking: nothing of this changes a state

    def shunned(self, *, now: float) -> frozenset[str]:
        """Who must not be picked ``now``: who is out, and who is held, if these are no more than may be out."""
        if now >= self._shunned_until:
            self._shun(now)
        return self._shunned

    def trial(self, *, can_copy: bool, now: float) -> Trial | None:
        """Whom to try now. ``can_copy``: is the call at hand idempotent, so that a copy of it may be sent besides?

        Copies are sent while it is ejected, too: at most one per ``trial_interval`` and per round of calls, in all at
        most ``max_copy_percent`` of the calls, and none while most calls fail anyway, whoever is called. A call itself
        is risked only after the ejection, and only where no copies are sent: then little is lost by it, and an
        instance that would be of use does not stay out for as long as the others are overloaded.
        """
        if not self._out:
            return None
        can_copy = can_copy and not self._is_failing(now)
        self._earn(now)
        has_copies = can_copy and self._copies.balance(now=now) >= 1.0
        for standing in self._out.values():
            if standing.trial is not None or now < standing.trial_at:
                continue
            if has_copies and self._started >= standing.trial_after:
                return Trial(endpoint=standing.name, is_copy=True)
            if can_copy or standing.state is not State.PROBING:
                continue
            if now - standing.copied_at > self.rules.copy_patience:
                return Trial(endpoint=standing.name, is_copy=False)
        return None

    def is_calm(self, *, now: float) -> bool:
        """Is nothing due, nobody out and nobody held, so that there is nothing else to ask before a call?"""
        return now < self._check_at and now < self._shunned_until and not self._shunned and not self._out

    @property
    def has_out(self) -> bool:
        """Is anybody out, so that there may be somebody to try?"""
        return bool(self._out)

    def is_due(self, *, now: float) -> bool:
        """Has ``check`` something to do ``now``?"""
        return self._check_at <= now

    def next_deadline(self) -> float | None:
        """When ``check`` has something to do next; None while nothing is going on."""
        return None if self._check_at == inf else self._check_at

    # Calls

    def start(self, endpoint: str, *, now: float, trial: Trial | None = None) -> Attempt:
        """Count an attempt that starts; with ``trial`` it decides about readmission."""
        attempt = Attempt(endpoint, now=now, is_trial=trial is not None, is_copy=trial is not None and trial.is_copy)
        self.begin(attempt, endpoint, now=now, trial=trial)
        return attempt

    def begin(self, ticket: Ticket, endpoint: str, *, now: float, trial: Trial | None = None) -> None:
        """The same for an attempt that somebody else has made; ``end`` it once."""
        standing = self._standings.get(endpoint)
        if standing is None:
            return
        if (check_at := now + self.rules.interval) < self._check_at:
            self._check_at = check_at
        if trial is not None:
            standing.trial = ticket
            if trial.is_copy:
                standing.copied_at = now
                self._copies.take(now=now)
            return
        self._started += 1
        waiting = standing.waiting
        if not waiting:
            self._busy[endpoint] = standing
            if (until := now + standing.limits.overdue) < self._shunned_until:
                self._shunned_until = until
        waiting[ticket] = None

    def settle(self, attempt: Attempt, outcome: Outcome, *, now: float) -> tuple[Event, ...]:
        """Count how an attempt ended. Only the first time counts, so it may also stand in a ``finally``."""
        if attempt.is_settled:
            return ()
        attempt.is_settled = True
        return self.end(attempt, attempt.endpoint, outcome, now=now, is_trial=attempt.is_trial)

    def end(
        self, ticket: Ticket, endpoint: str, outcome: Outcome, *, now: float, is_trial: bool = False
    ) -> tuple[Event, ...]:
        """Count how an attempt ended that was begun by ``begin``; whoever made it sees to it that it ends once."""
        standing = self._standings.get(endpoint)
        if standing is None:
            return ()
        if is_trial:
            return self._settle_trial(standing, ticket, outcome, now)
        standing.settle(ticket, outcome, now=now)
        if not outcome.is_cancelled:
            self._recent_calls.add(1.0, now=now)
        if outcome.is_fault:
            self._recent_faults.add(1.0, now=now)
        if endpoint in self._held:
            self._shunned_until = -inf
        elif standing.waiting:
            until = standing.oldest() + standing.limits.overdue
            self._shunned_until = min(self._shunned_until, until)
        if not outcome.is_fault or standing.state is not State.ADMITTED:
            return ()
        return self._judge_faults(standing, now)

    def check(self, *, now: float) -> tuple[Event, ...]:
        """Do what is due by time alone: end ejections, compare latencies, judge calls that are out for too long."""
        self._earn(now)
        events: list[Event] = []
        for standing in list(self._out.values()):
            events += self._check_out(standing, now)
        for name in (*self._compare(now), *self._busy):
            if name not in self._out:
                standing = self._standings[name]
                events += self._judge_latency(standing, standing.last, now)
        is_busy = bool(self._waiting()) or any(each.trial for each in self._out.values())
        self._check_at = now + self.rules.interval if is_busy else inf
        for standing in self._out.values():
            self._check_at = min(self._check_at, _next(standing, now + self.rules.interval))
        self._changed()
        return tuple(events)

    # What callers tell each other

    def verdicts(self, *, caller: str, now: float) -> tuple[SharedVerdict, ...]:
        """What this caller may offer to others: who is out on its own evidence, and who failed it last while nobody
        else did; never what it only heard. Worth asking for after a fault.
        """
        failing = [each for each in self._standings.values() if each.in_row]
        if not self._out and not failing:
            return ()
        out = tuple(
            SharedVerdict(
                endpoint=each.name,
                caller=caller,
                sentence=each.sentence,
                lifetime=min(self.rules.max_verdict, max(1.0, each.until - now)),
            )
            for each in self._out.values()
            if each.cause is not Cause.HEARD
        )
        suspected = tuple(
            SharedVerdict(
                endpoint=each.name,
                caller=caller,
                sentence=f"{each.in_row} failures in a row",
                lifetime=_SUSPECTED,
                faults=each.in_row,
            )
            for each in failing
            if each.name not in self._out and self._is_alone(each, now)
        )
        return out + suspected

    def hear(self, verdict: SharedVerdict, *, now: float) -> tuple[Event, ...]:
        """Take note of another caller's verdict: its instance is tried before it gets calls again.

        It is only believed for a while, for a small share of the instances, and not at all once trials disproved it.
        What several callers only suspect counts when their failures together would eject, and this caller has had no
        good answer of the instance since.
        """
        standing = self._standings.get(verdict.endpoint)
        if standing is None or now < standing.deaf_until:
            return ()
        if verdict.faults and not self._is_suspicious(standing, verdict, now):
            return ()
        standing.heard = {caller: until for caller, until in standing.heard.items() if until > now}
        if len(standing.heard) >= _MOST_CALLERS and verdict.caller not in standing.heard:
            return ()
        standing.heard[verdict.caller] = now + min(verdict.lifetime, self.rules.max_verdict)
        heard = sum(each.cause is Cause.HEARD for each in self._out.values())
        size = len(self._standings)
        if (
            standing.state is not State.ADMITTED
            or heard >= self.rules.allowed_heard(size)
            or len(self._out) >= self.rules.allowed(size)
        ):
            return ()
        standing.good_trials, standing.trial, standing.copied_at = 0, None, -inf
        standing.trial_at, standing.trial_after = now, self._started
        self._out[standing.name] = standing
        self._check_at = min(self._check_at, standing.heard[verdict.caller])
        return (self._move(standing, State.PROBING, Cause.HEARD, f"{verdict.caller} says: {verdict.sentence}", now),)

    def _is_suspicious(self, standing: Standing, verdict: SharedVerdict, now: float) -> bool:
        """Do the failures that callers saw in a row, this one's included, add up to what ejects?"""
        least = self.rules.failures_alone or self.rules.failures
        if not least or not self._is_alone(standing, now):
            return False
        standing.suspect(verdict.caller, min(verdict.faults, least - 1), until=now + min(verdict.lifetime, _SUSPECTED))
        return standing.suspected(now=now) + min(standing.in_row, least - 1) >= least

    # Judging

    def _judge_faults(self, standing: Standing, now: float) -> tuple[Event, ...]:
        rules, row = self.rules, standing.in_row
        if self._is_alike(standing, now):
            return ()
        if rules.failures and row >= rules.failures and self._lasts(standing, rules.failures, now):
            return self._eject(standing, Cause.FAILURES, f"{row} failures in a row", now)
        if rules.failures_alone and row >= rules.failures_alone and self._lasts(standing, rules.failures_alone, now):
            calls, faults = self._others(standing, now)
            if self._is_alone(standing, now):
                others = f"the others had {faults:.0f} in {calls:.0f} calls"
                return self._eject(standing, Cause.FAILURES, f"{row} failures in a row, {others}", now)
        calls, faults = standing.calls(now=now), standing.faults(now=now)
        if rules.error_percent and calls >= rules.min_volume and 100 * faults >= rules.error_percent * calls:
            sentence = f"{faults / calls:.0%} of {calls:.0f} calls failed in {rules.window:g} s"
            return self._eject(standing, Cause.ERROR_RATE, sentence, now)
        return ()

    def _judge_latency(self, standing: Standing, measured: Measured, now: float) -> tuple[Event, ...]:
        limit = standing.limits
        if limit.p99 and standing.stalled(now=now) >= self.rules.stalled_calls:
            sentence = (
                f"{self.rules.stalled_calls} calls given up, or out for more than {milliseconds(limit.stalled)}, "
                f"{limit.stalled / limit.p99:.1f}x the p99 of the others ({milliseconds(limit.p99)})"
            )
            return self._eject(standing, Cause.STALLED, sentence, now)
        if sentence := outlier(measured, limit, self.rules):
            return self._eject(standing, Cause.SLOW, sentence, now)
        return ()

    def _compare(self, now: float) -> list[str]:
        """Measure whose turn it is, and give each of them its limits by all that are admitted."""
        names = list(self._standings)
        begins = self._turn if self._turn < len(names) else 0
        turn = names[begins : begins + _AT_ONCE]
        self._turn = begins + len(turn)
        for name in turn:
            self._standings[name].last = self._standings[name].measured(now=now)
        measured = {name: each.last for name, each in self._standings.items() if name not in self._out}
        for name, found in limits(measured, self.rules, of=turn).items():
            self._standings[name].limits = found
        return turn

    def _waiting(self) -> dict[str, Standing]:
        """Who has calls under way that still speak."""
        self._busy = {name: each for name, each in self._busy.items() if each.waiting}
        return self._busy

    def _earn(self, now: float) -> None:
        """Count the calls since this was done last, of which copies are a share: some at a time is often enough."""
        if self._started > self._earned:
            self._copies.earn(self._started - self._earned, now=now)
            self._earned = self._started

    def _is_failing(self, now: float) -> bool:
        """Do most calls fail, although they go to those who are admitted?"""
        calls = self._recent_calls.total(now=now)
        return calls >= _TELLING and self._recent_faults.total(now=now) * 2 > calls

    def _is_alone(self, standing: Standing, now: float) -> bool:
        """Did the others have hardly any failures lately, in calls enough to say so?"""
        calls, faults = self._others(standing, now)
        return calls >= self.rules.min_volume and faults * 100 <= calls

    def _is_alike(self, standing: Standing, now: float) -> bool:
        """Do the others fail, too, and half as often at least? To cut one off would only load them more."""
        calls, faults = self._others(standing, now)
        if calls < self.rules.min_volume:
            return False
        return 2 * faults * standing.calls(now=now) >= standing.faults(now=now) * calls

    def _lasts(self, standing: Standing, failures: int, now: float) -> bool:
        """Is it more than refusing some calls between two good answers: would each other one have answered as many?"""
        calls, faults = self._others(standing, now)
        if standing.refusing_since == -inf or calls < self.rules.min_volume:
            return True
        pace = (calls - faults) / self.rules.window / (len(self._standings) - len(self._out) - 1)
        return (now - standing.refusing_since) * pace >= failures - 1

    def _others(self, standing: Standing, now: float) -> tuple[float, float]:
        """How many calls the other admitted ones had lately, and how many of them failed."""
        others = [each for name, each in self._standings.items() if each is not standing and name not in self._out]
        return sum(each.calls(now=now) for each in others), sum(each.faults(now=now) for each in others)

    def _check_out(self, standing: Standing, now: float) -> tuple[Event, ...]:
        """What time does to an instance that is out."""
        trial = standing.trial
        if trial is not None and now - trial.started_at > standing.limits.stalled:
            return self._settle_trial(standing, trial, Outcome.TIMEOUT, now)
        if standing.state is State.EJECTED and now >= standing.until:
            sentence = "its time is served, now it is tried"
            return (self._move(standing, State.PROBING, Cause.SERVED, sentence, now),)
        if standing.cause is Cause.HEARD and trial is None and now >= max(standing.heard.values(), default=now):
            standing.heard.clear()
            return (self._readmit(standing, Cause.EXPIRED, "what other callers said of it has expired", now),)
        return ()

    def _settle_trial(self, standing: Standing, attempt: Ticket, outcome: Outcome, now: float) -> tuple[Event, ...]:
        if standing.trial is not attempt:
            return ()
        standing.trial = None
        standing.trial_at = now + self.rules.trial_interval
        standing.trial_after = self._started + len(self._standings)
        self._check_at = min(self._check_at, now + self.rules.interval)
        latency = now - attempt.started_at
        if outcome is Outcome.CANCELLED and latency <= standing.limits.stalled:
            return ()
        if not outcome.is_fault and latency <= standing.limits.stalled:
            return self._good_trial(standing, now)
        took = f" after {milliseconds(latency)}, {milliseconds(standing.limits.stalled)} are allowed"
        return self._bad_trial(standing, outcome.value + (took if latency > standing.limits.stalled else ""), now)

    def _good_trial(self, standing: Standing, now: float) -> tuple[Event, ...]:
        standing.good_trials += 1
        if standing.good_trials >= self.rules.good_trials:
            if standing.heard:
                standing.deaf_until = now + self.rules.max_verdict
                standing.heard.clear()
            sentence = f"{standing.good_trials} trials in a row went well"
            return (self._readmit(standing, Cause.TRIAL, sentence, now),)
        if standing.state is State.EJECTED:
            return (self._move(standing, State.PROBING, Cause.TRIAL, "a copied call was answered in time", now),)
        return ()

    def _bad_trial(self, standing: Standing, what: str, now: float) -> tuple[Event, ...]:
        standing.good_trials = 0
        if standing.state is not State.PROBING:
            return ()
        standing.repeats += 1
        standing.until = now + self.rules.ejection(standing.repeats)
        return (self._move(standing, State.EJECTED, Cause.TRIAL, f"a trial went wrong: {what}", now),)

    # Moving

    def _eject(self, standing: Standing, cause: Cause, sentence: str, now: float) -> tuple[Event, ...]:
        """Cut it off, if so many may be."""
        if standing.name in self._out or len(self._out) >= self.rules.allowed(len(self._standings)):
            return ()
        is_repeat = now - standing.readmitted_at < self.rules.memory
        standing.repeats = standing.repeats + 1 if is_repeat else 1
        standing.until = now + self.rules.ejection(standing.repeats)
        standing.good_trials, standing.trial, standing.copied_at = 0, None, -inf
        standing.trial_at = now + self.rules.trial_interval
        standing.trial_after = self._started + len(self._standings)
        self._out[standing.name] = standing
        self._check_at = min(self._check_at, standing.until)
        return (self._move(standing, State.EJECTED, cause, sentence, now),)

    def _readmit(self, standing: Standing, cause: Cause, sentence: str, now: float) -> Event:
        del self._out[standing.name]
        standing.forget()
        standing.trial = None
        standing.readmitted_at = now
        return self._move(standing, State.ADMITTED, cause, sentence, now)

    def _move(self, standing: Standing, state: State, cause: Cause, sentence: str, now: float) -> Event:
        standing.state, standing.cause, standing.sentence = state, cause, sentence
        self._changed()
        until = standing.until if state is State.EJECTED else 0.0
        return Event(endpoint=standing.name, state=state, cause=cause, sentence=sentence, at=now, until=until)

    def _changed(self) -> None:
        """Let ``shunned`` look again."""
        self._shunned_until = -inf

    def _shun(self, now: float) -> None:
        until = inf
        held: list[str] = []
        for name, standing in self._waiting().items():
            if name in self._out or (begins := standing.oldest() + standing.limits.overdue) == inf:
                continue
            ends = begins + self.rules.max_hold
            if begins <= now <= ends:
                held.append(name)
            until = min(until, begins if now < begins else ends if now <= ends else inf)
        has_room = len(self._out) + len(held) <= self.rules.allowed(len(self._standings))
        self._held = frozenset(held) if has_room else _NOBODY
        self._shunned = self._held.union(self._out)
        self._shunned_until = until


def _next(standing: Standing, regularly: float) -> float:
    """When an instance that is out must be looked at."""
    if standing.trial is not None:
        return regularly
    if standing.state is State.EJECTED:
        return standing.until
    return max(standing.heard.values(), default=inf) if standing.cause is Cause.HEARD else inf
