"""Connections to TCP services: to whom, how many, how they end, and what is refused."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from library.answering import Answering, who
from library.town import Town, service, settled
from masche.library import tcp
from masche.library.core.ports import Known, MeshError, NotReadyError
from masche.library.core.tls import peer_id
from masche.library.requests import Adapter
from masche.model.calling import UNSAID, Algorithm, CircuitBreaker, OutlierEjection, Traffic
from masche.model.view import Forward, PathKind, Protocol, RequestMatch, Retry, Route

ASK = b"who?\r\n\r\n"


def speaking_tcp(told: Known) -> Known:
    """The same service, of which bytes are wanted and no answers."""
    (destination,) = told.destinations.values()
    cluster = replace(destination.cluster, protocol=Protocol.TCP)
    (route,) = told.host.routes
    assert isinstance(route.action, Forward)
    tunnel = Route(
        name="", match=RequestMatch(path_kind=PathKind.CONNECT), action=replace(route.action, retry=Retry(attempts=2))
    )
    return Known(
        host=replace(told.host, routes=(tunnel,)),
        destinations={destination.name: replace(destination, cluster=cluster)},
        endpoints=told.endpoints,
    )


def serve(town: Town, *ports: int, traffic: Traffic = UNSAID, tls: bool = True, name: str = "db") -> None:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    told = speaking_tcp(service(name, town.issuing.name(name), *addresses, traffic=traffic, tls=tls))
    if not tls:
        (destination,) = told.destinations.values()
        plain = replace(destination, cluster=replace(destination.cluster, has_plaintext=True))
        told = replace(told, destinations={destination.name: plain})
    town.told[f"{name}:5432"] = told


def body(said: bytes) -> str:
    return said.rpartition(b"\r\n\r\n")[2].decode()


async def asked(town: Town) -> tuple[str, asyncio.StreamWriter]:
    reader, writer = await tcp.open("db", 5432, facade=town.facade)
    writer.write(ASK)
    return body(await reader.readuntil(b"db")), writer


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


Opened = Callable[[Town], Awaitable[str]]


async def by_loop(town: Town) -> str:
    """Connect, ask and end on the loop."""
    said, writer = await asked(town)
    await ended(writer)
    return said


async def by_thread(town: Town) -> str:
    """The same in a thread."""

    def call() -> str:
        with tcp.connect("db", 5432, timeout=10, facade=town.facade) as connection:
            connection.sendall(ASK)
            file = connection.makefile("rb")
            said = file.read(len(who("db")(b"")))
            file.close()
            return body(said)

    return await asyncio.to_thread(call)


@pytest.fixture(params=[by_loop, by_thread])
def connect(request: pytest.FixtureRequest) -> Opened:
    return request.param


async def test_two_lines_are_a_connection_to_the_one_who_is_expected(town: Town, connect: Opened) -> None:
    instance = town.instance("db")
    serve(town, instance.port)
    assert await connect(town) == "db"
    assert instance.peers == [town.issuing.name("web")]
    assert settled(town)
    [called] = town.counted.calls
    assert (called.cluster, called.is_stream, called.flag) == ("outbound/shop/db/80", True, "")
    assert (called.bytes_sent, called.bytes_received) == (len(ASK), len(who("db")(b"")))
    assert town.counted.attempts == [], "how long it takes to connect is no latency of the service"


async def test_connections_are_balanced_and_one_that_cannot_be_made_is_tried_elsewhere(
    town: Town, connect: Opened
) -> None:
    first, second, gone = town.instance("db"), town.instance("db"), town.instance("db")
    serve(town, first.port, second.port, gone.port)
    gone.close()
    for _ in range(20):
        assert await connect(town) == "db"
    assert first.accepted
    assert second.accepted
    assert first.accepted + second.accepted == 20
    assert settled(town)


async def test_who_cannot_be_connected_to_is_ejected(town: Town, connect: Opened) -> None:
    well, gone = town.instance("db"), town.instance("db")
    gone.close()
    outlier = OutlierEjection(consecutive_errors=3, max_ejected_percent=50)
    serve(town, well.port, gone.port, traffic=replace(UNSAID, algorithm=Algorithm.ROUND_ROBIN, outlier=outlier))
    for _ in range(30):
        await connect(town)
    assert "1 ejected" in repr(town.facade.channels)


async def test_somebody_else_is_refused_before_a_byte_is_sent(town: Town, connect: Opened) -> None:
    impostor = town.instance("carts")
    serve(town, impostor.port)
    with pytest.raises(OSError, match=r"expected .*sa/db; .*sa/carts answered"):
        await connect(town)
    assert impostor.received == []
    assert settled(town)


async def test_no_more_connections_are_open_than_the_service_allows(town: Town) -> None:
    instance = town.instance("db")
    serve(town, instance.port, traffic=replace(UNSAID, breaker=CircuitBreaker(max_connections=2, max_pending=0)))
    _, one = await asked(town)
    _, two = await asked(town)
    with pytest.raises(tcp.NotConnectedError, match="overflow"):
        await tcp.open("db", 5432, facade=town.facade)
    await ended(one)
    async with asyncio.timeout(10):
        while town.facade.channels.all()[0].gate.active > 1:
            await asyncio.sleep(0.01)
    _, three = await asked(town)
    await ended(two)
    await ended(three)


async def test_what_is_no_service_of_the_mesh_is_not_connected_to(town: Town) -> None:
    with pytest.raises(tcp.NotConnectedError, match="elsewhere:5432 is no service of the mesh"):
        await tcp.open("elsewhere", 5432, facade=town.facade)
    with pytest.raises(tcp.NotConnectedError, match="localhost:5432 is no service"):
        tcp.connect("localhost", 5432, facade=town.facade)


async def test_a_service_without_instances_is_said_to_have_none(town: Town, connect: Opened) -> None:
    serve(town)
    with pytest.raises(tcp.NotConnectedError, match="no healthy upstream"):
        await connect(town)


async def test_before_anything_is_known_it_says_for_what_it_waited(town: Town, connect: Opened) -> None:
    town.silent.add("db:5432")
    with pytest.raises(NotReadyError, match="nothing is known of db:5432"):
        await connect(town)


async def test_an_instance_that_the_mesh_says_to_have_no_proxy_is_connected_to_as_it_is(
    town: Town, connect: Opened
) -> None:
    legacy = Answering(None, who("db"))
    town.keep(legacy)
    serve(town, legacy.port, tls=False)
    assert await connect(town) == "db"


async def test_whoever_is_cancelled_while_connecting_leaves_nothing(town: Town) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # nobody ever accepts: no handshake
    serve(town, silent.getsockname()[1])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await tcp.open("db", 5432, facade=town.facade)
    with pytest.raises(TimeoutError):
        await tcp.open("db", 5432, timeout=0.1, facade=town.facade)
    with pytest.raises(TimeoutError):
        tcp.connect("db", 5432, timeout=0.1, facade=town.facade)
    silent.close()
    assert settled(town)


def test_a_connection_that_is_forgotten_counts_no_more(town: Town) -> None:
    instance = town.instance("db")
    serve(town, instance.port)
    connection = tcp.connect("db", 5432, timeout=10, facade=town.facade)
    assert (connection.peer, connection.gettimeout()) == (town.issuing.name("db"), 10)
    assert repr(connection) == f"<Stream to {town.issuing.name('db')}>"
    raw = connection._connection
    assert peer_id(raw) == connection.peer
    del connection
    raw.close()
    for channel in town.facade.channels.all():
        channel.end_forgotten()
    assert settled(town)


def test_a_client_of_http_is_told_what_to_use_instead(town: Town) -> None:
    import requests

    instance = town.instance("db")
    serve(town, instance.port)
    with requests.Session() as session:
        session.mount("http://", Adapter(town.facade))
        answer = session.request("CONNECT", "http://db:5432/")
        assert (answer.status_code, "masche.library.tcp" in answer.text) == (405, True)
    assert instance.accepted == 0


def test_the_error_is_the_meshs_and_a_clients() -> None:
    assert issubclass(tcp.NotConnectedError, MeshError)
    assert issubclass(tcp.NotConnectedError, OSError)
