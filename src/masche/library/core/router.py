"""What becomes of a request: answered at once, sent to a cluster, or let go out as if there were no mesh.

Pure: decided from what is known of its authority, the request, and chance. The steps are those of the sidecar's
explicit proxy, in its order: one spelling of path and headers first, because all below look at them; then the first
route that matches; then what the route says. Invariant: what leaves here to the mesh looks to the callee as if a
sidecar had sent it, and nobody but the mesh speaks in the mesh's headers.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

from masche.library.core import answers, cors
from masche.library.core.exchange import Answer
from masche.library.core.outcomes import UNREACHED
from masche.library.core.ports import Known
from masche.model.frozen import frozen
from masche.model.told import PASSTHROUGH, Destination, Discovery
from masche.model.view import Fault, Hashed, HeaderChange, Protocol, Retry, Route
from masche.traffic import orca
from masche.traffic.callee import CallRules
from masche.traffic.chance import Chance
from masche.traffic.edge import MAX_HEADERS, METHODS, received
from masche.traffic.forward import Answer as Decided
from masche.traffic.forward import Sending, apply, decide, draw
from masche.traffic.match import match
from masche.traffic.pushback import SPENT
from masche.traffic.request import Headers, Request
from masche.traffic.verdict import Verdict
from masche.wire import stats

_PLAIN_TARGET = re.compile(r"(?:/(?![./])[A-Za-z0-9_~.,:;=@!$&'()*+-]*)+(?:\?[\x21-\x22\x24-\x7e]*)?")
"""A path that is in its normal form already, whatever its query: the usual case, told without taking it apart."""

_PLAIN_NAME = re.compile(r"(?!x-envoy-|x-masche-)[a-z0-9-]+")
_SPECIAL_NAMES = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "te",
        "x-forwarded-client-cert",
        "x-forwarded-proto",
        "referer",
    )
)
_FEW_BYTES = 16 * 1024

STREAM = "tcp"
"""The scheme of a call that wants a connection and no answer (``library.tcp``); its method is CONNECT."""

_SPEAKS_TCP = "speaks TCP: open a connection with masche.library.tcp"

_HIDDEN = frozenset({UNREACHED, stats.SERVICE_HEADER, orca.REPORT})
"""Words between proxies: no caller's application sees them, unless it asked for an instance's report itself."""

_ASKED_FOR = (orca.REPORT,)

_NEVER = re.compile(
    r"localhost(?::.*)?|127\..*|0\..*|169\.254\..*|\[::1\](?::.*)?|\[::\](?::.*)?|\[fe80:.*|\[::ffff:.*", re.IGNORECASE
)
"""Authorities that mean this host: the same that a sidecar's proxy refuses, which here are none of the mesh's."""


@frozen(kw_only=False)
class Outside:
    """It is not for the mesh: the client sends it as it would have without."""

    request: Request


@frozen(kw_only=False)
class Send:
    """How requests go to an instance of ``destination``: the same for all that a plain route takes.

    ``rule`` names the route. The headers ``hidden`` are taken off the answer, ``response_changes`` are made to it in
    order, then ``told`` is added. ``mirrors`` are the clusters that get a copy; ``hashes`` what it sticks by.
    ``idle_timeout`` in seconds, 0 for none.
    """

    destination: Destination
    rule: str
    rules: CallRules
    idle_timeout: float
    hidden: frozenset[str]
    response_changes: tuple[HeaderChange, ...]
    mirrors: tuple[Destination, ...]
    hashes: tuple[Hashed, ...]
    fault: Fault | None
    told: Headers


@dataclass(slots=True)
class Sent:
    """Send ``request`` so. Not frozen: every call makes one, and freezing would treble what that costs."""

    send: Send
    request: Request


Decision = Sent | Answer | Outside


@lru_cache(maxsize=4096)
def is_never_ours(authority: str) -> bool:
    """Does this authority mean this very host, or its link? It goes out as it is; nobody is asked about it."""
    return _NEVER.fullmatch(authority) is not None


def tidied(request: Request, *, trace: Headers) -> Request | Answer:
    """Bring a request into the one spelling in which it is matched and sent, let it go on in its ``trace`` (the last
    of these headers is its id).

    What no proxy may guess about is answered at once, as the callee would. A trace of the request's own is left as it
    is. Most requests need nothing, which costs less to see than ``edge.received`` costs.
    """
    names = plain(request)
    if names is not None:
        return replace(request, headers=request.headers + names.added(trace))
    found = received(request)
    if isinstance(found, Verdict):
        return answers.answer(found.status, found.sentence, flag="", request=request)
    added = Names(tuple(name for name, _ in found.headers)).added(trace)[1:]  # who received it has said by what it came
    return replace(found, headers=found.headers + added)


def plain(request: Request, names: "Names | None" = None) -> "Names | None":
    """Return what the names of its headers say of a request to whose headers ``Names.added`` is added, and that is to
    be changed in nothing else; None: it is not such. ``names``: what ``plain_headers`` said of its headers, where that
    is known.
    """
    if _PLAIN_TARGET.fullmatch(request.target) is None or request.method not in METHODS:
        return None
    if not _is_plain_authority(request.authority):
        return None
    return plain_headers(request.headers) if names is None else names


def plain_headers(headers: Headers) -> "Names | None":
    """What the names of these headers say, if nothing of the headers is to be changed."""
    if not headers:
        return _names_of(())
    said, values = zip(*headers)  # noqa: B905 - a header is always a pair, and being strict costs as much again
    names, text = _names_of(said), "".join(values)
    if not names.are_plain or not text.isprintable() or len(text) > _FEW_BYTES:
        return None
    return names


class Names:
    """What the ``names`` of a request's headers say about it; they are the same for most requests of a client."""

    __slots__ = ("_have_id", "_have_trace", "are_plain", "ask", "names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = frozenset(names)
        self._have_id, self._have_trace = "x-request-id" in names, "traceparent" in names
        self.ask = orca.ASK[0] in names
        self.are_plain = len(self.names) == len(names) < MAX_HEADERS // 2 and all(map(is_plain_name, names))

    def added(self, trace: Headers) -> Headers:
        """The request's trace and its id, which is the last of ``trace``, unless it has its own."""
        if not (self._have_id or self._have_trace):
            return (_PROTO, *trace)
        ours = () if self._have_trace else trace[:-1]
        return (_PROTO, *ours) if self._have_id else (_PROTO, *ours, *trace[-1:])


_names_of = lru_cache(maxsize=1024)(Names)


def is_plain_name(name: str) -> bool:
    """May the name be among the headers of a request that needs no change?"""
    return _PLAIN_NAME.fullmatch(name) is not None and name not in _SPECIAL_NAMES


@lru_cache(maxsize=4096)
def _is_plain_authority(authority: str) -> bool:
    return _PLAIN_AUTHORITY.fullmatch(authority) is not None


_PLAIN_AUTHORITY = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?::[0-9]+)?")

ADDED = frozenset(("x-forwarded-proto", "x-request-id", "traceparent", "tracestate"))
"""The headers that a request has here which it had not before."""

_PROTO = ("x-forwarded-proto", "http")


def route(known: Known, request: Request, *, rng: Chance) -> Decision:
    """Decide what becomes of a request that was tidied."""
    drawn = draw(rng)
    chosen = match(known.host.routes, request, drawn=drawn)
    if chosen is None:
        why = f"no route of {request.authority} matches {request.method} {request.path}"
        return answers.answer(404, why, flag="NR", request=request)
    # Envoy's CORS filter stands before the router: a preflight is answered whatever the route would do.
    if chosen.cors is not None and (early := cors.preflight(chosen.cors, request)) is not None:
        return early
    decided = decide(chosen, request, rng=rng, drawn=drawn)
    if isinstance(decided, Decided):
        return _answered(decided, request)
    return _sent(decided, chosen, known, request)


def _answered(decided: Decided, request: Request) -> Answer:
    """A redirect or a refusal of the route, with the route's own changes to its answers."""
    made = answers.answer(decided.status, decided.why, flag="", request=request)
    if decided.location:
        made = Answer(decided.status, (("location", decided.location), ("content-length", "0")))
    return replace(made, headers=_changed(made.headers, decided.response_changes))


def _changed(headers: Headers, changes: tuple[HeaderChange, ...]) -> Headers:
    for change in changes:
        headers = apply(change, headers)
    return headers


def _sent(sending: Sending, chosen: Route, known: Known, request: Request) -> Decision:
    name = sending.cluster.path
    destination = known.destinations.get(name)
    if name == PASSTHROUGH or (destination is not None and destination.discovery is Discovery.PASSTHROUGH):
        return Outside(request)
    if destination is None:
        why = f"the control plane has no cluster {name}"
        return answers.answer(sending.absent_status, why, flag="NC", request=request)
    hidden, changes = _hidden(sending.response_changes)
    if request.scheme != STREAM and (request.method == "CONNECT" or destination.cluster.protocol is Protocol.TCP):
        return answers.answer(405, f"{request.authority} {_SPEAKS_TCP}", flag="", request=request)
    send = Send(
        destination,
        sending.rule,
        _rules(*_times(sending, request), sending.retry),
        sending.idle_timeout,
        hidden,
        changes,
        tuple(found for each in sending.mirrors if (found := known.destinations.get(each.path)) is not None)
        if sending.mirrors
        else (),
        sending.hashes,
        sending.fault,
        cors.told(chosen.cors, request) if chosen.cors is not None else (),
    )
    return Sent(send, sending.request)


def _times(sending: Sending, request: Request) -> tuple[float, float]:
    """What a request may take, and a try of it. One that wants another protocol never ends, and Envoy's timeouts begin
    with the end of a request ("once the entire downstream request [...] has been processed").
    """
    is_upgrading = any(name == "upgrade" for name, _ in request.headers)
    return (0.0, 0.0) if is_upgrading else (sending.timeout, sending.per_try_timeout)


def _hidden(changes: tuple[HeaderChange, ...]) -> tuple[frozenset[str], tuple[HeaderChange, ...]]:
    """Tell what is only taken off from what is changed: whether there is anything to take off is cheaper to see."""
    is_removal = all(not (each.set or each.add or each.set_present or each.set_absent) for each in changes)
    if is_removal and not any(orca.REPORT in each.remove for each in changes):  # that one is hidden from some only
        return _HIDDEN.union(*(each.remove for each in changes)), ()
    return _HIDDEN, tuple(each for each in changes if not each.is_empty)


_RULES: dict[tuple[float, float, int], tuple[Retry | None, CallRules]] = {}
_RULES_KEPT = 4096


def _rules(timeout: float, per_try_timeout: float, retry: Retry | None) -> CallRules:
    """The rules of a call, made once for a route: its Retry is told by which object it is, which is held with them."""
    key = (timeout, per_try_timeout, id(retry))
    found = _RULES.get(key)
    if found is None:
        if len(_RULES) >= _RULES_KEPT:
            _RULES.clear()
        rules = CallRules(timeout=timeout, per_try_timeout=per_try_timeout, retry=retry)
        found = _RULES[key] = (retry, rules)
    return found[1]


def answer_headers(
    send: Send,
    headers: Headers,
    said: Collection[str],
    *,
    is_spent: bool,
    has_asked: bool = False,
    cookie: str = "",
) -> Headers:
    """Return the headers of an instance's answer as the application sees them: the very same where nothing changes.

    ``said``: their names. ``is_spent``: repeats were of no avail, and nobody above should try again. ``has_asked``: the
    application itself asked for the instance's report of its load. ``cookie`` is to be set.
    """
    found = headers
    if not send.hidden.isdisjoint(said):
        hidden = send.hidden.difference(_ASKED_FOR) if has_asked else send.hidden
        found = tuple([each for each in headers if each[0] not in hidden])
    if send.response_changes:
        found = _changed(found, send.response_changes)
    if is_spent:
        found = (*found, SPENT)
    if cookie:
        found = (*found, ("set-cookie", cookie))
    return (*found, *send.told) if send.told else found
