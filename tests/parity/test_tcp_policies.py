"""Policies by chance on connections: a port of the library lets in whom a sidecar lets in, and nobody else.

Each case is a listener of one real Envoy, with the filters that the compiler makes for a TCP port; the library reads
what our control plane sends to its servers.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from ssl import SSLContext

import pytest

from live.mesh import APPLICATIONS, PROXIES, Live, free_port
from masche.compiler.envoy import inbound
from masche.compiler.envoy.inbound import LISTENER, TLS_INSPECTOR, Served
from masche.compiler.envoy.parts import address
from masche.compiler.envoy.seated import Seated
from masche.compiler.proxyless import library_servers
from masche.identity.spiffe import SpiffeId
from masche.library.inbound.deciding import Shown
from masche.library.inbound.streams import RefusedError, StreamDoor
from masche.model.blob import Blob
from masche.model.refs import Name
from masche.model.told import ToldServer
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.testing.static_reception import Counted, StaticReception
from masche.wire import framing, types
from masche.wire.decode import listeners
from masche.wire.messages import encode
from parity.agreement import SEED, Say, judge
from parity.guarded import CALLEE
from parity.policies import Case, cases

PORT = 6400
BIND, APPLICATION = f"{PROXIES}98", f"{APPLICATIONS}98"
COUNT = 150


def served(policies: tuple[Policy, ...], mesh_port: int) -> Served:
    seat = Seat(
        workload=Name("shop", "orders-1"),
        bind=BIND,
        ports=(SeatPort(name="", app_port=PORT, mesh_port=mesh_port),),
        app_address=APPLICATION,
    )
    spoken = InboundPort(target=PORT, protocol=Protocol.TCP)
    return Served(
        inbound=Inbound(mtls=MtlsMode.PERMISSIVE, ports=(spoken,), policies=policies),
        seat=seat,
        port=seat.ports[0],
        seated=Seated(workload=seat.workload, is_shared=False),
        identity=CALLEE,
    )


def blobs(every: list[tuple[Case, Served]]) -> Iterator[Blob]:
    for index, (_, each) in enumerate(every):
        body = {
            "name": f"case/{index}",
            "address": address(BIND, each.port.mesh_port),
            "listener_filters": [TLS_INSPECTOR],
            "continue_on_listener_filters_timeout": True,
            "filter_chains": inbound.chains(each),
        }
        yield framing.blob(types.LISTENER, f"case/{index}", encode(LISTENER, body))
    yield from inbound.clusters(every[0][1])


def in_envoy(case: Case, each: Served, context: SSLContext | None) -> bool:
    """Does the application get the caller's bytes?"""
    with suppress(OSError), ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection((BIND, each.port.mesh_port), 10, (case.source, 0)))
        connection = stack.enter_context(context.wrap_socket(plain)) if context else plain
        connection.sendall(b"hello")
        return bool(connection.recv(1000))
    return False


def in_library(case: Case, each: Served) -> bool:
    blob = library_servers.listener(each.inbound, each.seat, each.port)
    told = listeners.listener(blob.name, framing.message_of(blob))
    assert isinstance(told, ToldServer)
    door = StreamDoor(
        PORT, workload=lambda: "shop/orders-1", reception=StaticReception(told={PORT: told.inbound}), counter=Counted()
    )
    shown = Shown(peer=f"spiffe://{case.caller}", certificate="", local=CALLEE) if case.caller else None
    try:
        door.enter(shown, source_ip=case.source, destination_ip=BIND)
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize("count", [COUNT, pytest.param(10 * COUNT, marks=pytest.mark.long)])
def test_connections_are_let_in_as_envoy_lets_them_in(live: Live, count: int, record_property: Say) -> None:
    live.open(APPLICATION, PORT)
    ports, addresses = {4: PORT, 6: PORT}, {4: BIND, 6: "::1"}
    some = (each for each in cases(SEED, 4 * count, ports=ports, addresses=addresses) if each.family == 4)
    contexts: dict[str, SSLContext] = {}
    wrong: list[str] = []
    admitted = 0
    found = list(islice(some, count))
    doors = [free_port() for _ in range(min(COUNT, count))]
    for start in range(0, count, COUNT):
        batch = [
            (case, served(case.policies, port)) for case, port in zip(found[start : start + COUNT], doors, strict=False)
        ]
        live.hold(CALLEE, blobs(batch))
        for case, each in batch:
            if case.caller and case.caller not in contexts:
                contexts[case.caller] = live.context(str(SpiffeId.parse(f"spiffe://{case.caller}")))
            answer, said = in_envoy(case, each, contexts.get(case.caller)), in_library(case, each)
            admitted += said
            if answer != said:
                wrong.append(f"Envoy {answer}, the library {said}: {case}")
        live.hold(CALLEE, ())
    judge("connections", count, wrong, f"{admitted} let in", record_property)
    assert count / 20 < admitted < count * 0.95
