"""The control plane as its API sees it: each question goes to the part that knows the answer.

Implements ``api.plane.Plane``. ``control.reading`` and ``control.writing`` know resources, ``control.measures`` knows
traffic; here are the rest and the seams between them.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from masche.api.access import (
    CertificateInfo,
    CertificateList,
    CheckReport,
    MachineInfo,
    MachineList,
    TokenCreated,
    TokenInfo,
    TokenList,
    TokenRequest,
)
from masche.api.explaining import Explanation, WhyRequest
from masche.api.messages import (
    Applied,
    Description,
    Differences,
    Document,
    Event,
    EventPage,
    Item,
    LeaseFacts,
    Listing,
    MeshStatus,
    PlaneFacts,
    Rollout,
)
from masche.api.plane import Fault, PlaneError
from masche.api.traffic import Edges, Graph, LiveMessage, Zones
from masche.control.asking import explain
from masche.control.checking import check
from masche.control.parts import Parts
from masche.control.picture import graph
from masche.identity.authority import Authority
from masche.identity.credential import MachineRecord
from masche.identity.join import Grant, JoinError, JoinString, public_id
from masche.model.diagnostic import Diagnostic
from masche.model.refs import Kind, Name, Ref
from masche.telemetry.events import Events
from masche.version import VERSION

LIVE_INTERVAL = 1.0
LIVE_WINDOW = 5.0
LONGEST_TOKEN = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ControlPlane:
    """The parts of one control plane, and what the API asks of them. ``started_at`` is Unix seconds."""

    parts: Parts
    link_address: str
    joining_address: str
    started_at: float

    @classmethod
    def of(cls, parts: Parts, *, link_address: str, joining_address: str) -> "ControlPlane":
        """A control plane that starts now and listens at these addresses."""
        return cls(
            parts=parts,
            link_address=link_address,
            joining_address=joining_address,
            started_at=parts.ground.wall(),
        )

    # -- resources ------------------------------------------------------------------------------------------------

    async def apply(self, documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Store all resources of all documents as one revision, or none."""
        return await self.parts.writing.apply(documents, dry_run=dry_run)

    async def delete(self, refs: Sequence[Ref], documents: Sequence[Document], *, dry_run: bool) -> Applied:
        """Delete the refs and all that the documents name."""
        return await self.parts.writing.delete(refs, documents, dry_run=dry_run)

    async def diff(self, documents: Sequence[Document]) -> Differences:
        """What ``apply`` would change."""
        return await self.parts.writing.diff(documents)

    async def get(self, ref: Ref) -> Item:
        """One resource."""
        return await self.parts.reading.get(ref)

    async def list(self, kind: Kind, *, namespace: str | None, labels: Mapping[str, str]) -> Listing:
        """Resources of a kind."""
        return await self.parts.reading.list(kind, namespace=namespace, labels=labels)

    async def describe(self, ref: Ref) -> Description:
        """Everything known about one resource."""
        return await self.parts.reading.describe(ref)

    async def progress(self, revision: int) -> Rollout:
        """How far a revision has come."""
        return await self.parts.reading.progress(revision)

    # -- the mesh -------------------------------------------------------------------------------------------------

    async def status(self) -> MeshStatus:
        """The control plane and every proxy."""
        return MeshStatus(plane=self._facts(), proxies=self.parts.reading.proxies())

    def _facts(self) -> PlaneFacts:
        leases = self.parts.vigil.facts()
        now = self.parts.ground.wall()
        return PlaneFacts(
            version=VERSION,
            revision=self.parts.world.revision,
            store=f"sqlite {self.parts.ground.options.data / 'masche.db'}",
            trust_domain=self.parts.ground.authority.trust_domain,
            uptime=now - self.started_at,
            started_at=self.started_at,
            data_folder=str(self.parts.ground.options.data),
            link_address=self.link_address,
            leases=LeaseFacts(is_counting=leases.is_counting, held_back=leases.held_back, reason=leases.reason),
            waiting_for=tuple(self.parts.world.waiting_for()),
            findings=tuple(self._findings()),
            panics=tuple(sentence for _, sentence in sorted(self.parts.measures.helm.panics.items())),
        )

    def _findings(self) -> Iterator[Diagnostic]:
        """What of the resources is not carried out, and what of a watched folder cannot be read."""
        for status in self.parts.reading.statuses().values():
            yield from status.diagnostics
        if self.parts.folder is not None:
            yield from self.parts.folder.diagnostics

    async def why(self, request: WhyRequest) -> Explanation:
        """Explain one call."""
        await self.parts.world.synced.wait()
        return explain(self.parts.world, self.parts.measures.flows, request)

    async def edges(self, *, window: float) -> Edges:
        """Calls per edge."""
        return Edges(at=self.parts.ground.wall(), window=window, edges=self.parts.measures.flows.edges(window))

    async def zones(self, *, window: float) -> Zones:
        """Calls per link between zones."""
        return self.parts.measures.flows.zones(window, at=self.parts.ground.wall())

    async def graph(self, *, window: float) -> Graph:
        """The picture."""
        await self.parts.world.synced.wait()
        return graph(
            self.parts.world,
            self.parts.reading.proxies(),
            self.parts.measures.flows.edges(window),
            at=self.parts.ground.wall(),
            window=window,
        )

    async def events(self, *, after: int, limit: int) -> EventPage:
        """Events with a sequence above ``after``."""
        return _page(self.parts.events, after, limit)

    async def live(self, *, after: int) -> AsyncIterator[LiveMessage]:
        """Everything as it happens."""
        last_status: MeshStatus | None = None
        last_graph: Graph | None = None
        last_zones: Zones | None = None
        while True:
            status = await self.status()
            if last_status is None or _standing(status) != _standing(last_status):
                last_status = status
                yield status
            picture = await self.graph(window=LIVE_WINDOW)
            if last_graph is None or picture.nodes != last_graph.nodes:
                last_graph = picture
                yield picture
            page = _page(self.parts.events, after, 1000)
            for event in page.events:
                after = event.sequence
                yield event
            yield Edges(at=picture.at, window=LIVE_WINDOW, edges=picture.edges)
            zones = await self.zones(window=LIVE_WINDOW)
            if last_zones is None or (zones.links, zones.shifts) != (last_zones.links, last_zones.shifts):
                last_zones = zones
                yield zones
            await self.parts.events.wait(after=after, timeout=LIVE_INTERVAL)

    # -- identity ---------------------------------------------------------------------------------------------------

    async def create_token(self, request: TokenRequest) -> TokenCreated:
        """Make a join token."""
        if not 0 < request.ttl <= LONGEST_TOKEN:
            raise PlaneError(
                Fault.INVALID, f"a token lives up to 24 h, not {request.ttl:g} s", fix="choose a shorter --ttl"
            )
        now = self.parts.ground.wall()
        grant = Grant(namespaces=request.namespaces, service_accounts=request.service_accounts)
        try:
            secret = await self.parts.tokens.issue(grant, now=now, lifetime=request.ttl)
        except JoinError as error:
            raise PlaneError(Fault.INVALID, str(error)) from error
        key = public_id(secret)
        kept = (await self.parts.tokens.unspent(now=now))[key]
        host, _, port = self.joining_address.rpartition(":")
        joining = JoinString(
            host=host.strip("[]"), port=int(port), root=self.parts.ground.authority.bundle.fingerprints[0], token=secret
        )
        return TokenCreated(token=_token(key, kept), join_string=joining.reveal())

    async def tokens(self) -> TokenList:
        """All unspent tokens."""
        found = await self.parts.tokens.unspent(now=self.parts.ground.wall())
        return TokenList(tokens=tuple(_token(key, grant) for key, grant in sorted(found.items())))

    async def revoke_token(self, token: str) -> None:
        """Forget a token."""
        if not await self.parts.tokens.withdraw(token):
            raise PlaneError(
                Fault.NOT_FOUND, f"there is no unspent token {token}", fix="`masche token list` shows them"
            )

    async def machines(self) -> MachineList:
        """All machines that joined, and the control plane's own when its agent runs."""
        records = await self.parts.ground.machines.load()
        local = [name for name, session in self.parts.agents.machines.items() if session.peer.is_local]
        rows = [self._machine(name, records.get(name)) for name in sorted({*records, *local})]
        return MachineList(machines=tuple(rows))

    def _machine(self, name: str, record: MachineRecord | None) -> MachineInfo:
        grant = record.grant if record else Grant()
        session = self.parts.agents.machines.get(name)
        return MachineInfo(
            machine=name,
            namespaces=grant.namespaces,
            service_accounts=grant.service_accounts,
            joined_at=grant.created_at,
            expires_at=record.not_after if record else 0.0,
            is_connected=session is not None,
            is_revoked=name in self.parts.ground.machines.revoked,
            address=session.peer.address if session else "",
            agent_version=session.agent_version if session else "",
            workloads=sum(len(each.workloads) for each in self.parts.world.registrations.of_machine(name)),
        )

    async def revoke_machine(self, machine: str) -> None:
        """Refuse a machine from now on and close its streams."""
        if not await self.parts.ground.machines.revoke(machine, why="revoked by a person"):
            raise PlaneError(Fault.NOT_FOUND, f"there is no machine {machine}", fix="`masche cert machines` lists them")
        await self.parts.agents.expel(machine)
        self.parts.events.add(
            kind="machine-revoked", severity="warning", about=machine, message=f"machine {machine} is revoked"
        )

    async def certificates(self) -> CertificateList:
        """All certificates in force."""
        return CertificateList(certificates=(*_authorities(self.parts.ground.authority), *self._leaves()))

    def _leaves(self) -> Sequence[CertificateInfo]:
        own = self.parts.identity.issued
        rows = [
            CertificateInfo(
                use="control-plane",
                identity=str(own.identity),
                holder="control plane",
                serial=own.serial,
                fingerprint="",
                not_before_at=own.not_before,
                expires_at=own.not_after,
            )
        ]
        for proxy in self.parts.reading.proxies():
            if proxy.certificate_expires_at:
                rows.append(
                    CertificateInfo(
                        use="workload",
                        identity=proxy.identity,
                        holder=proxy.workload,
                        serial=self.parts.measures.certificate_serial(_name(proxy.workload)),
                        fingerprint="",
                        not_before_at=0.0,
                        expires_at=proxy.certificate_expires_at,
                    )
                )
        return rows

    async def check(self) -> CheckReport:
        """Look for what is wrong or risky."""
        return check(await self.status(), now=self.parts.ground.wall(), mesh=self.parts.world.newest)


def _authorities(authority: Authority) -> Sequence[CertificateInfo]:
    return [
        CertificateInfo(
            use="root",
            identity=f"spiffe://{authority.trust_domain}",
            holder="authority",
            serial=f"{root.serial_number:x}",
            fingerprint=pin,
            not_before_at=root.not_valid_before_utc.timestamp(),
            expires_at=root.not_valid_after_utc.timestamp(),
            issuer=root.issuer.rfc4514_string(),
        )
        for root, pin in zip(authority.bundle.roots, authority.bundle.fingerprints, strict=True)
    ]


def _name(text: str) -> Name:
    namespace, _, name = text.rpartition("/")
    return Name(namespace, name)


def _token(key: str, grant: Grant) -> TokenInfo:
    return TokenInfo(
        id=key,
        namespaces=grant.namespaces,
        service_accounts=grant.service_accounts,
        created_at=grant.created_at,
        expires_at=grant.expires_at,
    )


def _page(log: Events, after: int, limit: int) -> EventPage:
    found = tuple(
        Event(
            sequence=each.sequence,
            at=each.at,
            kind=each.kind,
            severity=each.severity,
            about=each.about,
            message=each.message,
        )
        for each in log.after(after, limit=limit)
    )
    return EventPage(events=found, oldest=log.oldest, latest=log.latest)


def _standing(status: MeshStatus) -> MeshStatus:
    """A status without what changes by itself."""
    return msgspec.structs.replace(status, plane=msgspec.structs.replace(status.plane, uptime=0.0))
