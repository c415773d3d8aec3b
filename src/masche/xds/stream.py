"""One delta xDS stream: from what the proxy asks and what it should hold, decide what to write.

The order across types is make-before-break: clusters and their endpoints, then listeners, then routes; removals go the
other way and wait until every addition is answered. Law: a proxy that applies what is decided here holds exactly what
was wanted of what it subscribed to, and the decision after that is empty.

Nothing is sent before the first ``want``: a control plane that knows nothing must not empty a proxy that works.
"""

from collections.abc import Iterator
from itertools import count

from masche.wire.discovery import DeltaRequest
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, MAKE_BEFORE_BREAK, ROUTES
from masche.xds.ledger import Ledger
from masche.xds.limits import Blame, Bucket, Limits, Violation, names_violation
from masche.xds.verdict import Decision, Rejection, Send, TypeStatus
from masche.xds.wanted import Wanted

_RANK = {type_url: rank for rank, type_url in enumerate(MAKE_BEFORE_BREAK)}
_WAITS_FOR = {LISTENER: (CLUSTER,), ROUTES: (CLUSTER, LISTENER)}
"""What must be answered before additions of a type are sent. Endpoints wait for nothing: Envoy answers for a cluster
only once it has them ("CDS ACK means warmed, not received"), so to hold them back would hold back the answer."""


class Stream:
    """The delta protocol towards one proxy."""

    def __init__(self, *, now: float, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self._bucket = Bucket(rate=limits.requests_per_second, burst=limits.burst, now=now)
        self._ledgers: dict[str, Ledger] = {}
        self._wanted: Wanted | None = None
        self._nonces = count(1)

    # -- events ---------------------------------------------------------------------------------------------------

    def request(self, request: DeltaRequest, *, now: float) -> Decision:
        """Hear the proxy: an answer to a response, a change of its subscription, or both.

        A nonce that is not the one in flight answers nothing; a subscription counts whatever the nonce.
        """
        violation = self._violation(request, now=now)
        if violation:
            return Decision(violation=violation)
        is_first = request.type_url not in self._ledgers
        ledger = self._ledger(request.type_url)
        is_answer = ledger.flight is not None and request.nonce == ledger.flight.send.nonce
        rejected = self._answered(ledger, request, now=now) if is_answer else ()
        if is_first or request.subscribe or request.unsubscribe:
            ledger.ask(
                subscribe=request.subscribe,
                unsubscribe=request.unsubscribe,
                initial_versions=request.initial_versions if is_first else None,
            )
        return Decision(sends=tuple(self._sends(now=now)), rejected=rejected, has_settled=is_answer)

    def want(self, wanted: Wanted, *, now: float) -> Decision:
        """Hear what the proxy should hold from now on."""
        self._wanted = wanted
        for type_url, ledger in self._ledgers.items():
            ledger.want(wanted.table(type_url))
        return Decision(sends=tuple(self._sends(now=now)))

    def tick(self, *, now: float) -> Decision:
        """Hear that time has passed; of use at ``next_deadline``."""
        return Decision(sends=tuple(self._sends(now=now)))

    def next_deadline(self, *, now: float) -> float | None:
        """Return when ``tick`` has something to send though nobody spoke, or None."""
        resting = (
            ledger.resume_at
            for ledger in self._ledgers.values()
            if ledger.resume_at > now and not ledger.flight and ledger.has_additions
        )
        return min(resting, default=None)

    # -- what is told about it ------------------------------------------------------------------------------------

    def is_live(self, wanted: Wanted) -> bool:
        """Whether the proxy acknowledged all of ``wanted`` that it subscribed to, and holds nothing else.

        False for a proxy that has not asked for anything yet.
        """
        ledgers = self._ledgers
        return bool(ledgers) and all(ledger.is_live(wanted.table(kind)) for kind, ledger in ledgers.items())

    def status(self) -> tuple[TypeStatus, ...]:
        """Say how far each type is, in the order in which they are sent."""
        ledgers = sorted(self._ledgers.values(), key=lambda ledger: (_RANK.get(ledger.type_url, 9), ledger.type_url))
        return tuple(ledger.status() for ledger in ledgers)

    def __repr__(self) -> str:
        states = (f"{status.type_url.rpartition('.')[2]} {status.sync}" for status in self.status())
        return f"<Stream {', '.join(states) or 'nothing asked'}>"

    # -- decisions ------------------------------------------------------------------------------------------------

    def _ledger(self, type_url: str) -> Ledger:
        if type_url not in self._ledgers:
            ledger = self._ledgers[type_url] = Ledger(type_url, limits=self._limits)
            if self._wanted is not None:
                ledger.want(self._wanted.table(type_url))
        return self._ledgers[type_url]

    def _answered(self, ledger: Ledger, request: DeltaRequest, *, now: float) -> tuple[Rejection, ...]:
        if request.error_code:
            return ledger.refuse(request.error_message, now=now)
        ledger.acknowledge()
        return ()

    def _sends(self, *, now: float) -> Iterator[Send]:
        if self._wanted is None:
            return
        for type_url in (*MAKE_BEFORE_BREAK, *sorted(self._ledgers.keys() - _RANK.keys())):
            ledger = self._ledgers.get(type_url)
            if ledger and self._may_add(ledger, now=now):
                send = ledger.additions(str(next(self._nonces)))
                if send:
                    self._owe_endpoints(send)
                    yield send
        if not any(ledger.flight or ledger.has_additions for ledger in self._ledgers.values()):
            yield from self._next_removal()

    def _may_add(self, ledger: Ledger, *, now: float) -> bool:
        if ledger.flight or now < ledger.resume_at:
            return False
        ahead = (self._ledgers[kind] for kind in _WAITS_FOR.get(ledger.type_url, ()) if kind in self._ledgers)
        if any(other.flight or other.has_additions for other in ahead):
            return False
        endpoints = self._ledgers.get(ENDPOINTS)
        return ledger.type_url not in _WAITS_FOR or endpoints is None or not endpoints.is_owing

    def _owe_endpoints(self, send: Send) -> None:
        """Envoy does not ask again for the endpoints of a cluster that changed, and warms until it gets them.

        Those of one that it asked for by name are sent behind it, for a request waits.
        """
        endpoints = self._ledgers.get(ENDPOINTS)
        if send.type_url == CLUSTER and endpoints:
            endpoints.owe_again(blob.eds_name for blob in send.blobs if blob.eds_name)
            asked = self._ledgers[CLUSTER].subscription.names
            endpoints.expect(blob.eds_name for blob in send.blobs if blob.eds_name and blob.name in asked)

    def _next_removal(self) -> Iterator[Send]:
        for type_url in reversed(MAKE_BEFORE_BREAK):
            ledger = self._ledgers.get(type_url)
            send = ledger.removals(str(next(self._nonces))) if ledger else None
            if send:
                yield send
                return

    def _violation(self, request: DeltaRequest, *, now: float) -> Violation | None:
        if not self._bucket.take(now=now):
            return Violation(
                blame=Blame.EXHAUSTED, why=f"more than {self._limits.requests_per_second:g} requests per second"
            )
        if not request.type_url:
            return Violation(blame=Blame.INVALID, why="type_url is required on an aggregated stream")
        ledger = self._ledgers.get(request.type_url)
        if ledger is None and len(self._ledgers) >= self._limits.types:
            return Violation(blame=Blame.EXHAUSTED, why=f"more than {self._limits.types} types on one stream")
        already = ledger.subscription.names if ledger else set[str]()
        names = (*request.subscribe, *request.initial_versions)
        return names_violation(names, already=already, limits=self._limits)
