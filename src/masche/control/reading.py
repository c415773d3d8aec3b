"""What people read: resources with what became of them, every proxy, and how far a revision has come.

Nothing here changes anything; status is told from what the proxies themselves acknowledged.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from masche.api.messages import (
    Condition,
    Description,
    Effective,
    EndpointRow,
    Item,
    Listing,
    PortFact,
    ProxyRejection,
    ProxyStatus,
    Rejection,
    Rollout,
    RolloutProxy,
    RolloutState,
)
from masche.api.plane import Fault, PlaneError
from masche.compiler.limits import amount, of_service
from masche.compiler.protocol import protocol
from masche.compiler.trafficpolicy import told, traffic
from masche.compiler.view import statuses
from masche.control.naming import naming
from masche.control.registrations import Registration
from masche.control.world import Proxy, World
from masche.control.writing import stored
from masche.identity.spiffe import SpiffeId
from masche.model.calling import UNSAID
from masche.model.codec import to_json
from masche.model.diagnostic import Status
from masche.model.mesh import Mesh, Resource
from masche.model.refs import Kind, Name, PortRef, Ref
from masche.model.resources.core import Service
from masche.model.resources.workload import Workload
from masche.model.vantage import Placement
from masche.registry.merge import TABLES
from masche.xds import verdict

MOST_NAMED = 3
"""So many workloads of one proxy are named where there is room for one."""

SILENT = "its Envoy does not answer (stopped, or hanging), so no call gets through it"


class Reading:
    """Answers about resources, proxies and rollouts. ``expiry``: when a certificate ends, in Unix seconds."""

    def __init__(self, *, world: World, expiry: Callable[[Name], float]) -> None:
        self._world = world
        self._expiry = expiry
        self._statuses: tuple[Mesh | None, dict[Ref, Status]] = (None, {})

    # -- resources ------------------------------------------------------------------------------------------------

    async def get(self, ref: Ref) -> Item:
        """One resource."""
        await self._world.synced.wait()
        return self._item(self._stored(ref))

    async def list(self, kind: Kind, *, namespace: str | None, labels: Mapping[str, str]) -> Listing:
        """Resources of a kind, sorted."""
        await self._world.synced.wait()
        found = [
            resource
            for resource in _all(self._world.newest, kind)
            if namespace in {None, resource.name.namespace} and labels.items() <= dict(resource.metadata.labels).items()
        ]
        return Listing(revision=self._world.revision, items=tuple(self._item(each) for each in found))

    async def describe(self, ref: Ref) -> Description:
        """Everything known about one resource."""
        await self._world.synced.wait()
        resource = self._stored(ref)
        status = self.statuses().get(ref)
        is_service = isinstance(resource, Service)
        return Description(
            item=self._item(resource),
            conditions=_conditions(status),
            diagnostics=status.diagnostics if status else (),
            effective=tuple(self._effective(resource)) if is_service else (),
            endpoints=tuple(self._endpoints(resource)) if is_service else (),
            rejected=tuple(self._rejections_of(ref)),
        )

    def statuses(self) -> dict[Ref, Status]:
        """What became of each resource when the mesh was compiled; made once per Mesh."""
        mesh = self._world.mesh
        if self._statuses[0] is not mesh:
            self._statuses = (mesh, {status.ref: status for status in statuses(mesh)})
        return self._statuses[1]

    def _stored(self, ref: Ref) -> Resource:
        resource = stored(self._world.newest, ref)
        if resource is None:
            near = sorted(str(each.name) for each in _all(self._world.newest, ref.kind))[:8]
            fix = f"there are {', '.join(near)}" if near else f"no {ref.kind} is stored yet"
            raise PlaneError(Fault.NOT_FOUND, f"there is no {ref}", fix=fix)
        return resource

    def _item(self, resource: Resource) -> Item:
        revision, created = self._world.written.get(resource.ref, (0, 0))
        return Item(
            ref=resource.ref,
            revision=revision,
            created_revision=created,
            manifest=_manifest(resource),
            conditions=_conditions(self.statuses().get(resource.ref)),
        )

    def _effective(self, service: Service) -> Iterable[Effective]:
        mesh = self._world.mesh
        made = traffic(mesh.services, mesh.traffic_policies, mesh.config).get(service.name, UNSAID)
        for port in service.spec.ports:
            origins = {field: str(origin) for field, origin in made.origins}
            for field, value in told(made):
                yield Effective(port=port.port, field=field, value=value, origin=origins.get(field, "default"))
            for limit in of_service(mesh, service) if protocol(port).is_http else ():
                yield Effective(port=port.port, field="limit", value=amount(limit), origin=str(limit.origins[0]))

    def _endpoints(self, service: Service) -> Iterable[EndpointRow]:
        for port in service.spec.ports:
            found = self._world.compilation.endpoints(PortRef(*service.name, port.port), "")
            for locality in found.localities:
                for each in locality.endpoints:
                    yield EndpointRow(
                        port=port.port,
                        workload=each.workload,
                        address=f"{each.address}:{each.port}",
                        zone=locality.zone,
                        health=each.health.value,
                        weight=each.weight,
                        is_mtls=each.is_mtls,
                    )

    def _rejections_of(self, ref: Ref) -> Iterable[ProxyRejection]:
        for proxy in self._world.proxies.values():
            for refusal in proxy.progress.refusals.values():
                if ref in refusal.rejection.refs:
                    yield ProxyRejection(
                        proxy=proxy.name, workload=self._workload_of(proxy.name), rejection=_said(refusal.rejection)
                    )

    def _workload_of(self, proxy: str) -> str:
        """Whom a proxy serves; of many, how many."""
        registration = self._world.registrations.get(proxy)
        names = [str(name) for name in registration.workloads] if registration else []
        return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} workloads"

    # -- proxies --------------------------------------------------------------------------------------------------

    def proxies(self) -> tuple[ProxyStatus, ...]:
        """Every registered proxy, and every Workload whose agent is away."""
        here = [status for registration in self._world.registrations for status in self._registered(registration)]
        known = {status.workload for status in here}
        away = [
            self._absent(workload)
            for workload in self._world.newest.workloads.values()
            if workload.status is not None and str(workload.name) not in known
        ]
        return tuple(sorted((*here, *away), key=lambda status: (status.workload, status.proxy)))

    def _registered(self, registration: Registration) -> Iterable[ProxyStatus]:
        state, report = registration.state, registration.report
        proxy = self._world.proxy(state.proxy)
        for occupant in state.occupants:
            workload = occupant.seat.workload
            rejections = tuple(_rejections(proxy, registration, workload))
            is_silent = occupant.state.phase != "STARTING" and _is_silent(registration)
            yield ProxyStatus(
                proxy=state.proxy,
                workload=str(workload),
                service=service_of(self._world.newest, workload),
                placement=state.placement.value,
                machine=registration.machine,
                zone=occupant.zone,
                identity=self._identity(workload.namespace, occupant.service_account),
                certificate_expires_at=self._expiry(workload),
                state=occupant.state.phase,
                is_connected=proxy.is_connected,
                is_in_sync=_is_up_to_date(proxy, self._world.revision) and not rejections,
                revision=max(0, proxy.progress.live),
                address=occupant.address,
                ports=tuple(
                    PortFact(name=each.name, app_port=each.port, mesh_port=each.mesh_port) for each in occupant.ports
                ),
                last_error=occupant.state.reason or (SILENT if is_silent else ""),
                rejections=rejections,
                is_exposed=occupant.exposed or bool(report and report.exposed and not _is_node(registration)),
                is_silent=is_silent,
                envoy_version=report.envoy_version if report and report.envoy_version else state.envoy_version,
                connected_since_at=proxy.connected_at if proxy.is_connected else 0.0,
            )

    def _absent(self, workload: Workload) -> ProxyStatus:
        status, spec = workload.status, workload.spec
        return ProxyStatus(
            proxy=status.proxy if status else "",
            workload=str(workload.name),
            service=service_of(self._world.newest, workload.name),
            placement=spec.placement.value if spec.placement else "",
            machine=status.machine if status else "",
            zone=spec.zone,
            identity=self._identity(workload.name.namespace, spec.service_account),
            certificate_expires_at=self._expiry(workload.name),
            state=workload.state.value,
            is_connected=False,
            is_in_sync=False,
            revision=0,
            address=spec.address,
            last_error=status.reason if status else "",
            is_exposed=bool(status and status.exposed),
        )

    def _identity(self, namespace: str, account: str) -> str:
        return str(SpiffeId.of_workload(self._world.trust_domain, namespace, account))

    # -- rollouts ---------------------------------------------------------------------------------------------------

    async def progress(self, revision: int) -> Rollout:
        """How far a revision has come."""
        await self._world.synced.wait()
        rollouts = self._world.rollouts
        if revision <= rollouts.forgotten_up_to():
            raise PlaneError(Fault.NOT_FOUND, f"revision {revision} is too old to be remembered")
        compilation = rollouts.compilation_of(revision)
        if compilation is None:
            return Rollout(revision=revision, state=RolloutState.PENDING, is_compiled=False)
        sorted_out: dict[str, list[RolloutProxy]] = {"live": [], "rejected": [], "pending": [], "absent": []}
        for name in sorted(rollouts.affected(compilation)):
            where, row = self._row(name, compilation)
            sorted_out[where].append(row)
        state = RolloutState.PENDING if sorted_out["pending"] else RolloutState.LIVE
        return Rollout(
            revision=revision,
            state=RolloutState.REJECTED if sorted_out["rejected"] else state,
            live=tuple(sorted_out["live"]),
            rejected=tuple(sorted_out["rejected"]),
            pending=tuple(sorted_out["pending"]),
            absent=tuple(sorted_out["absent"]),
        )

    def _row(self, name: str, compilation: int) -> tuple[str, RolloutProxy]:
        proxy, registration = self._world.proxy(name), self._world.registrations.get(name)
        workload, machine = self._workload_of(name), registration.machine if registration else ""
        refused = proxy.progress.refused_since(compilation)
        if refused:
            rejections = tuple(_said(each) for each in refused)
            return "rejected", RolloutProxy(proxy=name, workload=workload, machine=machine, rejections=rejections)
        if not proxy.is_connected:
            return "absent", RolloutProxy(proxy=name, workload=workload, machine=machine)
        warming = registration.report.warming if registration and registration.report else ()
        if proxy.progress.live >= compilation:
            return "live", RolloutProxy(proxy=name, workload=workload, machine=machine)
        waiting = f"warming {', '.join(warming)}" if warming else "an acknowledgement"
        return "pending", RolloutProxy(proxy=name, workload=workload, machine=machine, waiting_for=waiting)


def _is_node(registration: Registration) -> bool:
    return registration.state.placement is Placement.NODE


def _is_silent(registration: Registration) -> bool:
    """Whether it has an Envoy of which its agent hears nothing: that is stopped, hangs, or has just ended."""
    report = registration.report
    return registration.state.placement is not Placement.LIBRARY and report is not None and not report.is_live


def _rejections(proxy: Proxy, registration: Registration, workload: Name) -> Iterable[Rejection]:
    """What a proxy refuses; of a node, whose workloads have resources of their own names, without the others' own."""
    others = (
        {f"{each}" for each in registration.workloads if each != workload} if _is_node(registration) else set[str]()
    )
    for refusal in proxy.progress.refusals.values():
        if _owner(refusal.rejection.name) not in others:
            yield _said(refusal.rejection)


def _owner(resource: str) -> str:
    """The workload of whose seat a resource of a node is (``inbound/<namespace>/<name>/...``), "" when it is shared."""
    kind, *path = resource.split("/")
    return "" if kind == "outbound" else "/".join(path[:2])


def _is_up_to_date(proxy: Proxy, revision: int) -> bool:
    """Whether it serves all that it was given, but for what it refuses."""
    return proxy.is_connected and proxy.progress.live >= min(proxy.progress.target, revision)


def _said(rejection: verdict.Rejection) -> Rejection:
    return Rejection(
        type_url=rejection.type_url, name=rejection.name, words=rejection.why, refs=tuple(sorted(rejection.refs))
    )


def _all(mesh: Mesh, kind: Kind) -> list[Resource]:
    if kind is Kind.MESH_CONFIG:
        return [mesh.config]
    table: Mapping[Name, Resource] = getattr(mesh, TABLES[kind])
    return [table[name] for name in sorted(table)]


def _manifest(resource: Resource) -> dict[str, Any]:
    manifest: dict[str, Any] = msgspec.json.decode(to_json(resource))
    if resource.kind is Kind.SECRET:
        for field in ("data", "stringData"):
            if field in manifest:
                manifest[field] = dict.fromkeys(manifest[field], "Secret(...)")
    return manifest


def _conditions(status: Status | None) -> tuple[Condition, ...]:
    found = status.conditions if status else ()
    return tuple(Condition(type=kind, is_true=is_true, reason=reason) for kind, is_true, reason in found)


def service_of(mesh: Mesh, name: Name) -> str:
    """The Service that a workload belongs to, "" when none selects it."""
    return naming(mesh).services.get(name, "")
