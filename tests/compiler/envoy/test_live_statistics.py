"""Of which calls two real Envoys keep which statistics: conditions are asked inside of Envoy, and only there."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from applications import serving
from envoy_rig import Authority, Envoy, free_port, remove, secrets, short_folder, wait_until
from test_live_calls import request
from views import at, callee, cluster, outbound, port, seat, view

from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.shared import blobs
from masche.model.refs import PortRef
from masche.model.vantage import LocalPort, SeatPort
from masche.model.view import Attribute, Condition, Decision, Pattern, PatternKind, Policy, Rule

ROOT = Authority.named("root")
PEER, STRANGER = port("orders"), port("stranger")
ANSWERS = {"/ok": 200, "/cut": 200, "/fails": 503, "/forbids": 403}
DENIED_PATHS = (Pattern(PatternKind.EXACT, "/denied"),)
NOBODY = Policy(
    name="shop/nobody",
    decision=Decision.DENY,
    rules=(
        Rule(name="shop/nobody rules[0]", operations=((Condition(attribute=Attribute.PATH, values=DENIED_PATHS),),)),
    ),
)


def application(connection: socket.socket) -> None:
    """Answers by the path; ``/cut`` announces more than it sends, and a second part of the path is what it claims."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(65536)
    path, _, claim = head.split()[1].decode().removeprefix("/").partition("/")
    length = 100 if path == "cut" else 2
    claimed = f"x-masche-service-us: {claim}\r\n" if claim else ""
    status = ANSWERS[f"/{path}"]
    connection.sendall(
        f"HTTP/1.1 {status} x\r\n{claimed}content-length: {length}\r\nconnection: close\r\n\r\nab".encode()
    )
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


class Pair:
    """A workload that calls a peer of the mesh, and a stranger without a proxy."""

    def __init__(self, caller: Envoy, peer: Envoy, app_port: int) -> None:
        self.caller, self.peer = caller, peer
        mesh_port, self.local = free_port(), {each: free_port() for each in (PEER, STRANGER)}
        seen = callee("orders", app_port, policies=(NOBODY,))
        place = SeatPort(name="orders", app_port=app_port, mesh_port=mesh_port)
        self.peer.put((*blobs(seen), *listeners(seen, seat("orders", ports=(place,))), *secrets(ROOT, seen.identity)))
        seen = view(
            "web",
            outbound=(outbound(PEER), outbound(STRANGER)),
            clusters=(cluster(PEER), cluster(STRANGER, has_plaintext=True)),
        )
        places = tuple(LocalPort(service=each, port=number) for each, number in self.local.items())
        instances = (at(PEER, mesh_port), at(STRANGER, app_port, is_mtls=False))
        own = (*blobs(seen), *listeners(seen, seat("web", local_ports=places, proxy_port=free_port())))
        self.caller.put((*own, *instances, *secrets(ROOT, seen.identity, ROOT)))

    def get(self, service: PortRef, path: str) -> None:
        with suppress(Exception):  # an answer that is cut off is an error to a client as well
            request(self.local[service], "GET", path)

    def count(self, envoy: Envoy, family: str, *labels: str) -> float:
        """Of all series with these labels together."""
        found = envoy.stats(f"envoy_mesh_{family}{{")
        return sum(value for name, value in found.items() if all(each in name for each in labels))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        folders = [short_folder() for _ in range(2)]
        for folder in folders:
            stack.callback(remove, folder)
        envoys = [Envoy(folder) for folder in folders]
        for envoy in envoys:
            stack.callback(envoy.close)
        yield Pair(*envoys, stack.enter_context(serving(application)))


def test_what_was_cut_off_is_counted_and_not_timed_and_what_failed_is_both(pair: Pair) -> None:
    sides = [(pair.caller, 'reporter="source"'), (pair.peer, 'reporter="destination"')]
    families = {"requests_total": 4, "request_us_count": 3}
    before = {(side, family): pair.count(side[0], family, side[1]) for side in sides for family in families}
    for path in ("/ok", "/cut", "/fails", "/ok"):
        pair.get(PEER, path)
    for (side, family), count in before.items():
        wanted = count + families[family]
        wait_until(lambda s=side, f=family, w=wanted: pair.count(s[0], f, s[1]) == w, f"{family} of {side[1]}")
    for envoy, _ in sides:
        tags = [name for name in envoy.stats("envoy_mesh_request_us_count") if "only" in name or "flags" in name]
        assert not tags, "a condition left a tag"
        assert "Stats access logger" not in envoy.log


def test_a_service_time_is_believed_of_who_proved_who_it_is(pair: Pair) -> None:
    def told(family: str, service: PortRef) -> float:
        return pair.count(pair.caller, family, f'destination="{service.path}"')

    services = (PEER, STRANGER)
    before = {each: (told("instance_us_count", each), told("instance_service_us_count", each)) for each in services}
    for path in ("/ok", "/ok/12345", "/fails"):
        pair.get(PEER, path)
        pair.get(STRANGER, path)
    for service in services:
        wanted = before[service][0] + 2
        wait_until(lambda s=service, w=wanted: told("instance_us_count", s) == w, "two answers to be timed")
    assert told("instance_service_us_count", PEER) == before[PEER][1] + 2
    assert told("instance_service_us_count", STRANGER) == 0
    assert told("instance_service_us_sum", PEER) > 0
    assert "Stats access logger" not in pair.caller.log


def test_what_a_rule_denied_is_counted_and_not_timed_and_what_the_application_forbids_is_both(pair: Pair) -> None:
    called = f'destination="{PEER.path}"'
    families = {"instance_us_count": 2, "instance_service_us_count": 2, "instance_requests_total": 4}
    before = {family: pair.count(pair.caller, family, called) for family in families}
    for path in ("/denied", "/forbids", "/denied", "/forbids"):
        pair.get(PEER, path)
    for family, more in families.items():
        wanted = before[family] + more
        wait_until(lambda f=family, w=wanted: pair.count(pair.caller, f, called) >= w, family)
        assert pair.count(pair.caller, family, called) == wanted
    refused = pair.count(pair.caller, "instance_requests_total", called, 'code="403"')
    assert refused >= 4


def test_a_stranger_that_claims_a_service_time_is_not_believed(pair: Pair) -> None:
    called, claims = f'destination="{STRANGER.path}"', ("-5", "1e99", "nan", "12345678901234")
    before = pair.count(pair.caller, "instance_us_count", called)
    for claim in claims:
        pair.get(STRANGER, f"/ok/{claim}")
    wanted = before + len(claims)
    wait_until(lambda: pair.count(pair.caller, "instance_us_count", called) == wanted, "the answers to be timed")
    assert pair.count(pair.caller, "instance_service_us_count", called) == 0
