"""The mesh as the adapters of one process hold it: what is known, who we are, who counts, and how calls are made.

Invariant: there is one for a process, or for a test; all its clients share what was learnt of the services they call.
"""

from collections.abc import Callable
from random import Random
from time import monotonic

from masche.library.core.channel import Channels
from masche.library.core.ports import Identity, Knowledge, Known, Now, Recorder
from masche.library.core.tracing import Traces
from masche.model.frozen import frozen
from masche.traffic.chance import Chance


@frozen
class CallOptions:
    """How calls are made, whatever they call.

    ``caller`` names this process to others (verdicts) and is what its calls stick by (``SourceIP``). ``known_as`` says
    by which name the control plane knows it, by which subsets are chosen; "" is as the caller. ``patience``:
    seconds for which a call waits until something is known of whom it calls. At most ``max_beside`` copies and
    mirrored requests are under way at a time, more are left out. ``trace_sampling``: the part (0 to 1) of the traces
    begun here that are marked as recorded.
    """

    caller: str = ""
    known_as: Callable[[], str] = str
    patience: float = 10.0
    max_beside: int = 64
    trace_sampling: float = 0.01


class Facade:
    """What a transport is given; ``masche.library.resident.facade()`` makes the one of this process."""

    __slots__ = ("channels", "identity", "knowledge", "now", "options", "recorder", "rng", "traces")

    def __init__(
        self,
        *,
        knowledge: Knowledge,
        identity: Identity,
        recorder: Recorder,
        options: CallOptions | None = None,
        now: Now = monotonic,
        rng: Chance | None = None,
    ) -> None:
        self.knowledge = knowledge
        self.identity = identity
        self.recorder = recorder
        self.options = options or CallOptions()
        self.now = now
        self.rng: Chance = rng or Random()  # noqa: S311 - it spreads load, and keeps no secret
        self.traces = Traces(self.rng, self.options.trace_sampling)
        self.channels = Channels(caller=self.options.caller, known_as=self.options.known_as)

    def prepare(self, known: Known) -> None:
        """Take over what is known now, so that no call has to: of a thousand instances it takes longer than an event
        loop may be held up. For whatever thread it becomes known in.
        """
        self.channels.routes(known, now=self.now)

    def __repr__(self) -> str:
        waiting = self.knowledge.waiting_for()
        waits = f", waiting for {waiting}" if waiting else ""
        return f"<Facade of {self.identity.spiffe_id or 'nobody yet'}{waits}: {self.channels!r}>"
