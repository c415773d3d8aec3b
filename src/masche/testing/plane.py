"""A control plane that lives in memory: what the API, the command line and the dashboard are tried against.

It stores resources as they were written, judges only whether each has a kind and a name, and plays back what a test
put into its fields.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from masche.api.access import (
    CertificateList,
    CheckReport,
    MachineList,
    TokenCreated,
    TokenInfo,
    TokenList,
    TokenRequest,
)
from masche.api.explaining import Explanation, Step, Verdict, WhyRequest
from masche.api.messages import (
    Applied,
    Changed,
    Description,
    Difference,
    Differences,
    Document,
    Event,
    EventPage,
    Impact,
    Item,
    Listing,
    MeshStatus,
    PlaneFacts,
    Rollout,
    RolloutState,
    Verb,
)
from masche.api.plane import Fault, PlaneError
from masche.api.traffic import Edges, Graph, LiveMessage, Zones
from masche.model.diagnostic import Diagnostic, Place
from masche.model.refs import Kind, Ref

CLUSTER_SCOPED = frozenset({Kind.NAMESPACE, Kind.GATEWAY_CLASS, Kind.MESH_CONFIG})
NO_FACTS = PlaneFacts(version="0", revision=0, store="memory", trust_domain="mesh.local", uptime=1.0, started_at=1.0)
NO_STATUS = MeshStatus(plane=NO_FACTS, proxies=())
NO_TRAFFIC = Edges(at=1.0, window=10.0, edges=())
NO_ZONES = Zones(at=1.0, window=10.0)
NO_PICTURE = Graph(revision=0, at=1.0, window=10.0, nodes=(), edges=())
NO_MACHINES = MachineList(machines=())
NO_CERTIFICATES = CertificateList(certificates=())
NO_FINDINGS = CheckReport(findings=())


@dataclass(slots=True, kw_only=True)
class FakePlane:
    """Implements ``api.plane.Plane``. ``failure`` is raised by every method while it is set.

    ``rollouts`` are played back one per ``progress``, the last one for ever; without any, every revision is live.
    """

    items: dict[Ref, Item] = field(default_factory=dict[Ref, Item])
    revision: int = 0
    rollouts: list[Rollout] = field(default_factory=list[Rollout])
    impact: tuple[Impact, ...] = ()
    description: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mesh_status: MeshStatus = NO_STATUS
    explanation: Explanation | None = None
    traffic: Edges = NO_TRAFFIC
    between: Zones = NO_ZONES
    picture: Graph = NO_PICTURE
    log: list[Event] = field(default_factory=list[Event])
    happened: asyncio.Event = field(default_factory=asyncio.Event)
    unspent: dict[str, TokenInfo] = field(default_factory=dict[str, TokenInfo])
    joined: MachineList = NO_MACHINES
    revoked: list[str] = field(default_factory=list[str])
    issued: CertificateList = NO_CERTIFICATES
    report: CheckReport = NO_FINDINGS
    failure: Exception | None = None

    def happen(self, kind: str, message: str, *, about: str = "", severity: str = "info") -> None:
        """Add an event and wake the live streams."""
        sequence = len(self.log) + 1
        at = float(sequence)
        self.log.append(Event(sequence=sequence, at=at, kind=kind, severity=severity, about=about, message=message))
        self.happened.set()

    async def apply(self, documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Store what has a kind and a name."""
        self._fail()
        manifests = _read(documents)
        changed = tuple(Changed(ref=ref, verb=self._verb(ref, manifest)) for ref, manifest in manifests)
        if dry_run:
            return Applied(revision=self.revision, changed=changed, is_dry_run=True, impact=self.impact)
        if any(change.verb is not Verb.UNCHANGED for change in changed):
            self.revision += 1
        for ref, manifest in manifests:
            self._store(ref, manifest)
        return Applied(revision=self.revision, changed=changed)

    async def delete(self, refs: Sequence[Ref], documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Forget them, or none when one is missing."""
        self._fail()
        named = (*refs, *(ref for ref, _ in _read(documents)))
        for ref in named:
            self._find(ref)
        changed = tuple(Changed(ref=ref, verb=Verb.DELETED) for ref in named)
        if not dry_run:
            self.revision += 1
            for ref in named:
                self.items.pop(ref, None)
        return Applied(revision=self.revision, changed=changed, is_dry_run=dry_run)

    async def diff(self, documents: Sequence[Document]) -> Differences:
        """Name what differs, and show the new YAML as added lines."""
        self._fail()
        verbs = [(ref, self._verb(ref, manifest), manifest) for ref, manifest in _read(documents)]
        found = tuple(
            Difference(ref=ref, verb=verb, lines=tuple(f"+{line}" for line in yaml.safe_dump(manifest).splitlines()))
            for ref, verb, manifest in verbs
            if verb is not Verb.UNCHANGED
        )
        return Differences(revision=self.revision, differences=found)

    async def get(self, ref: Ref) -> Item:
        """What was stored."""
        self._fail()
        return self._find(ref)

    async def list(self, kind: Kind, *, namespace: str | None, labels: Mapping[str, str]) -> Listing:
        """What was stored, sorted."""
        self._fail()
        chosen = (
            item
            for ref, item in sorted(self.items.items(), key=lambda pair: str(pair[0]))
            if ref.kind is kind
            and namespace in {None, ref.namespace}
            and labels.items() <= item.manifest["metadata"].get("labels", {}).items()
        )
        return Listing(revision=self.revision, items=tuple(chosen))

    async def describe(self, ref: Ref) -> Description:
        """The item and what the test put into ``description``."""
        self._fail()
        return Description(item=self._find(ref), **self.description)

    async def progress(self, revision: int) -> Rollout:
        """The next of ``rollouts``."""
        self._fail()
        if revision > self.revision:
            return Rollout(revision=revision, state=RolloutState.PENDING, is_compiled=False)
        if not self.rollouts:
            return Rollout(revision=revision, state=RolloutState.LIVE)
        return self.rollouts.pop(0) if len(self.rollouts) > 1 else self.rollouts[0]

    async def status(self) -> MeshStatus:
        """What the test said."""
        self._fail()
        return self.mesh_status

    async def why(self, request: WhyRequest) -> Explanation:
        """What the test said, else a call that nothing forbids."""
        self._fail()
        return self.explanation or Explanation(
            verdict=Verdict.ALLOWED,
            summary=f"{request.source} may call {request.destination}",
            source=request.source,
            destination=request.destination,
            steps=(Step(stage="policy", is_passed=True, text="no policy applies"),),
        )

    async def edges(self, *, window: float) -> Edges:
        """What the test said."""
        self._fail()
        return Edges(at=self.traffic.at, window=window, edges=self.traffic.edges)

    async def zones(self, *, window: float) -> Zones:
        """What the test said."""
        self._fail()
        return Zones(at=self.between.at, window=window, links=self.between.links, shifts=self.between.shifts)

    async def graph(self, *, window: float) -> Graph:
        """What the test said."""
        self._fail()
        picture = self.picture
        return Graph(revision=picture.revision, at=picture.at, window=window, nodes=picture.nodes, edges=picture.edges)

    async def events(self, *, after: int, limit: int) -> EventPage:
        """From the log."""
        self._fail()
        found = tuple(event for event in self.log if event.sequence > after)[:limit]
        return EventPage(events=found, oldest=1 if self.log else 0, latest=len(self.log))

    async def live(self, *, after: int) -> AsyncIterator[LiveMessage]:
        """Status, picture and traffic once, then events as they happen."""
        self._fail()
        yield self.mesh_status
        yield self.picture
        yield self.traffic
        yield self.between
        while True:
            for event in self.log[after:]:
                yield event
            after = max(after, len(self.log))
            self.happened.clear()
            await self.happened.wait()

    async def create_token(self, request: TokenRequest) -> TokenCreated:
        """A token that opens nothing."""
        self._fail()
        if not 0 < request.ttl <= 86400:
            raise PlaneError(Fault.INVALID, f"a ttl of {request.ttl} s is not allowed", fix="choose up to 24 hours")
        token = TokenInfo(
            id=f"t{len(self.unspent) + 1}",
            namespaces=request.namespaces,
            service_accounts=request.service_accounts,
            created_at=1.0,
            expires_at=1.0 + request.ttl,
        )
        self.unspent[token.id] = token
        return TokenCreated(token=token, join_string=f"masche://127.0.0.1:15012#0123456789abcdef.{token.id}")

    async def tokens(self) -> TokenList:
        """Those made and not revoked."""
        self._fail()
        return TokenList(tokens=tuple(self.unspent.values()))

    async def revoke_token(self, token: str) -> None:
        """Forget it."""
        self._fail()
        if self.unspent.pop(token, None) is None:
            raise PlaneError(Fault.NOT_FOUND, f"there is no token {token}", fix="`masche token list` shows all")

    async def machines(self) -> MachineList:
        """What the test said."""
        self._fail()
        return self.joined

    async def revoke_machine(self, machine: str) -> None:
        """Note it in ``revoked``."""
        self._fail()
        if machine not in {known.machine for known in self.joined.machines}:
            raise PlaneError(
                Fault.NOT_FOUND, f"no machine {machine} has joined", fix="`masche cert machines` shows all"
            )
        self.revoked.append(machine)

    async def certificates(self) -> CertificateList:
        """What the test said."""
        self._fail()
        return self.issued

    async def check(self) -> CheckReport:
        """What the test said."""
        self._fail()
        return self.report

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _find(self, ref: Ref) -> Item:
        try:
            return self.items[ref]
        except KeyError:
            raise PlaneError(Fault.NOT_FOUND, f"there is no {ref}", fix=f"`masche get {ref.kind}` shows all") from None

    def _verb(self, ref: Ref, manifest: dict[str, Any]) -> Verb:
        if ref not in self.items:
            return Verb.CREATED
        return Verb.UNCHANGED if self.items[ref].manifest == manifest else Verb.CONFIGURED

    def _store(self, ref: Ref, manifest: dict[str, Any]) -> None:
        if self._verb(ref, manifest) is Verb.UNCHANGED:
            return
        created = self.items[ref].created_revision if ref in self.items else self.revision
        self.items[ref] = Item(ref=ref, revision=self.revision, created_revision=created, manifest=manifest)


def _read(documents: Sequence[Document]) -> list[tuple[Ref, dict[str, Any]]]:
    found: list[tuple[Ref, dict[str, Any]]] = []
    wrong: list[Diagnostic] = []
    for document in documents:
        try:
            found += [(_ref(manifest), manifest) for manifest in yaml.safe_load_all(document.text) if manifest]
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            place = Place(file=document.file, line=1, column=1)
            why = f"it is no resource: {error}"
            wrong.append(
                Diagnostic(code="no-resource", where=document.file, why=why, fix="give kind and name", place=place)
            )
    if wrong:
        raise PlaneError(Fault.INVALID, "nothing was stored", fix="correct the findings", diagnostics=wrong)
    return found


def _ref(manifest: dict[str, Any]) -> Ref:
    kind, metadata = Kind(manifest["kind"]), manifest["metadata"]
    namespace = "" if kind in CLUSTER_SCOPED else metadata.get("namespace", "default")
    return Ref(kind, namespace, metadata["name"])
