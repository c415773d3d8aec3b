"""What one edge needs of another, as Protocols: a Source of changes, a Writer, a clock.

The registry implements Source and Writer; whoever needs one names it here and imports no registry.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from masche.model.frozen import frozen
from masche.model.mesh import Resource
from masche.model.refs import Ref

Now = Callable[[], float]
"""Monotonic seconds."""


class ConflictError(Exception):
    """The store moved past the revision that the writer expected; nothing was written. Read again and retry."""


class StoreError(Exception):
    """The store refused or failed the write; nothing was acknowledged. The text says why and what to do."""


@frozen
class Entry:
    """One stored resource: the revision that last wrote it and the one that created it."""

    ref: Ref
    resource: Resource
    revision: int
    created_revision: int


@frozen
class Put:
    """Store this resource, whole."""

    resource: Resource


@frozen
class Delete:
    """Forget this resource; forgetting what is not there is no error."""

    ref: Ref


Edit = Put | Delete


@frozen
class Change:
    """What one commit did, in order. All of it belongs to one revision."""

    revision: int
    entries: tuple[Entry, ...] = ()
    deleted: tuple[Ref, ...] = ()


@frozen
class Snapshot:
    """Everything that is stored, as of ``revision``."""

    revision: int
    entries: tuple[Entry, ...]


class CompactedError(Exception):
    """A watch asked to resume from a revision that the log no longer has. Read a Snapshot and watch from there."""


class Source(Protocol):
    """Where resources come from."""

    async def snapshot(self) -> Snapshot:
        """Read everything. Raises StoreError when the store cannot be read."""
        ...

    def watch(self, *, after: int) -> AsyncIterator[Change]:
        """Yield every Change with a revision above ``after``, in order, each once, for ever.

        Raises CompactedError when ``after`` is older than the log.
        """
        ...

    async def close(self) -> None:
        """Stop watches and release what is held."""
        ...


class Writer(Protocol):
    """Where resources are written. All edits of one call become one revision, or none does."""

    async def commit(self, edits: Sequence[Edit], *, expect: int | None = None) -> Change:
        """Write all edits as one revision and return it once it is durable.

        An edit that changes nothing is dropped; when nothing is left the current revision is returned with an empty
        Change. Raises ConflictError when ``expect`` is given and is not the current revision, StoreError when the
        write failed.
        """
        ...


class Records(Protocol):
    """Small private records that are not resources: join tokens, machine credentials, issued serials.

    Values are bytes; a record never appears in a Snapshot or a watch.
    """

    async def get(self, bucket: str, key: str) -> bytes | None:
        """Return the record, or None."""
        ...

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Write it, durable on return."""
        ...

    async def create(self, bucket: str, key: str, value: bytes) -> bool:
        """Write it only if it is not there; say whether it was written. Atomic across processes."""
        ...

    async def take(self, bucket: str, key: str) -> bytes | None:
        """Delete it and return what it was; of many concurrent takers exactly one gets it."""
        ...

    async def list(self, bucket: str) -> dict[str, bytes]:
        """All records of a bucket by key."""
        ...
