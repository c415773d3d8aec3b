"""From a claim to what a control plane is told: names, ports, the Seat and the Occupant. Pure.

A workload's name is made of what it is and which of its kind on this machine, so that a workload which starts again is
the same one, with its ports, its certificate and its last good configuration.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from masche.agent.listen import parse_listen
from masche.agent.local import Claim
from masche.identity.files import write_private
from masche.link.messages import Occupant, ProxyState, ScopeService, ServiceWish, State, WorkloadPort
from masche.link.workloads import LABEL, NAME, UnfitError, names, port_names, protocol_of, proxy_id
from masche.model.refs import Name, PortRef
from masche.model.vantage import Capture, Dialect, LocalPort, Placement, Seat, SeatPort

GATEWAY_LABEL = "gateway.networking.k8s.io/gateway-name"
EAST_WEST_LABEL, EAST_WEST = "masche.dev/gateway", "east-west"
"""By its label, and as the account of that name, a gateway between zones is known."""

ClaimError = UnfitError
"""The claim cannot be a workload; ``fix`` says what to change."""


_RECORD = "seat.json"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of a seat on disk, for an agent or a run that comes later."""

    claim: Claim
    seat: Seat
    services: tuple[ScopeService, ...] = ()
    phase: str = "STARTING"
    created: tuple[str, ...] = ()


def read_record(folder: Path) -> Record | None:
    """Return what an earlier run left in the folder of a seat."""
    try:
        return msgspec.json.decode((folder / _RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def write_record(folder: Path, record: Record) -> None:
    """Leave it there for a later one. Nobody waits for a disk: after a crash of the machine a run starts anew."""
    write_private(folder / _RECORD, msgspec.json.encode(record), is_durable=False)


def check(claim: Claim, zone: str) -> None:
    """Judge what a claim says of itself, before anything is made for it, in a machine's zone. Raises ClaimError."""
    is_gateway = claim.placement is Placement.GATEWAY
    for what, name, form in (
        ("service", claim.service, NAME if is_gateway else LABEL),
        ("namespace", claim.namespace, LABEL),
        ("service account", claim.service_account, NAME),
    ):
        if not form.fullmatch(name):
            raise ClaimError(
                f"{name!r} is no name for a {what}", fix="use lower case letters, digits and -, at most 63"
            )
    if claim.workload and not all(map(NAME.fullmatch, claim.workload.split("/", 1))):
        raise ClaimError(f"{claim.workload!r} names no workload", fix="write namespace/name")
    _check_ports(claim)
    for dependency in claim.dependencies or ():
        if not NAME.fullmatch(dependency):
            raise ClaimError(f"{dependency!r} is no name for a service", fix="write service or service.namespace")
    if claim.is_east_west and not (claim.zone or zone):
        raise ClaimError("a gateway between zones is in a zone", fix="say which with --zone")
    for what, address in (("--bind", claim.bind), ("--address", claim.address)):
        if address and not _is_address(address):
            raise ClaimError(f"{what} {address!r} is no IP address", fix="write an address of this machine")


def _check_ports(claim: Claim) -> None:
    for what, said in (("name", port_names(claim.ports)), ("port", [port.port for port in claim.ports])):
        if twice := [one for one, often in Counter(said).items() if often > 1]:
            raise ClaimError(
                f"the {what} {twice[0]} is given to two ports", fix="say each port once, by a name of its own"
            )


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def workload_names(machine: str, claim: Claim) -> Iterator[Name]:
    """The names that this claim may have on this machine, the first free one of which it gets."""
    labels = sorted(claim.labels.items())
    ports = [(port.port, port.name) for port in claim.ports]
    what: list[object] = [
        machine,
        claim.namespace,
        claim.service,
        claim.service_account,
        claim.placement,
        claim.gateway,
        labels,
        ports,
    ]
    what += [claim.zone] if claim.is_east_west else []
    return names(claim.namespace, claim.service, what)


def seat_of(
    name: Name,
    claim: Claim,
    *,
    bind: str,
    mesh_ports: Mapping[int, int],
    proxy_port: int = 0,
    local: Mapping[PortRef, int] = MappingProxyType({}),
    namespace_path: str = "",
    app_address: str = "127.0.0.1",
    capture: Capture | None = None,
) -> Seat:
    """The Seat with the ports that were chosen for it, and with the place where its connections are captured, if any.

    A gateway's listeners are bound on their own ports, or its only one (written 0) on the port of ``IP:PORT``.
    """
    ports = zip(port_names(claim.ports), claim.ports, strict=True)
    is_ingress = claim.placement is Placement.GATEWAY and not claim.is_east_west
    only = parse_listen(claim.listen).port if is_ingress else 0
    return Seat(
        workload=name,
        bind=bind,
        ports=tuple(SeatPort(name=one, app_port=port.port, mesh_port=mesh_ports[port.port]) for one, port in ports),
        proxy_port=proxy_port,
        local_ports=tuple(LocalPort(service=service, port=port) for service, port in sorted(local.items())),
        gateway_ports=((0, only),) if only else (),
        namespace_path=namespace_path,
        app_address=app_address,
        capture=capture,
    )


def proxy_state(
    claim: Claim, seat: Seat, *, zone: str, address: str, phase: str, reason: str, is_exposed: bool, version: str
) -> ProxyState:
    """What the control plane is told of a proxy with one workload."""
    is_ingress = claim.placement is Placement.GATEWAY and not claim.is_east_west
    return ProxyState(
        proxy=proxy_id(seat.workload, claim.placement),
        placement=claim.placement,
        dialect=Dialect.GRPC if claim.placement is Placement.LIBRARY else Dialect.ENVOY,
        occupants=(
            occupant(claim, seat, zone=zone, address=address, phase=phase, reason=reason, is_exposed=is_exposed),
        ),
        gateway=Name(claim.namespace, claim.gateway) if is_ingress else None,
        envoy_version=version,
    )


def occupant(
    claim: Claim, seat: Seat, *, zone: str, address: str, phase: str, reason: str = "", is_exposed: bool = False
) -> Occupant:
    """What the control plane is told of one workload."""
    mesh_ports = {port.app_port: port.mesh_port for port in seat.ports}
    ports = tuple(
        WorkloadPort(name=name, port=port.port, mesh_port=mesh_ports[port.port], protocol=protocol_of(port))
        for name, port in zip(port_names(claim.ports), claim.ports, strict=True)
    )
    is_ingress = claim.placement is Placement.GATEWAY and not claim.is_east_west
    gateway = {GATEWAY_LABEL: claim.gateway} if is_ingress else {}
    gateway |= {EAST_WEST_LABEL: EAST_WEST} if claim.is_east_west else {}
    return Occupant(
        seat=seat,
        service_account=claim.service_account,
        labels={"app": claim.service, **gateway, **claim.labels},
        zone=claim.zone or zone,
        address=address,
        ports=ports,
        dependencies=claim.dependencies,
        service=ServiceWish(name=claim.service, ports=ports) if ports and not claim.is_east_west else None,
        state=State(phase=phase, reason=reason[:4000]),
        exposed=is_exposed,
    )
