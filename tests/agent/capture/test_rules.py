import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.capture.lab import Listener, call, send
from masche.agent.capture.exclusions import Exclusions
from masche.agent.capture.host import Host, Place
from masche.agent.capture.ranges import GATEWAY, Range, parse
from masche.agent.capture.rules import DNS_PORT, INBOUND_PORT, OUTBOUND_PORT
from masche.agent.capture.sockets import in_namespace, open_in
from masche.model.refs import Name

pytestmark = pytest.mark.root

ORDERS, PAYMENT = Name("shop", "orders-1"), Name("shop", "payment-1")
FAR, FAR6 = "203.0.113.9", "2001:db8::9"
VIRTUAL = "240.64.0.7"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path, file=tmp_path / "hosts.json")
    yield made
    await made.cleanup()


@pytest.fixture
async def place(host: Host) -> Place:
    return await host.prepare(ORDERS)


def names_range(host: Host) -> Range:
    return parse("10.200.0.0/16", host.names.tag)


def gateway(place: Place) -> str:
    return ".".join((*place.address.split(".")[:2], "0", str(GATEWAY)))


@pytest.mark.parametrize("address", [FAR, VIRTUAL, "10.0.0.1"])
def test_what_leaves_comes_to_the_proxy_which_knows_where_it_was_going(place: Place, address: str):
    with Listener(place.namespace_path, "0.0.0.0", OUTBOUND_PORT, "proxy"):
        assert call(place.namespace_path, address, 80) == f"proxy {address}:80"


def test_ipv6_that_leaves_comes_to_the_proxy_too(place: Place):
    assert place.has_ipv6
    with Listener(place.namespace_path, "::", OUTBOUND_PORT, "proxy"):
        assert call(place.namespace_path, FAR6, 80) == f"proxy [{FAR6}]:80"


@pytest.mark.parametrize("address", [FAR, FAR6, VIRTUAL])
def test_without_a_proxy_everything_is_refused_and_nothing_leaves(place: Place, address: str):
    assert call(place.namespace_path, address, 80) == "ConnectionRefusedError"


def test_not_even_the_machine_itself_is_reached_without_a_proxy(place: Place):
    with Listener("", gateway(place), 4711, "machine") as machine:
        assert call(place.namespace_path, gateway(place), 4711) == "ConnectionRefusedError"
        assert not machine.peers


@pytest.mark.parametrize("address", [FAR, FAR6])
def test_nothing_but_tcp_and_dns_leaves(place: Place, address: str):
    assert send(place.namespace_path, address, 443) == "PermissionError"


@pytest.mark.parametrize("server", [FAR, FAR6, "127.0.0.53", "127.0.0.1", "::1"])
def test_questions_for_names_come_to_the_mesh_whatever_server_was_asked(place: Place, server: str):
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with ExitStack() as stack:
        inlet = stack.enter_context(open_in(place.namespace_path, family, socket.SOCK_DGRAM))
        inlet.bind(("::1" if ":" in server else "127.0.0.1", DNS_PORT))
        outlet = stack.enter_context(open_in(place.namespace_path, family, socket.SOCK_DGRAM))
        outlet.settimeout(10)
        inlet.settimeout(10)
        outlet.sendto(b"orders?", (server, 53))
        question, asker = inlet.recvfrom(512)
        inlet.sendto(b"240.64.0.7", asker)
        answer, answered_by = outlet.recvfrom(512)
        assert (question, answer) == (b"orders?", b"240.64.0.7")
        assert answered_by[:2] == (server, 53)


@pytest.mark.parametrize("server", [FAR, FAR6, "127.0.0.53"])
def test_questions_over_tcp_come_to_the_mesh_too(place: Place, server: str):
    with Listener(place.namespace_path, "::" if ":" in server else "0.0.0.0", DNS_PORT, "names"):
        assert call(place.namespace_path, server, 53).startswith("names ")


def test_a_workload_that_calls_itself_does_so_without_the_proxy(place: Place):
    with (
        Listener(place.namespace_path, "0.0.0.0", 8080, "application"),
        Listener(place.namespace_path, "0.0.0.0", OUTBOUND_PORT, "proxy"),
        Listener(place.namespace_path, "0.0.0.0", INBOUND_PORT, "inbound"),
    ):
        assert call(place.namespace_path, "127.0.0.1", 8080).startswith("application ")
        assert call(place.namespace_path, place.address, 8080).startswith("application ")


def test_what_arrives_comes_to_the_proxy_and_never_to_the_application(place: Place):
    with (
        Listener(place.namespace_path, "0.0.0.0", 8080, "application") as application,
        Listener(place.namespace_path, "0.0.0.0", INBOUND_PORT, "inbound"),
    ):
        assert call("", place.address, 8080) == f"inbound {place.address}:8080"
        assert not application.peers


def test_while_the_proxy_is_down_what_arrives_is_refused(place: Place):
    with Listener(place.namespace_path, "0.0.0.0", 8080, "application") as application:
        assert call("", place.address, 8080) == "ConnectionRefusedError"
        assert not application.peers


@pytest.mark.parametrize("port", [OUTBOUND_PORT, INBOUND_PORT])
def test_the_proxys_ports_are_reached_by_redirection_alone(place: Place, port: int):
    with Listener(place.namespace_path, "0.0.0.0", port, "proxy") as proxy:
        assert call(place.namespace_path, "127.0.0.1", port) == "ConnectionRefusedError"
        assert call(place.namespace_path, place.address, port) == "ConnectionRefusedError"
        assert not proxy.peers


def test_no_workload_speaks_to_another_but_through_what_captures_it(place: Place):
    """Its own word for the other's address goes to its own proxy; there is no other way, not even a neighbour's."""
    with Listener(place.namespace_path, "0.0.0.0", OUTBOUND_PORT, "proxy"):
        assert call(place.namespace_path, "10.255.255.1", 8080).startswith("proxy ")


async def test_not_even_an_excluded_port_leads_from_one_workload_to_another(host: Host):
    free = Exclusions(outbound_ports=(8080,), inbound_ports=(8080,))
    orders = await host.prepare(ORDERS, exclusions=free)
    payment = await host.prepare(PAYMENT, exclusions=free)

    def knock() -> int:
        with socket.socket() as connection:
            connection.settimeout(0.3)
            return connection.connect_ex((payment.address, 8080))

    with Listener(payment.namespace_path, "0.0.0.0", 8080, "payment") as application:
        assert call("", payment.address, 8080) == f"payment {payment.address}:8080"
        application.peers.clear()
        assert in_namespace(orders.namespace_path, knock) != 0
        assert not application.peers


async def test_excluded_ports_and_addresses_are_left_alone_and_others_are_not(host: Host):
    place = await host.prepare(ORDERS)
    machine = gateway(place)
    await host.prepare(ORDERS, exclusions=Exclusions(outbound_ports=(4711,)))
    with Listener("", machine, 4711, "machine"), Listener("", machine, 4712, "machine"):
        assert call(place.namespace_path, machine, 4711) == f"machine {machine}:4711"
        assert call(place.namespace_path, machine, 4712) == "ConnectionRefusedError"
        await host.prepare(ORDERS, exclusions=Exclusions(outbound_addresses=(f"{machine}/32", f"{machine}/31")))
        assert call(place.namespace_path, machine, 4711) == f"machine {machine}:4711"
        assert call(place.namespace_path, machine, 4712) == f"machine {machine}:4712"
        assert call(place.namespace_path, FAR, 4711) == "ConnectionRefusedError"


async def test_an_excluded_address_of_ipv6_is_left_alone(host: Host):
    place = await host.prepare(ORDERS)
    machine = str(names_range(host).address6(GATEWAY))
    with Listener("", machine, 4711, "machine"):
        assert call(place.namespace_path, machine, 4711) == "ConnectionRefusedError"
        await host.prepare(ORDERS, exclusions=Exclusions(outbound_addresses=(machine,)))
        assert call(place.namespace_path, machine, 4711) == f"machine [{machine}]:4711"


async def test_processes_of_an_excluded_uid_are_left_alone_with_their_questions(host: Host):
    place = await host.prepare(ORDERS, exclusions=Exclusions(uids=(1337,)))
    machine = gateway(place)
    with Listener("", machine, 4711, "machine"):
        assert call(place.namespace_path, machine, 4711, uid=1337).startswith("machine ")
        assert call(place.namespace_path, machine, 4711, uid=1338) == "ConnectionRefusedError"
        assert call(place.namespace_path, machine, 4711) == "ConnectionRefusedError"


async def test_an_excluded_port_of_the_application_is_reached_around_the_proxy(host: Host):
    place = await host.prepare(ORDERS, exclusions=Exclusions(inbound_ports=(9100,)))
    with (
        Listener(place.namespace_path, "0.0.0.0", 9100, "metrics"),
        Listener(place.namespace_path, "0.0.0.0", INBOUND_PORT, "inbound"),
    ):
        assert call("", place.address, 9100).startswith("metrics ")
        assert call("", place.address, 9101).startswith("inbound ")
