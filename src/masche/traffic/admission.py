"""Whether a call is worth sending at all to a callee that refuses most of them: throttling at the client.

The SRE Book, chapter "Handling Overload", "Client-Side Throttling": a call is rejected at once with the probability
max(0, (requests - K * accepts) / (requests + 1)), where ``requests`` also counts those rejected here. With K = 2 twice
as many calls are sent as are accepted. Of a callee that refuses everything the formula alone would let nothing through
and so not see its recovery; as in Envoy's admission control filter (``max_rejection_probability``, 80 %) there is a
most that is rejected. All calls pass again after 1.3 windows at the most.
Invariant: while at least one of K calls is accepted nothing is rejected.
"""

from masche.traffic.chance import Chance
from masche.traffic.window import Sum


class Admission:
    """The throttle of one caller towards one callee. ``k`` above 1; ``most`` (0 to below 1) is the highest probability
    of a rejection; ``window`` in seconds (the book: two minutes; here as short as an outage may be
    remembered). With fewer than ``min_calls`` in it nothing is rejected: they say too little.
    """

    __slots__ = ("_accepts", "_k", "_min_calls", "_most", "_requests")

    def __init__(self, *, k: float = 2.0, window: float = 0.75, most: float = 0.8, min_calls: int = 10) -> None:
        if k <= 1 or not 0 <= most < 1:
            raise ValueError("k must be above 1, else calls are rejected that would all be accepted; most below 1")
        self._k = k
        self._most = most
        self._min_calls = min_calls
        self._requests = Sum(window)
        self._accepts = Sum(window)

    def __repr__(self) -> str:
        return f"<Admission {self._accepts} accepted of {self._requests}, K {self._k:g}>"

    def rejection(self, *, now: float) -> float:
        """The probability with which a call is rejected now."""
        requests, accepts = self._requests.total(now=now), self._accepts.total(now=now)
        if requests < self._min_calls:
            return 0.0
        return min(self._most, max(0.0, (requests - self._k * accepts) / (requests + 1.0)))

    def start(self, *, now: float, rng: Chance) -> bool:
        """Count a call, and say whether to send it; when not, settle it as REFUSED without telling ``accepted``."""
        probability = self.rejection(now=now)
        self._requests.add(1.0, now=now)
        return probability <= 0.0 or rng.random() >= probability

    def accepted(self, *, now: float) -> None:
        """Count a call that the callee took on: it answered anything but that it has no room."""
        self._accepts.add(1.0, now=now)
