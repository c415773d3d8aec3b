"""From options to what a control plane is told of this process: its names, its ports and how it is. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from masche.library.life.options import Options
from masche.link.messages import Occupant, ProxyState, ServiceWish, State, WorkloadPort
from masche.link.workloads import names, port_names, protocol_of, proxy_id
from masche.model.frozen import frozen
from masche.model.port import Port
from masche.model.refs import Name
from masche.model.vantage import Dialect, Placement, Seat, SeatPort
from masche.version import VERSION

PLACEMENT: Final = Placement.LIBRARY
SOFTWARE: Final = f"masche {VERSION}"
"""What stands where a proxy says which Envoy it is."""

LONGEST_REASON: Final = 4000


@frozen
class Health:
    """STARTING, READY, UNHEALTHY or DRAINING, and why."""

    phase: str = "STARTING"
    reason: str = ""


def workload_names(options: Options, *, machine: str) -> Iterator[Name]:
    """The names that this process may have, the first of which that nobody has it gets."""
    what = [machine, options.namespace, options.app, options.account, PLACEMENT, sorted(options.labels.items())]
    return names(options.namespace, options.app, what)


def proxy_of(name: Name) -> str:
    """``Node.id``, for the link and for xDS."""
    return proxy_id(name, PLACEMENT)


def proxy_state(
    options: Options, name: Name, ports: Sequence[Port], *, zone: str, address: str, health: Health
) -> ProxyState:
    """All of it. ``zone`` is the machine's, ``address`` where others reach it; a port takes mutual TLS itself."""
    told = tuple(
        WorkloadPort(name=named, port=port.port, mesh_port=port.port, protocol=protocol_of(port))
        for named, port in zip(port_names(ports), ports, strict=True)
    )
    seat = Seat(
        workload=name,
        bind=address,
        ports=tuple(SeatPort(name=port.name, app_port=port.port, mesh_port=port.port) for port in told),
    )
    occupant = Occupant(
        seat=seat,
        service_account=options.account,
        labels={"app": options.app, **options.labels},
        zone=options.zone or zone,
        address=address,
        ports=told,
        dependencies=options.dependencies,
        service=ServiceWish(name=options.app, ports=told) if told else None,
        state=State(phase=health.phase, reason=health.reason[:LONGEST_REASON]),
    )
    return ProxyState(
        proxy=proxy_of(name),
        placement=PLACEMENT,
        dialect=Dialect.LIBRARY,
        occupants=(occupant,),
        envoy_version=SOFTWARE,
    )
