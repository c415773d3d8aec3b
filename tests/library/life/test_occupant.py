"""How a process names itself and what it tells of itself."""

from itertools import islice

from masche.library.life import occupant
from masche.library.life.occupant import Health
from masche.library.life.options import Options
from masche.model.port import Port
from masche.model.refs import Name
from masche.model.vantage import Dialect, Placement
from masche.model.view import Protocol

ORDERS = Options(service="orders", namespace="shop", labels={"tier": "gold"}, dependencies=("stock",))


def test_the_names_of_a_process_are_the_same_at_every_start_and_different_on_every_machine() -> None:
    here, again, there = (
        list(islice(occupant.workload_names(ORDERS, machine=machine), 3)) for machine in ("a", "a", "b")
    )
    assert here == again
    assert len({*here, *there}) == 6
    assert all(name.namespace == "shop" and name.name.startswith("orders-") for name in here)


def test_a_client_is_a_workload_without_ports_and_wishes_for_no_service() -> None:
    state = occupant.proxy_state(
        ORDERS, Name("shop", "orders-1"), [], zone="north", address="10.0.0.1", health=Health(phase="READY")
    )
    [told] = state.occupants
    assert (state.proxy, state.placement, state.dialect) == (
        "library~orders-1.shop",
        Placement.LIBRARY,
        Dialect.LIBRARY,
    )
    assert (told.service, told.ports, told.service_account) == (None, (), "orders")
    assert (told.labels, told.zone, told.dependencies) == ({"app": "orders", "tier": "gold"}, "north", ("stock",))


def test_a_server_takes_mutual_tls_on_the_very_port_of_its_application() -> None:
    ports = [Port(port=8443), Port(port=9443, protocol="grpc")]
    state = occupant.proxy_state(
        ORDERS, Name("shop", "orders-1"), ports, zone="", address="10.0.0.1", health=Health(reason="refused")
    )
    [told] = state.occupants
    assert [(each.name, each.port, each.mesh_port, each.protocol) for each in told.ports] == [
        ("http", 8443, 8443, Protocol.HTTP),
        ("grpc-2", 9443, 9443, Protocol.GRPC),
    ]
    assert [(each.app_port, each.mesh_port) for each in told.seat.ports] == [(8443, 8443), (9443, 9443)]
    assert told.service is not None
    assert (told.service.name, told.service.ports) == ("orders", told.ports)
    assert (told.state.phase, told.state.reason) == ("STARTING", "refused")


def test_what_an_option_says_of_the_zone_wins_over_the_machine() -> None:
    options = Options(service="orders", zone="south")
    state = occupant.proxy_state(options, Name("default", "o"), [], zone="north", address="", health=Health())
    assert state.occupants[0].zone == "south"
