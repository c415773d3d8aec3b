"""What the API asks of a control plane, as a Protocol: the HTTP layer knows nothing behind it.

Every method may raise PlaneError and nothing else; whatever else escapes is a defect and is answered with status 500.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from masche.api.access import CertificateList, CheckReport, MachineList, TokenCreated, TokenList, TokenRequest
from masche.api.explaining import Explanation, WhyRequest
from masche.api.messages import (
    Applied,
    Description,
    Differences,
    Document,
    EventPage,
    Item,
    Listing,
    MeshStatus,
    Rollout,
)
from masche.api.traffic import Edges, Graph, LiveMessage, Zones
from masche.model.diagnostic import Diagnostic
from masche.model.refs import Kind, Ref


class Fault(StrEnum):
    """Why a control plane refuses; each has one HTTP status (``api.answers``)."""

    INVALID = "invalid"
    """The documents or the question hold mistakes, which ``diagnostics`` name. Nothing was stored."""
    NOT_FOUND = "not-found"
    """What was asked for does not exist."""
    CONFLICT = "conflict"
    """The store moved meanwhile, or the thing is in a state that forbids it."""
    UNAVAILABLE = "unavailable"
    """The store cannot be read or written now, or the control plane is not synced yet."""


class PlaneError(Exception):
    """A refusal with its reason and cure, for a person."""

    def __init__(self, fault: Fault, message: str, *, fix: str = "", diagnostics: Sequence[Diagnostic] = ()) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.fix = fix
        self.diagnostics = tuple(diagnostics)


class Plane(Protocol):
    """A control plane as its API sees it. All methods run in the control plane's own event loop."""

    async def apply(self, documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Store all resources of all documents as one revision, or none. Raises INVALID with every error found."""
        ...

    async def delete(self, refs: Sequence[Ref], documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Delete the refs and all that the documents name, as one revision. Raises NOT_FOUND naming what is missing."""
        ...

    async def diff(self, documents: Sequence[Document]) -> Differences:
        """What ``apply`` would change, and nothing stored. Raises INVALID like ``apply``."""
        ...

    async def get(self, ref: Ref) -> Item:
        """One resource. Raises NOT_FOUND."""
        ...

    async def list(self, kind: Kind, *, namespace: str | None, labels: Mapping[str, str]) -> Listing:
        """Resources of a kind that have all ``labels``; ``namespace`` None is all namespaces. An empty list is fine."""
        ...

    async def describe(self, ref: Ref) -> Description:
        """Everything known about one resource. Raises NOT_FOUND."""
        ...

    async def progress(self, revision: int) -> Rollout:
        """How far a revision has come. One that this control plane has not reached is PENDING and not compiled."""
        ...

    async def status(self) -> MeshStatus:
        """The control plane and every proxy."""
        ...

    async def why(self, request: WhyRequest) -> Explanation:
        """Explain one call. Raises NOT_FOUND when the source does not exist; a missing destination is a verdict."""
        ...

    async def edges(self, *, window: float) -> Edges:
        """Calls per edge over the last ``window`` seconds (1 to 3600)."""
        ...

    async def zones(self, *, window: float) -> Zones:
        """The links between zones over the last ``window`` seconds, and what is steered between them now."""
        ...

    async def graph(self, *, window: float) -> Graph:
        """Services, their workloads and the edges between them over the last ``window`` seconds."""
        ...

    async def events(self, *, after: int, limit: int) -> EventPage:
        """Up to ``limit`` events with a sequence above ``after``."""
        ...

    def live(self, *, after: int) -> AsyncIterator[LiveMessage]:
        """Yield events after ``after`` as they happen, Edges once a second, the rest on change.

        Begins at once with a MeshStatus and a Graph. A slow reader loses what is between two Edges, Zones, Graphs
        and statuses, but no Event. Ends when the control plane stops; closing the iterator releases what it holds.
        """
        ...

    async def create_token(self, request: TokenRequest) -> TokenCreated:
        """Make a join token. Raises INVALID for names that are no DNS labels or a ttl beyond 24 hours."""
        ...

    async def tokens(self) -> TokenList:
        """All unspent, unexpired tokens."""
        ...

    async def revoke_token(self, token: str) -> None:
        """Forget a token by its id. Raises NOT_FOUND."""
        ...

    async def machines(self) -> MachineList:
        """All machines that joined."""
        ...

    async def revoke_machine(self, machine: str) -> None:
        """Refuse the machine's credential from now on and close its streams. Raises NOT_FOUND."""
        ...

    async def certificates(self) -> CertificateList:
        """All certificates in force."""
        ...

    async def check(self) -> CheckReport:
        """Look for what is wrong or risky in the control plane and the mesh."""
        ...
