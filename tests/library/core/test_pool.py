"""One pool for each set of expected identities and each address: what clients that go by origin would get wrong."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import urllib3

from library.answering import Answering, who
from library.issuing import Issuing
from masche.library.core import pool
from masche.library.core.pool import MAX_IDLE, Pools
from masche.library.core.tls import Certificates
from masche.testing.clock import Clock


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Issuing:
    return Issuing(tmp_path_factory.mktemp("authority") / "a")


@pytest.fixture
def ours(mesh: Issuing) -> Certificates:
    return mesh.certificates("web")


@dataclass
class Address:
    """An address whose owner changes: the old server keeps its open connections, as one does that shuts down slowly."""

    mesh: Issuing
    servers: list[Answering] = field(default_factory=list[Answering])

    def belongs_to(self, workload: str) -> int:
        port = 0
        if self.servers:
            port = self.servers[-1].port
            self.servers[-1].stop_listening()
        self.servers.append(Answering(self.mesh.certificates(workload).server_context(), who(workload), port=port))
        return self.servers[-1].port


@pytest.fixture
def address(mesh: Issuing) -> Iterator[Address]:
    made = Address(mesh)
    yield made
    for server in made.servers:
        server.close()


def connections(context: ssl.SSLContext, address: str) -> urllib3.HTTPSConnectionPool:
    host, _, port = address.partition(":")
    return urllib3.HTTPSConnectionPool(host, int(port), ssl_context=context, assert_hostname=False)


def drop(_pool: urllib3.HTTPSConnectionPool) -> None:
    """What is not used any more is closed when it is forgotten."""


def test_a_call_of_another_service_at_the_same_address_never_uses_a_connection_of_the_first(
    mesh: Issuing, ours: Certificates, address: Address
) -> None:
    """The first service's instance has ended, and its address is the second's; the old connection is still open."""
    pools = Pools(connections, close=drop, now=Clock())

    def call(workload: str) -> str:
        wanted = (mesh.name(workload),)
        found = pools.pool(wanted, where, ours.client_context(wanted))
        return found.request("GET", "/", retries=False).data.decode()

    where = f"127.0.0.1:{address.belongs_to('orders')}"
    assert call("orders") == "orders"
    address.belongs_to("carts")
    assert call("carts") == "carts"
    assert [each.peers for each in address.servers] == [[ours.spiffe_id], [ours.spiffe_id]]
    assert repr(pools) == "<Pools: 2 of 2 sets of identities>"


def test_a_pool_keyed_by_origin_alone_would_have_asked_the_wrong_one(
    mesh: Issuing, ours: Certificates, address: Address
) -> None:
    """The same story told with the client's own pool shows that the test above can fail."""
    port = address.belongs_to("orders")
    wanted = (mesh.name("orders"),)
    with urllib3.HTTPSConnectionPool(
        "127.0.0.1", port, ssl_context=ours.client_context(wanted), assert_hostname=False
    ) as by_origin:
        assert by_origin.request("GET", "/", retries=False).data == b"orders"
        address.belongs_to("carts")
        assert by_origin.request("GET", "/", retries=False).data == b"orders"


def test_one_address_expected_as_two_services_is_connected_to_twice_and_only_one_is_let_in(
    mesh: Issuing, ours: Certificates, address: Address
) -> None:
    pools = Pools(connections, close=drop, now=Clock())
    where = f"127.0.0.1:{address.belongs_to('orders')}"
    right, wrong = (mesh.name("orders"),), (mesh.name("carts"),)
    assert pools.pool(right, where, ours.client_context(right)).request("GET", "/", retries=False).status == 200
    with pytest.raises(urllib3.exceptions.SSLError, match=f"expected {wrong[0]}; {right[0]} answered"):
        pools.pool(wrong, where, ours.client_context(wrong)).request("GET", "/", retries=False)
    assert len(address.servers[0].received) == 1


def test_a_new_certificate_is_shown_from_the_next_call_on(mesh: Issuing, ours: Certificates, address: Address) -> None:
    closed: list[urllib3.HTTPSConnectionPool] = []
    pools = Pools(connections, close=closed.append, now=Clock())
    where, wanted = f"127.0.0.1:{address.belongs_to('orders')}", (mesh.name("orders"),)
    before = pools.pool(wanted, where, ours.client_context(wanted))
    assert before.request("GET", "/", retries=False).status == 200
    mesh.renew(ours, "web")
    after = pools.pool(wanted, where, ours.client_context(wanted))
    assert after is not before
    assert closed == [before]
    assert after.request("GET", "/", retries=False).status == 200
    assert before.request("GET", "/", retries=False).status == 200, "a call that had begun ends as it began"
    assert address.servers[0].accepted == 2


@dataclass
class Double:
    """A pool of nothing."""

    context: ssl.SSLContext
    address: str


def doubles(clock: Clock) -> tuple[Pools[str, Double], list[str]]:
    closed: list[str] = []
    return Pools(Double, close=lambda each: closed.append(each.address), now=clock), closed


def test_the_same_pool_comes_back(ours: Certificates) -> None:
    pools, closed = doubles(Clock())
    context = ours.client_context(("spiffe://mesh.local/ns/a/sa/b",))
    assert pools.pool(("x",), "a:1", context) is pools.pool(("x",), "a:1", context)
    assert pools.pool(("x",), "a:2", context) is not pools.pool(("x",), "a:1", context)
    assert closed == []


def test_a_pool_that_nobody_asks_for_is_closed_when_another_is_made(ours: Certificates) -> None:
    clock = Clock()
    pools, closed = doubles(clock)
    context = ours.client_context(("spiffe://mesh.local/ns/a/sa/b",))
    for address in ("gone:1", "used:1"):
        pools.pool(("x",), address, context)
    clock.advance(MAX_IDLE)
    pools.pool(("x",), "used:1", context)
    clock.advance(1)
    pools.pool(("x",), "new:1", context)
    assert closed == ["gone:1"]
    pools.close()
    assert sorted(closed) == ["gone:1", "new:1", "used:1"]


def test_of_too_many_pools_the_longest_unused_go(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_POOLS", 2)
    clock = Clock()
    pools, closed = doubles(clock)
    context = ours.client_context(("spiffe://mesh.local/ns/a/sa/b",))
    for address in ("a:1", "b:1", "c:1"):
        pools.pool(("x",), address, context)
        clock.advance(1)
    assert closed == ["a:1"]
