"""How an answer says "do not repeat this": the word of a tier that has spent its repeats to the tier above it.

Without it the repeats of tiers multiply (three tiers of four tries: 64 calls for one). The SRE Book's rule (chapter
"Handling Overload") is that only the layer right above the one that rejects repeats; when it gives up, it answers
"overloaded; don't retry". We say it in the words that each protocol's clients already obey:

- gRPC: ``grpc-retry-pushback-ms: -1``. gRFC A6: "If the value for pushback is negative or unparseble, then it will be
  seen as the server asking the client not to retry at all", else it is "how many milliseconds to wait".
- HTTP, and gRPC, too, as an Envoy may stand between: ``x-envoy-ratelimited``. Envoy 1.40 does not repeat such an
  answer even if its code is listed (unless told ``envoy-ratelimited``); it heeds neither the header of gRPC nor an
  ``x-envoy-overloaded`` that comes from upstream.

Read are all three, whatever the protocol. Only an answer of a verified peer should be believed.
"""

import re

from masche.model.frozen import frozen
from masche.traffic.request import Headers

GRPC_PUSHBACK = "grpc-retry-pushback-ms"
RATELIMITED = "x-envoy-ratelimited"
OVERLOADED = "x-envoy-overloaded"
SPENT = (RATELIMITED, "1")
"""What is added to an answer that nobody above should have repeated, in Envoy's own writing."""

_MILLISECONDS = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_LARGEST = 2**31 - 1


@frozen(kw_only=False)
class Pushback:
    """What the callee asks: repeat after ``after`` seconds, or (None) not at all."""

    after: float | None = None

    @property
    def forbids(self) -> bool:
        """Must it not be repeated at all?"""
        return self.after is None


DO_NOT_REPEAT = Pushback()


def read(headers: Headers) -> Pushback | None:
    """What an answer's headers (or trailers) ask; None when they say nothing. One that forbids wins."""
    found: Pushback | None = None
    for name, value in headers:
        if name in {RATELIMITED, OVERLOADED}:
            return DO_NOT_REPEAT
        if name == GRPC_PUSHBACK:
            found = _milliseconds(value)
            if found.forbids:
                return found
    return found


def spoken(*, is_grpc: bool) -> Headers:
    """The headers with which an answer tells the caller not to repeat it."""
    envoys = (RATELIMITED, "true")
    return ((GRPC_PUSHBACK, "-1"), envoys) if is_grpc else (envoys,)


def _milliseconds(value: str) -> Pushback:
    if not _MILLISECONDS.fullmatch(value) or int(value) > _LARGEST:
        return DO_NOT_REPEAT
    return Pushback(int(value) / 1000)
