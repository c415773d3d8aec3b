"""From what an agent says of a proxy to resources: the Workloads it serves and the Services it wishes for.

Pure: it returns edits and refusals; ``control.agents`` commits the one and sends the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from masche.compiler.east_west import ACCOUNT, EAST_WEST, LABEL, is_east_west
from masche.link.messages import Occupant, ProxyState, ServiceWish
from masche.model.mesh import Mesh
from masche.model.ports import Put
from masche.model.refs import Name
from masche.model.resources.core import Service
from masche.model.resources.workload import Workload, WorkloadState
from masche.model.vantage import Dialect
from masche.model.view import Protocol

OWNER = "masche.dev/created-by"
DEFAULT_SERVICE_PORT = 80

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What to write for one proxy, and the Services that come into being with it."""

    edits: tuple[Put, ...]
    created: tuple[Name, ...] = ()


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


def enrol(mesh: Mesh, state: ProxyState, *, origin: Origin, is_alive: Callable[[Origin], bool]) -> Enrolment:
    """The edits that register a proxy. Raises EnrolmentError for names that others hold and for values out of range."""
    _check_gateway(mesh, state)
    edits: list[Put] = []
    created: list[Name] = []
    for occupant in state.occupants:
        _check_owner(mesh, occupant.seat.workload, origin, is_alive)
        workload = _valid(_workload, state, occupant, origin)
        _check_east_west(mesh, workload)
        edits.append(Put(resource=workload))
        wish = occupant.service
        if wish is not None and wish.ports:
            name = Name(occupant.seat.workload.namespace, wish.name)
            if name not in mesh.services and name not in created:
                edits.append(Put(resource=_valid(_service, name, wish)))
                created.append(name)
    return Enrolment(edits=tuple(edits), created=tuple(created))


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
        place = ".".join(str(part) for part in first["loc"])
        raise EnrolmentError(f"{place}: {first['msg']}", fix="change the option of masche run that says so") from error


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
