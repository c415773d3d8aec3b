"""The agent's side of the link against an in-process control plane, over a Unix socket and over mutual TLS."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from link.plane import DOMAIN, Mutual, Plane, connected, hello, proxy, scope, serve, until
from masche.identity import dialling, keys
from masche.identity.spiffe import SpiffeId
from masche.link.client import HEARTBEAT, LinkClient, Target
from masche.link.messages import (
    Accepted,
    Heartbeat,
    Hello,
    ProxyGone,
    ProxyState,
    Report,
    SignRequest,
    Synced,
    Verdict,
)
from masche.link.refusal import RefusedError
from masche.model.refs import Name, PortRef
from masche.rpc.status import Code, RpcError

Make = Callable[[Target], LinkClient]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/control.sock"


def machine(mutual: Mutual, name: str = "m1", *, lifetime: float = 3600.0) -> Target:
    key = keys.generate()
    authority = mutual.plane.authority
    issued = authority.sign(
        keys.signing_request(key), SpiffeId.of_machine(DOMAIN, name), now=time.time(), lifetime=lifetime
    )
    presented = mutual.presented_by(key, issued.chain, authority.bundle)
    return Target(address=mutual.address, presented=lambda: presented)


async def test_what_was_put_is_registered_after_hello_and_before_synced(plane: Plane, address: str, link: Make) -> None:
    server = await serve(plane, address)
    client = link(Target(address=address))
    client.put(proxy("p1"))
    await until(lambda: any(isinstance(m, Synced) for _, m in plane.heard), "synced")
    assert [type(m).__name__ for _, m in plane.heard] == ["Hello", "ProxyState", "Synced"]
    assert plane.heard[0][0].is_local
    assert client.is_connected
    await server.stop(0)


async def test_a_change_is_said_at_once_and_a_leave_too(plane: Plane, address: str, link: Make) -> None:
    server = await serve(plane, address)
    client = link(Target(address=address))
    await until(lambda: any(isinstance(m, Synced) for _, m in plane.heard), "synced")
    client.put(proxy("p1", "one"))
    await until(plane.states, "state")
    client.put(proxy("p1", "two"))
    await until(lambda: len(plane.states()) == 2, "second state")
    client.forget("p1")
    await until(lambda: plane.heard[-1][1] == ProxyGone(proxy="p1"), "gone")
    await server.stop(0)


async def test_a_verdict_is_said_at_once_and_never_after_it_is_old(plane: Plane, address: str, link: Make) -> None:
    service = PortRef("shop", "orders", 80)
    first, second = (
        Verdict(proxy="p1", service=service, endpoint="10.0.0.1:15006", is_ejected=is_ejected)
        for is_ejected in (True, False)
    )
    client = link(Target(address=address))
    client.tell(first)
    server = await serve(plane, address)
    await until(lambda: any(isinstance(m, Synced) for _, m in plane.heard), "synced")
    client.tell(second)
    await until(lambda: plane.heard[-1][1] == second, "the verdict")
    assert [m for _, m in plane.heard if isinstance(m, Verdict)] == [second]
    await server.stop(0)


async def test_after_a_restart_of_the_control_plane_everything_is_registered_again(
    plane: Plane, authority: object, address: str, link: Make
) -> None:
    server = await serve(plane, address)
    client = link(Target(address=address))
    client.put(proxy("p1"))
    client.put(proxy("p2"))
    plane.outgoing.put_nowait(scope("p1"))
    await until(lambda: len(plane.states()) == 2 and client.scopes, "registered")
    await server.stop(0)
    await until(lambda: not client.is_connected, "disconnected")
    client.forget("p2")
    assert client.roots is not None, "the last roots stay"
    assert client.scopes["p1", Name("shop", "orders")] == scope("p1"), "the last scope stays"

    fresh = Plane(plane.authority)
    server = await serve(fresh, address)
    await until(lambda: any(isinstance(m, Synced) for _, m in fresh.heard), "registered again")
    assert [state.proxy for state in fresh.states()] == ["p1"]
    assert isinstance(fresh.heard[0][1], Hello)
    assert not any(isinstance(m, Heartbeat) for _, m in fresh.heard)
    await server.stop(0)


async def test_events_tell_what_was_accepted(plane: Plane, address: str, link: Make) -> None:
    server = await serve(plane, address)
    client = link(Target(address=address))
    client.put(proxy("p1"))
    async with asyncio.timeout(10):
        async for event in client.events():
            if event == Accepted(proxy="p1"):
                break
    await server.stop(0)


async def test_a_call_without_a_connection_fails_at_once(address: str, link: Make) -> None:
    client = link(Target(address=address))
    with pytest.raises(ConnectionError):
        await client.report(Report(machine="m1", epoch="e", sequence=1))


async def test_a_call_in_flight_when_the_control_plane_dies_is_a_connection_error(
    plane: Plane, address: str, link: Make
) -> None:
    asked = asyncio.Event()

    async def never(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    plane.report = never  # type: ignore[method-assign,assignment] - a service that never answers
    server = await serve(plane, address)
    client = link(Target(address=address))
    await connected(client)
    call = asyncio.ensure_future(client.report(Report(machine="m1", epoch="e", sequence=1)))
    await asked.wait()
    await server.stop(0)
    with pytest.raises(ConnectionError):
        await call


async def test_a_machine_signs_and_reports_over_mutual_tls(mutual: Mutual, link: Make) -> None:
    client = link(machine(mutual))
    await connected(client)
    await until(lambda: mutual.plane.heard, "hello")
    assert mutual.plane.heard[0][0].machine == "m1"
    request = keys.signing_request(keys.generate())
    reply = await client.sign(SignRequest(proxy="p1", workload=Name("shop", "orders"), csr=request))
    assert reply.chain.count("BEGIN CERTIFICATE") == 2
    await client.report(Report(machine="m1", epoch="e", sequence=7))
    assert mutual.plane.reports[0].sequence == 7


async def test_a_refused_request_says_why(mutual: Mutual, link: Make) -> None:
    client = link(machine(mutual))
    await connected(client)
    with pytest.raises(RefusedError, match="not a certificate request"):
        await client.sign(SignRequest(proxy="p1", workload=Name("shop", "orders"), csr=b"junk"))


async def test_a_revoked_machine_is_refused_and_knows_why(mutual: Mutual, link: Make) -> None:
    mutual.plane.machines._revoked = frozenset({"m1"})
    client = link(machine(mutual))
    await until(lambda: client.refusal is not None, "refusal")
    assert client.refusal is not None
    assert "revoked" in client.refusal.why
    assert client.refusal.fix == "join it again"
    assert not client.is_connected
    assert mutual.plane.heard == []


async def test_the_servers_certificate_rotates_without_a_restart(mutual: Mutual, link: Make) -> None:
    first = link(machine(mutual))
    await connected(first)
    mutual.certify()
    second = link(machine(mutual, "m2"))
    await connected(second)
    assert first.is_connected
    assert mutual.plane.streams == 2


@pytest.mark.parametrize("case", ["workload", "other trust domain", "no certificate", "other authority"])
async def test_strangers_are_refused(mutual: Mutual, link: Make, tmp_path: Path, case: str) -> None:
    from masche.identity.authority import Authority

    authority = mutual.plane.authority
    key = keys.generate()
    now = time.time()
    if case == "no certificate":
        async with dialling.joining(mutual.address, authority.bundle.pem, max_receive_bytes=1 << 20) as channel:
            with pytest.raises(RpcError) as caught:
                await channel.unary("/masche.link.v1.Link/Report", b"", within=5)
        assert caught.value.code is Code.UNAVAILABLE
        return
    identity = SpiffeId.of_workload(DOMAIN, "shop", "orders")
    if case != "workload":
        domain = "other.local" if case == "other trust domain" else DOMAIN
        authority = Authority.open(tmp_path / "other", domain, now=now, audit=lambda _: None)
        identity = SpiffeId.of_machine(domain, "m1")
    if case == "other trust domain":
        mutual.presented = mutual.presented_by(
            keys.load_private(mutual.presented.key), mutual.presented.chain, mutual.plane.authority.bundle
        )
        roots = mutual.presented.roots + authority.bundle.pem
        mutual.presented = type(mutual.presented)(chain=mutual.presented.chain, key=mutual.presented.key, roots=roots)
    issued = authority.sign(keys.signing_request(key), identity, now=now)
    presented = mutual.presented_by(key, issued.chain, mutual.plane.authority.bundle)
    client = link(Target(address=mutual.address, presented=lambda: presented))
    async with asyncio.timeout(10):
        event = await anext(client.events())
    assert not client.is_connected
    assert mutual.plane.heard == []
    expected = {"workload": "is not a machine", "other trust domain": "not of the trust domain"}.get(case)
    if expected:
        assert expected in str(event), event


async def test_an_agent_talks_to_no_server_but_a_control_plane_of_its_root(
    mutual: Mutual, link: Make, tmp_path: Path
) -> None:
    """A workload of the same mesh, with its perfectly valid certificate, can not pose as the control plane."""
    key = keys.generate()
    identity = SpiffeId.of_workload(DOMAIN, "shop", "orders")
    issued = mutual.plane.authority.sign(keys.signing_request(key), identity, now=time.time())
    mutual.presented = mutual.presented_by(key, issued.chain, mutual.plane.authority.bundle)
    client = link(machine(mutual))
    async with asyncio.timeout(10):
        await anext(client.events())
    assert mutual.plane.heard == []


async def test_who_parts_has_said_all_and_its_stream_has_ended_in_order(plane: Plane, address: str) -> None:
    server = await serve(plane, address)
    client = LinkClient([Target(address=address)], hello, rng=Random(1))
    running = asyncio.ensure_future(client.run())
    client.put(proxy("p1"))
    await until(lambda: any(isinstance(m, Synced) for _, m in plane.heard), "synced")
    client.forget("p1")
    async with asyncio.timeout(5):
        await client.part()
        await running
    assert plane.heard[-1][1] == ProxyGone(proxy="p1")
    assert not client.is_connected
    await server.stop(0)


async def test_who_parts_while_nobody_is_there_waits_for_nobody(address: str) -> None:
    client = LinkClient([Target(address=address)], hello, rng=Random(1))
    running = asyncio.ensure_future(client.run())
    async with asyncio.timeout(10):
        await client.part()
        await running


@pytest.mark.parametrize("turns", range(8))
async def test_who_is_ended_just_as_there_is_something_to_say_ends_at_once(
    plane: Plane, address: str, turns: int
) -> None:
    server = await serve(plane, address)
    client = LinkClient([Target(address=address)], hello, rng=Random(1))
    running = asyncio.create_task(client.run())
    await connected(client)
    client.put(proxy("p1"))
    await until(plane.states, "registered")
    running.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    client._wake.set()  # with nothing to say: it was said already
    done, _ = await asyncio.wait((running,), timeout=HEARTBEAT / 2)
    assert done, "not only with the next heartbeat"
    await server.stop(None)


async def test_what_was_retracted_is_not_said_again(plane: Plane, address: str, link: Make) -> None:
    server = await serve(plane, address)
    client = link(Target(address=address))
    client.put(proxy("p1"))
    await until(lambda: any(isinstance(m, Synced) for _, m in plane.heard), "synced")
    client.retract("p1")
    client.put(proxy("p2"))
    await until(lambda: plane.heard[-1][1] == proxy("p2"), "the other is said")
    await server.stop(0)
    plane.heard.clear()
    server = await serve(plane, address)
    await until(lambda: any(isinstance(m, Synced) for _, m in plane.heard), "synced again")
    assert [m for _, m in plane.heard if isinstance(m, ProxyState | ProxyGone)] == [proxy("p2")]
    await server.stop(0)


async def test_workloads_that_may_call_the_same_share_what_is_known_of_it(
    plane: Plane, address: str, link: Make
) -> None:
    """A hundred workloads that may call a hundred services would hold ten thousand of them."""
    server = await serve(plane, address)
    client = link(Target(address=address))
    await connected(client)
    first, second, other = (Name("shop", name) for name in ("orders", "carts", "stock"))
    for workload in (first, second):
        plane.outgoing.put_nowait(msgspec.structs.replace(scope("node"), workload=workload))
    plane.outgoing.put_nowait(msgspec.structs.replace(scope("node"), workload=other, services=()))
    await until(lambda: len(client.scopes) == 3, "scopes")
    scopes = {workload: one.services for (_, workload), one in client.scopes.items()}
    assert scopes[first] is scopes[second]
    assert scopes[other] == ()
    await server.stop(0)
