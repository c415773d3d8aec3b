"""Calls that want a connection instead of an answer: what both kinds of them have in common.

A connection to a TCP service is a call of the pipeline: routed and split by the tables, balanced, limited and ejected
as requests are, and tried at other instances until one can be connected to. It counts as under way until it is closed.
Invariant: nothing of the mesh is connected to in plaintext unless the mesh itself says so, and nothing else at all.
"""

import errno
from typing import Final

from masche.library.core.exchange import Answer, Asked, Blame, Head
from masche.library.core.facade import Facade
from masche.library.core.ports import Called, MeshError, Recorder, Tried
from masche.library.core.router import STREAM
from masche.traffic.request import Request

CONNECTED: Final = Head(200, ())
"""What a connection that was made counts as, for the pipeline."""


class NotConnectedError(MeshError, ConnectionError):
    """No connection was made, and why: the mesh's own word, which is an OSError, too, as clients expect it."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.ECONNREFUSED, why)


def asked(host: str, port: int, timeout: float | None) -> Asked:
    """Return the call for a connection to ``port`` of the service called ``host``."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Asked(Request(method="CONNECT", target="", authority=authority, scheme=STREAM), timeout or 0.0)


def outside(request: Request) -> NotConnectedError:
    """What is no service of the mesh is not connected to."""
    return NotConnectedError(f"{request.authority} is no service of the mesh that this process may call")


def refused(answer: Answer) -> NotConnectedError:
    """What the mesh itself answers."""
    return NotConnectedError(answer.body.decode(errors="replace").strip() or f"the mesh answered {answer.status}")


def blame(error: Exception) -> Blame:
    """Say what an exception of an attempt means: whatever it was, no application has seen anything."""
    match error:
        case MeshError() if not isinstance(error, OSError):
            return Blame.OURS
        case OSError():  # TimeoutError and ssl.SSLError are OSErrors
            return Blame.UNREACHED
        case _:
            return Blame.OURS


class Streams:
    """Counts one connection: a Recorder that tells another of a stream instead of a request.

    How long a connection takes to be made says nothing of how long a service takes, so attempts are not told. ``sent``
    says how many bytes it carried away.
    """

    __slots__ = ("_recorder", "sent")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.sent = 0

    def tried(self, tried: Tried) -> None:
        """Nothing."""

    def called(self, called: Called) -> None:
        """The connection has ended, or was never made."""
        self._recorder.called(
            Called(
                cluster=called.cluster,
                rule=called.rule,
                status=called.status,
                seconds=called.seconds,
                flag=called.flag,
                bytes_sent=self.sent,
                bytes_received=called.bytes_received,
                is_stream=True,
            )
        )


def counting(facade: Facade, streams: Streams) -> Facade:
    """Return the mesh of ``facade``, and what it has learnt, for one connection."""
    made = Facade(
        knowledge=facade.knowledge,
        identity=facade.identity,
        recorder=streams,
        options=facade.options,
        now=facade.now,
        rng=facade.rng,
    )
    made.channels = facade.channels
    return made
