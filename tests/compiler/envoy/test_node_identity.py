"""Several workloads behind one Envoy: every call goes out under the certificate of the workload that made it."""

import re
import socket
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest
from applications import serving, tcp_echo
from envoy_rig import remove, short_folder, wait_until
from node_rig import ROOT, Node, node, port, virtual
from views import at, identity
from witness import connections_witness, neighbours_witness, requests_witness, together

from masche.compiler.envoy import capture, peer
from masche.model.refs import PortRef
from masche.model.view import Protocol

CALLERS = ("web", "cart", "mail")
REMOTE, MIXED, OLD, BYTES, LOCAL, LOCAL_TCP = (
    port("remote"),
    port("mixed"),
    port("old", 81),
    port("bytes", 5432),
    port("orders"),
    port("db", 5433),
)
CALLS_EACH, BATCH = 4_000, 20
"""Together more than ten thousand, several of them under way at a time."""


class Machine:
    """Three callers, a callee beside them, and witnesses elsewhere."""

    def __init__(self, stack: ExitStack) -> None:
        self.node: Node = stack.enter_context(node())
        folder = short_folder()
        stack.callback(remove, folder)
        for name in (*CALLERS, "orders"):
            self.node.add(name)
        callee = self.node.members["orders"]
        app = stack.enter_context(neighbours_witness(callee.place.namespace_path, folder))
        self.node.serve("orders", LOCAL, app)
        db = callee.within(lambda: stack.enter_context(serving(tcp_echo)))
        self.node.serve("orders", LOCAL_TCP, db, Protocol.TCP)
        requests = stack.enter_context(requests_witness(ROOT, identity("elsewhere"), folder))
        greetings = stack.enter_context(connections_witness(ROOT, identity("elsewhere"), folder))
        self.node.way(REMOTE)
        self.node.way(MIXED)
        self.node.way(OLD)
        self.node.way(BYTES, Protocol.TCP)
        self.node.elsewhere = [at(REMOTE, requests), at(MIXED, requests), at(OLD, requests), at(BYTES, greetings)]
        self.node.settings_of[OLD] = {"has_library": True}
        self.node.put()


@pytest.fixture(scope="module")
def machine():
    with ExitStack() as stack:
        yield Machine(stack)


def hammer(machine: Machine, service: PortRef, calls: int, told: re.Pattern[bytes]) -> dict[str, Counter[str]]:
    """Let all callers call at once, each over two connections; return who was said to call, by who really did."""
    found: dict[str, Counter[str]] = {name: Counter() for name in CALLERS}

    def work(name: str) -> None:
        with machine.node.members[name].call(service) as connection:
            for _ in range(calls // BATCH // 2):
                connection.sendall(b"GET / HTTP/1.1\r\nhost: whoever\r\n\r\n" * BATCH)
                found[name].update(_answers(connection, told))

    together([threading.Thread(target=work, args=(name,)) for name in (*CALLERS, *CALLERS)])
    return found


def _answers(connection: socket.socket, told: re.Pattern[bytes]) -> list[str]:
    received = b""
    while len(found := told.findall(received)) < BATCH:
        data = connection.recv(65536)
        assert data, received[-300:]
        received += data
    return [each.decode() for each in found]


_PEER = re.compile(rb"x-peer: (\S+)\r\n")
_XFCC = re.compile(rb"x-peer: By=[^;]*;URI=(\S+)\r\n")


def wrong(found: dict[str, Counter[str]]) -> int:
    return sum(count for name, said in found.items() for who, count in said.items() if who != identity(name))


@pytest.mark.parametrize("service", [REMOTE, OLD], ids=["HTTP/2", "HTTP/1.1"])
def test_of_ten_thousand_calls_none_goes_out_under_anothers_certificate(machine: Machine, service: PortRef):
    found = hammer(machine, service, CALLS_EACH, _PEER)
    assert sum(map(Counter.total, found.values())) >= 10_000
    assert wrong(found) == 0, found


def test_the_test_above_fails_when_what_tells_workloads_apart_is_not_hashable(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    """Called is somebody whom no other test calls: the connections that are made here know no identity."""
    monkeypatch.setattr(peer, "HASHABLE", "envoy.string")
    peer_said = peer._said
    monkeypatch.setattr(
        peer, "_said", lambda key, value, factory="envoy.string": peer_said(key, value, factory=factory)
    )
    machine.node.forget()
    machine.node.put()
    try:
        wait_until(lambda: wrong(hammer(machine, MIXED, 400, _PEER)), "somebody to call as somebody else")
    finally:
        monkeypatch.undo()
        machine.node.forget()
        machine.node.put()
    wait_until(lambda: not wrong(hammer(machine, MIXED, 400, _PEER)), "everybody to call as themselves again")


def test_every_connection_of_bytes_has_its_own_callers_certificate_and_no_session_is_resumed(machine: Machine):
    found: dict[str, Counter[str]] = {name: Counter() for name in CALLERS}

    def work(name: str) -> None:
        for _ in range(60):
            with machine.node.members[name].call(BYTES) as connection:
                found[name][connection.recv(200).decode().strip()] += 1

    together([threading.Thread(target=work, args=(name,)) for name in CALLERS])
    assert found == {name: Counter({identity(name): 60}) for name in CALLERS}


def test_within_the_proxy_a_callee_is_told_the_right_caller_of_every_request(machine: Machine):
    found = hammer(machine, LOCAL, CALLS_EACH, _XFCC)
    assert sum(map(Counter.total, found.values())) >= 10_000
    assert wrong(found) == 0, found


def test_a_connection_without_an_identity_calls_nobody(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """As if the filter that says whose a connection is were missing: there is no certificate for it."""
    alone = peer.introduced
    monkeypatch.setattr(
        capture, "introduced", lambda seated, identity: alone(replace(seated, is_shared=False), identity)
    )
    machine.node.forget()
    machine.node.put()
    try:
        wait_until(lambda: _answer(machine, REMOTE).startswith(b"HTTP/1.1 503"), "the listener to be another")
        assert _answer(machine, REMOTE).startswith(b"HTTP/1.1 503")
    finally:
        monkeypatch.undo()
        machine.node.forget()
        machine.node.put()


def _answer(machine: Machine, service: PortRef) -> bytes:
    with machine.node.members["web"].call(service) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        return connection.recv(4096)


def test_the_statistics_of_a_node_say_whose_they_are(machine: Machine):
    with machine.node.members["cart"].call(LOCAL) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while connection.recv(4096):
            pass
    with machine.node.members["cart"].call(LOCAL_TCP) as connection:
        connection.sendall(b"abc")
        assert connection.recv(10) == b"ABC"
    lines = [name for name in machine.node.envoy.stats("envoy_mesh_requests_total") if identity("cart") in name]
    caller = [each for each in lines if 'reporter="source"' in each and "shop/orders/80" in each]
    callee = [each for each in lines if 'reporter="destination"' in each]
    assert caller, lines
    assert callee, lines
    assert all('workload="shop/cart-1"' in each for each in caller)
    assert all('workload="shop/orders-1"' in each for each in callee)
    tried = machine.node.envoy.stats("envoy_mesh_instance_requests_total")
    assert any('workload="shop/cart-1"' in each and "envoy://local/shop/orders-1/" in each for each in tried), tried


def test_a_service_has_an_address_of_its_own_in_these_tests():
    services = (REMOTE, MIXED, OLD, BYTES, LOCAL, LOCAL_TCP)
    assert len({virtual(each) for each in services}) == len(services)
