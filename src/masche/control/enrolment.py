"""From what an agent says of a proxy to resources: the Workloads it serves and the Services it wishes for.

Pure: it returns edits and refusals; ``control.enrolling`` commits the one and sends the other. Invariant: of a node
proxy, which serves many, an occupant that cannot be one is refused alone; and what is said again costs nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from msgspec import structs
from pydantic import ValidationError

from masche.compiler.east_west import ACCOUNT, EAST_WEST, LABEL, is_east_west
from masche.link.messages import Occupant, ProxyState, ServiceWish
from masche.model.mesh import Mesh
from masche.model.ports import Delete, Edit, Put
from masche.model.refs import Kind, Name, Ref
from masche.model.resources.core import Service
from masche.model.resources.workload import Workload, WorkloadState
from masche.model.vantage import Dialect, Placement
from masche.model.view import Protocol

OWNER = "masche.dev/created-by"
DEFAULT_SERVICE_PORT = 80

LABELS = "write KEY=VALUE with letters, digits, '-', '_' and '.', at most 63 on either side"

T = TypeVar("T")


class EnrolmentError(Exception):
    """The agent said something that cannot be a resource; ``fix`` says what to change.

    ``is_taken``: it would be one under another name.
    """

    def __init__(self, why: str, *, fix: str = "", is_taken: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix
        self.is_taken = is_taken


Origin = tuple[str, str]
"""A machine, and which of its processes registered something; "" for its agent."""


Refusals = Mapping[Name, EnrolmentError]
"""Why a workload is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What to write for one proxy, and the Services that come into being with it.

    ``state`` is what is registered of what was said: without those that are ``refused``, which stay what they were
    before, if they were anything. ``left`` were registered for this proxy and are not named any more.
    """

    state: ProxyState
    edits: tuple[Edit, ...]
    created: tuple[Name, ...] = ()
    refused: Refusals = field(default_factory=dict[Name, EnrolmentError])
    left: tuple[Name, ...] = ()


def enrol(
    mesh: Mesh,
    state: ProxyState,
    *,
    origin: Origin,
    is_alive: Callable[[Origin], bool],
    zone: str = "",
    before: ProxyState | None = None,
    denied: Refusals | None = None,
) -> Enrolment:
    """The edits that register a proxy of which ``before`` was registered; ``denied`` are refused whatever they say.

    ``zone`` is the machine's, and everybody's whom a node proxy serves.

    Raises EnrolmentError for names that others hold and for values out of range, unless the proxy is a node's.
    """
    _check_gateway(mesh, state)
    made = _Making(mesh, state, origin, is_alive, zone=zone, before=_by_name(before), denied=denied or {})
    for occupant in state.occupants:
        made.take(occupant)
    registered = structs.replace(state, occupants=tuple(made.kept.values()))
    left = tuple(name for name in made.before if name not in made.kept and name not in made.refused)
    gone = [Delete(ref=Ref(Kind.WORKLOAD, *name)) for name in left if _is_of(mesh, name, state.proxy, origin)]
    return Enrolment(
        state=registered,
        edits=(*made.edits, *gone),
        created=tuple(made.created),
        refused=made.refused,
        left=left,
    )


def _by_name(state: ProxyState | None) -> Mapping[Name, Occupant]:
    return {each.seat.workload: each for each in state.occupants} if state else {}


def _is_of(mesh: Mesh, name: Name, proxy: str, origin: Origin) -> bool:
    """Whether the store has this workload from this proxy, and not from one that it moved to."""
    known = mesh.workloads.get(name)
    return bool(
        known and known.status and (known.status.proxy, known.status.machine, known.status.process) == (proxy, *origin)
    )


class _Making:
    """One ProxyState on its way to an Enrolment."""

    def __init__(
        self,
        mesh: Mesh,
        state: ProxyState,
        origin: Origin,
        is_alive: Callable[[Origin], bool],
        *,
        zone: str,
        before: Mapping[Name, Occupant],
        denied: Refusals,
    ) -> None:
        self._zone = zone
        self._mesh = mesh
        self._state = state
        self._origin = origin
        self._is_alive = is_alive
        self._denied = denied
        self.before = before
        self.kept: dict[Name, Occupant] = {}
        self.edits: list[Edit] = []
        self.created: list[Name] = []
        self.refused: dict[Name, EnrolmentError] = {}

    def take(self, occupant: Occupant) -> None:
        name = occupant.seat.workload
        try:
            if name in self.kept or name in self.refused:
                raise EnrolmentError(f"Workload {name} is named twice by {self._state.proxy}")
            edits = tuple(self._edits(occupant))
        except EnrolmentError as error:
            if self._state.placement is not Placement.NODE:
                raise
            self._refuse(name, error)
        else:
            self.kept[name] = occupant
            self.edits += edits

    def _refuse(self, name: Name, error: EnrolmentError) -> None:
        """It stays what it was before, but for a name that somebody else has now."""
        self.refused[name] = error
        if name in self.before and name not in self.kept and not error.is_taken:
            self.kept[name] = self.before[name]

    def _edits(self, occupant: Occupant) -> Iterator[Edit]:
        name, wish = occupant.seat.workload, occupant.service
        if name in self._denied:
            raise self._denied[name]
        _check_owner(self._mesh, name, self._origin, self._is_alive)
        self._check_zone(occupant)
        _check_address(occupant)
        wished = Name(name.namespace, wish.name) if wish is not None and wish.ports else None
        is_missing = wished is not None and wished not in self._mesh.services and wished not in self.created
        if not is_missing and self._is_stored(occupant):
            return
        workload = _valid(_workload, self._state, occupant, self._origin)
        _check_east_west(self._mesh, workload)
        service = _valid(_service, wished, wish) if is_missing else None
        yield Put(resource=workload)
        if service is not None:
            self.created.append(service.name)
            yield Put(resource=service)

    def _check_zone(self, occupant: Occupant) -> None:
        """Who calls through one proxy is where its machine is: of a Service it has one set of endpoints for all."""
        if self._state.placement is Placement.NODE and occupant.zone != self._zone:
            raise EnrolmentError(
                f"{occupant.seat.workload} is in zone {occupant.zone or '(none)'}, "
                f"and the proxy of its machine in zone {self._zone or '(none)'}",
                fix="leave out --zone: whoever one proxy serves is in the zone of its machine",
            )

    def _is_stored(self, occupant: Occupant) -> bool:
        """Whether this was said before and the store still has it so."""
        name = occupant.seat.workload
        known = self._mesh.workloads.get(name)
        if known is None or known.status is None or self.before.get(name) != occupant:
            return False
        there = (known.status.state.value, known.status.reason, known.spec.placement)
        said = (occupant.state.phase, occupant.state.reason, self._state.placement)
        return there == said and _is_of(self._mesh, name, self._state.proxy, self._origin)


def _check_gateway(mesh: Mesh, state: ProxyState) -> None:
    """A gateway needs its Gateway, and ``--listen IP:PORT`` one that has a single port."""
    if state.gateway is None:
        return
    found = mesh.gateways.get(state.gateway)
    if found is None:
        known = ", ".join(str(name) for name in sorted(mesh.gateways)) or "none"
        raise EnrolmentError(f"there is no Gateway {state.gateway} (there are: {known})", fix="apply one first")
    ports = {listener.port for listener in found.spec.listeners}
    moved = any(port == 0 for occupant in state.occupants for port, _ in occupant.seat.gateway_ports)
    if moved and len(ports) > 1:
        raise EnrolmentError(
            f"Gateway {state.gateway} has the ports {', '.join(map(str, sorted(ports)))}, which do not fit one",
            fix="give --listen an address without a port",
        )


def _check_owner(mesh: Mesh, name: Name, origin: Origin, is_alive: Callable[[Origin], bool]) -> None:
    known = mesh.workloads.get(name)
    if known is None:
        return
    if known.status is None:
        raise EnrolmentError(
            f"Workload {name} was written by hand", fix="choose another name, or delete the resource", is_taken=True
        )
    owner = (known.status.machine, known.status.process)
    if owner not in {origin, ("", "")} and is_alive(owner):
        whose = f"machine {owner[0]}" if owner[0] != origin[0] else "another process of this machine"
        raise EnrolmentError(
            f"Workload {name} is served by {whose}", fix="stop it there or choose another name", is_taken=True
        )


def _check_address(occupant: Occupant) -> None:
    """What is no address would be refused by the proxy of every caller."""
    try:
        ip_address(occupant.address or "127.0.0.1")
    except ValueError:
        raise EnrolmentError(
            f"{occupant.address!r} is no IP address", fix="say with --address where other machines reach this one"
        ) from None


def _check_east_west(mesh: Mesh, workload: Workload) -> None:
    """Callers only trust a gateway between zones that is of the root namespace and runs as the account for it."""
    if workload.metadata.labels.get(LABEL) == EAST_WEST and not is_east_west(mesh, workload):
        root = mesh.config.spec.root_namespace
        raise EnrolmentError(
            f"a gateway between zones is of the namespace {root} and runs as {ACCOUNT}: "
            f"{workload.name} as {workload.spec.service_account} is none",
            fix=f"start it with `masche gateway --east-west -n {root}`",
        )


def _valid(make: Callable[..., T], *arguments: object) -> T:
    try:
        return make(*arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        match first["loc"]:
            case ("metadata", "labels", key, *_):
                why, fix = f"{key!r} is no label, or its value is none", LABELS
            case place:
                why, fix = (
                    f"{'.'.join(map(str, place))}: {first['msg']}",
                    "change the option of masche run that says so",
                )
        raise EnrolmentError(why, fix=fix) from error


def _workload(state: ProxyState, occupant: Occupant, origin: Origin) -> Workload:
    workload = occupant.seat.workload
    ports = [
        {"name": port.name, "port": port.port, "meshPort": port.mesh_port or None, "protocol": port.protocol}
        for port in occupant.ports
    ]
    spec = {
        "address": occupant.address or "127.0.0.1",
        "ports": ports,
        "serviceAccount": occupant.service_account,
        "zone": occupant.zone,
        "dependencies": occupant.dependencies,
        "placement": state.placement,
    }
    status = {
        "state": WorkloadState(occupant.state.phase),
        "reason": occupant.state.reason,
        "machine": origin[0],
        "process": origin[1],
        "proxy": state.proxy,
        "exposed": occupant.exposed,
        "dialect": None if state.dialect is Dialect.ENVOY else state.dialect,
    }
    metadata = {"name": workload.name, "namespace": workload.namespace, "labels": dict(occupant.labels)}
    return Workload.model_validate({"metadata": metadata, "spec": spec, "status": status})


def _service(name: Name, wish: ServiceWish) -> Service:
    """The Service of ``masche run --service S`` when nobody wrote one: it selects ``app=S``.

    The first HTTP port is port 80, so that ``http://S/`` reaches it; every other keeps its own number. Targets are by
    name, because replicas on one machine listen on different ports.
    """
    ports: list[dict[str, object]] = []
    for index, port in enumerate(wish.ports):
        number = DEFAULT_SERVICE_PORT if index == 0 and port.protocol.is_http else port.port
        target = port.name or port.port
        ports.append(
            {"name": port.name, "port": number, "targetPort": target, "appProtocol": _app_protocol(port.protocol)}
        )
    metadata = {"name": name.name, "namespace": name.namespace, "annotations": {OWNER: "masche-run"}}
    return Service.model_validate({"metadata": metadata, "spec": {"selector": {"app": name.name}, "ports": ports}})


def _app_protocol(protocol: Protocol) -> str:
    return {"http2": "kubernetes.io/h2c"}.get(protocol.value, protocol.value)
