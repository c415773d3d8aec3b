"""What became of what was sent: the words that the parts of the xDS protocol say to each other and to the outside.

Nothing here decides anything; every value is frozen.
"""

from collections.abc import Sequence
from enum import StrEnum

from masche.model.blob import Blob
from masche.model.frozen import frozen
from masche.model.refs import Ref
from masche.xds.limits import Violation


@frozen
class Send:
    """One response to write. ``version`` is that of the whole response and only set for the state of the world."""

    type_url: str
    nonce: str
    blobs: tuple[Blob, ...] = ()
    removed: tuple[str, ...] = ()
    version: str = ""

    def __repr__(self) -> str:
        kind = self.type_url.rpartition(".")[2]
        return f"<Send {self.nonce} {kind}: {len(self.blobs)} resources, {len(self.removed)} removed>"


@frozen
class Rejection:
    """One resource that the proxy refused, in the proxy's own words. ``name`` "" is a refusal that names nothing."""

    type_url: str
    name: str
    version: str
    why: str
    refs: frozenset[Ref] = frozenset()


@frozen
class Decision:
    """What to do now: write these, in this order; record those; end the stream if there is a violation.

    ``has_settled`` says that the proxy answered something, so that what it holds may have changed.
    """

    sends: Sequence[Send] = ()
    rejected: Sequence[Rejection] = ()
    has_settled: bool = False
    violation: Violation | None = None


class Sync(StrEnum):
    """How far one type of one proxy is, named after what is waited for. REJECTED: all else is in sync."""

    IN_SYNC = "in sync"
    PENDING = "pending"
    SENT = "sent"
    REJECTED = "rejected"


@frozen
class TypeStatus:
    """One type on one stream. ``held`` counts resources that the proxy acknowledged."""

    type_url: str
    sync: Sync
    held: int
    rejections: tuple[Rejection, ...] = ()
