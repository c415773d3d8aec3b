"""One TCP port of the application, as a door: whose connections it takes, by who they are and whence they come.

Judged once, when the handshake is over: from then on nothing is read of what a connection carries. What a rule says
about requests cannot be seen here: an ALLOW rule that needs it lets nobody in, a DENY rule goes without it, as in our
proxies. Invariant: while nobody has said who may come in, nobody comes in, and each connection that came is counted
once, whatever became of it.
"""

import logging
import time
from collections.abc import Callable

from masche.library.core.ports import Counter, Now, Received, Reception
from masche.library.inbound import deciding
from masche.library.inbound.deciding import UNMATCHED, Shown
from masche.model.view import Decision, MtlsMode
from masche.telemetry.logs import say
from masche.traffic.authorize import authorize
from masche.traffic.request import Connection

_log = logging.getLogger(__name__)
_DENIED = 403
"""What a refusal by policy counts as, also where there is no status."""


class RefusedError(ConnectionAbortedError):
    """A connection does not get in, and why: for the log, and for nobody who calls."""


class StreamDoor:
    """Judges the connections of one ``port``. ``workload`` says whose it is; ``now`` is monotonic seconds."""

    def __init__(
        self,
        port: int,
        *,
        workload: Callable[[], str],
        reception: Reception,
        counter: Counter,
        now: Now = time.monotonic,
    ) -> None:
        self.port = port
        self._workload, self._reception, self._counter, self._now = workload, reception, counter, now

    def __repr__(self) -> str:
        told = self._reception.inbound(self.port)
        state = deciding.mode(told, self.port) if told else f"waiting for {self._reception.waiting_for()}"
        return f"<StreamDoor {self._workload()}:{self.port} {state}>"

    def mode(self) -> MtlsMode | None:
        """How connections are taken now; None: nobody has said so yet."""
        told = self._reception.inbound(self.port)
        return deciding.mode(told, self.port) if told else None

    def enter(self, shown: Shown | None, *, source_ip: str, destination_ip: str = "") -> "StreamPassage":
        """Let a connection in; the passage must be ended. Raises RefusedError; then it is counted already."""
        connection = Connection(
            peer=shown.peer.removeprefix("spiffe://") if shown else None,
            source_ip=source_ip,
            destination_ip=destination_ip,
            port=self.port,
        )
        rule, why = self._judged(shown, connection)
        if why:
            peer = shown.peer if shown else ""
            say(_log, logging.WARNING, f"refused a connection: {why}", peer=peer, rule=rule, source=source_ip)
            self._counter.received(
                Received(port=self.port, peer=peer, status=_DENIED if rule else 0, seconds=0.0, rule=rule)
            )
            raise RefusedError(why)
        return StreamPassage(self, shown, self._now())

    def _judged(self, shown: Shown | None, connection: Connection) -> tuple[str, str]:
        """Return the rule that refuses, if it was one, and why; nothing when it passes."""
        told = self._reception.inbound(self.port)
        if told is None:
            return "", f"not ready: waiting for {self._reception.waiting_for() or 'the control plane'}"
        if shown is None and deciding.mode(told, self.port) is MtlsMode.STRICT:
            return "", f"port {self.port} takes mutual TLS alone (STRICT); this connection is plaintext"
        verdict = authorize([each for each in told.policies if each.decision is not Decision.AUDIT], connection)
        return ("", "") if verdict.allowed else (verdict.rule or UNMATCHED, verdict.sentence)

    def ended(self, passage: "StreamPassage", *, received: int, is_broken: bool) -> None:
        """Count a connection that the application had."""
        self._counter.received(
            Received(
                port=self.port,
                peer=passage.shown.peer if passage.shown else "",
                status=0,
                seconds=self._now() - passage.started,
                flag="DC" if is_broken else "",
                bytes_sent=passage.sent,
                bytes_received=received,
                is_stream=True,
            )
        )


class StreamPassage:
    """One connection in the application. Call ``end`` after it; nothing happens the second time. ``sent``: bytes that
    the application wrote so far.
    """

    __slots__ = ("_door", "_is_over", "sent", "shown", "started")

    def __init__(self, door: StreamDoor, shown: Shown | None, started: float) -> None:
        self._door, self._is_over = door, False
        self.shown, self.started = shown, started
        self.sent = 0

    def __repr__(self) -> str:
        return f"<StreamPassage of {self.shown.peer if self.shown else 'a plaintext caller'}>"

    def end(self, *, received: int = 0, is_broken: bool = False) -> None:
        """It is over."""
        if not self._is_over:
            self._is_over = True
            self._door.ended(self, received=received, is_broken=is_broken)
