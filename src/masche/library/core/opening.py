"""The beginning of every call, the same for both drivers: what becomes of it, by what is known at this moment.

Invariant: whatever is not for the mesh leaves as the client gave it, untouched.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from sys import modules

from msgspec import Struct

from masche.library.core import answers, context, faults, tracing
from masche.library.core.channel import Channel
from masche.library.core.exchange import Answer, Asked
from masche.library.core.facade import Facade
from masche.library.core.faults import Trouble
from masche.library.core.limits import Admission, Waiter
from masche.library.core.ports import Called, Known, NotReadyError
from masche.library.core.router import STREAM, Outside, Send, plain, route, tidied
from masche.library.core.tracing import Span
from masche.traffic import orca, pushback
from masche.traffic.callee import CallRules
from masche.traffic.request import Headers, Request

FacadeOf = Callable[[], Facade]
"""How a transport gets at the mesh: it is asked at the first call, so that making a client starts nothing."""

_SECURE = "https:// to a service of the mesh: write http://, for the mesh encrypts every call itself"


class Opened(Struct, frozen=True):
    """A call that goes to the mesh: ``request`` with ``headers`` in place of its own; and its span, if it has one.

    ``asks``: the application itself asks for the instance's report of its load.
    """

    channel: Channel
    send: Send
    request: Request
    headers: Headers
    span: Span | None
    asks: bool


def opened(facade: Facade, known: Known, asked: Asked) -> Opened | Answer | Outside:
    """Decide what becomes of a call. An answer that is given at once is counted already."""
    request = asked.request
    trace = facade.traces.onward()
    routes = facade.channels.routes(known, now=facade.now)
    # The usual request on the usual route needs no more than to be looked up.
    names = plain(request, asked.names) if request.scheme == "http" else None
    if names is not None and (send := routes.find(request, names)) is not None:
        return _opened(facade, send, request, request.headers + names.added(trace), asks=names.ask)
    return _stream(facade, known, request) if request.scheme == STREAM else _unusual(facade, known, request, trace)


def usual(facade: Facade, known: Known, asked: Asked) -> Opened | None:
    """The same for the usual request on the usual route, where nobody makes spans; None: nothing is decided."""
    request = asked.request
    names = plain(request, asked.names) if tracing.API not in modules else None
    if names is None:
        return None
    channels = facade.channels
    send = channels.routes(known, now=facade.now).find(request, names)
    if send is None or send.fault is not None:
        return None
    channel = channels.get(send.destination.name)
    assert channel is not None, "what is known has every cluster that it leads to"
    headers = request.headers + names.added(facade.traces.onward())
    return Opened(channel, send, request, headers, None, names.ask)


def _unusual(facade: Facade, known: Known, request: Request, trace: Headers) -> Opened | Answer | Outside:
    tidy = tidied(request, trace=trace)
    decision = route(known, request if isinstance(tidy, Answer) else tidy, rng=facade.rng)
    if isinstance(decision, Outside):
        return Outside(request)
    if isinstance(tidy, Answer):
        return counted(facade, None, tidy)
    if request.scheme == "https":
        return counted(facade, None, answers.answer(400, _SECURE, flag="", request=request))
    if isinstance(decision, Answer):
        return counted(facade, None, decision)
    asks = any(name == orca.ASK[0] for name, _ in request.headers)
    return _opened(facade, decision.send, decision.request, decision.request.headers, asks=asks)


def _stream(facade: Facade, known: Known, request: Request) -> Opened | Answer | Outside:
    """A call that wants a connection: nothing is read of what it will carry, so nothing is tidied or traced."""
    decision = route(known, request, rng=facade.rng)
    if isinstance(decision, Answer):
        return counted(facade, None, decision)
    if isinstance(decision, Outside):
        return decision
    channel = facade.channels.get(decision.send.destination.name)
    assert channel is not None, "what is known has every cluster that it leads to"
    return Opened(channel, decision.send, request, (), None, asks=False)


def _opened(facade: Facade, send: Send, request: Request, headers: Headers, *, asks: bool) -> Opened:
    channel = facade.channels.get(send.destination.name)
    assert channel is not None, "what is known has every cluster that it leads to"
    if tracing.API not in modules:
        return Opened(channel, send, request, headers, None, asks)
    span, headers = tracing.begun(request, headers)
    return Opened(channel, send, request, headers, span, asks)


def mirrors(facade: Facade, opened: Opened, has_room: Callable[[], bool]) -> Generator[Opened]:
    """Let the copies that a route's mirrors are to get into their gates, one by one, while there is room: each is one
    attempt, whatever it comes to.
    """
    send = opened.send
    rules = CallRules(timeout=send.rules.timeout)
    for each in send.mirrors:
        channel = facade.channels.get(each.name)
        if channel is not None and has_room() and entered(channel) is Admission.ENTERED:
            copy = replace(send, destination=each, rules=rules, mirrors=(), fault=None)
            yield Opened(channel, copy, opened.request, opened.headers, None, opened.asks)


# What this process itself answers


def counted(facade: Facade, opened: Opened | None, answer: Answer) -> Answer:
    """Count a call that the mesh itself answered."""
    facade.recorder.called(
        Called(
            cluster=opened.channel.name if opened else "",
            rule=opened.send.rule if opened else "",
            status=answer.status,
            seconds=0.0,
            flag=answer.flag,
            bytes_received=len(answer.body),
        )
    )
    if opened is not None and opened.span is not None:
        tracing.end(opened.span, status=answer.status, flag=answer.flag)
    return answer


def overflow(facade: Facade, opened: Opened) -> Answer:
    """The answer to what is over a service's limit: nobody above should repeat it."""
    context.spend()
    made = answers.answer(503, answers.OVERFLOW, flag="UO", request=opened.request, headers=(pushback.SPENT,))
    return counted(facade, opened, made)


@contextmanager
def trouble(facade: Facade, opened: Opened) -> Generator[Trouble]:
    """Draw the trouble that this call is in, and count it among those in trouble for as long as the block lasts."""
    channel, fault = opened.channel, opened.send.fault
    found = faults.trouble(fault, opened.request, active=channel.troubled, rng=facade.rng) if fault else faults.NONE
    if found is faults.NONE:
        yield found
        return
    with channel.lock:
        channel.troubled += 1
    try:
        yield found
    finally:
        with channel.lock:
            channel.troubled -= 1


# The limit of requests under way


def entered(channel: Channel) -> Admission:
    """Let a request in, if the service's limits do."""
    if channel.forgotten:
        channel.end_forgotten()
    with channel.lock:
        return channel.gate.enter()


def queued(channel: Channel, waiter: Waiter) -> Admission:
    """The same for one that may stand in the queue."""
    with channel.lock:
        admission = channel.gate.enter()
        if admission is Admission.WAITING:
            channel.gate.wait(waiter)
        return admission


def forgone(channel: Channel, waiter: Waiter) -> None:
    """Leave the queue; who is next comes, if it was our turn meanwhile."""
    with channel.lock:
        following = channel.gate.forgo(waiter)
    if following is not None:
        following.admit()


def in_vain(facade: Facade, opened: Opened, *, since: float, flag: str) -> str:
    """Count a call that waited in the queue in vain, with Envoy's flag for why, and say for what."""
    facade.recorder.called(
        Called(
            cluster=opened.channel.name,
            rule=opened.send.rule,
            status=0,
            seconds=facade.now() - since,
            flag=flag,
        )
    )
    if opened.span is not None:
        tracing.end(opened.span, status=0, flag=flag)
    most = opened.channel.gate.rules.max_connections
    return f"{answers.TIMED_OUT}: all {most} connections of {opened.channel.title} are in use"


# What is known


def patience(facade: Facade) -> float:
    """Seconds for which a call waits until something is known of whom it calls."""
    return min(facade.options.patience, context.current().left(now=facade.now()))


def not_ready(facade: Facade, authority: str) -> NotReadyError:
    """Say for what a call to ``authority`` waited in vain."""
    waited = facade.knowledge.waiting_for() or "the control plane's word about it"
    return NotReadyError(
        f"nothing is known of {authority} after {facade.options.patience:g} s of waiting for {waited}; "
        "it is not called in plaintext instead"
    )
