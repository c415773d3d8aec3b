"""Another machine, over mutual TLS: a join string, a credential, a link and a stream, until it is revoked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import grpc
import pytest

from control.plant import Plant, sidecar
from masche.api.access import TokenRequest
from masche.identity import dialling, keys, transport
from masche.identity.join import JoinString
from masche.identity.presented import Presented
from masche.link import joining
from masche.link.client import LinkClient, Target
from masche.link.messages import Accepted, Hello, Refused, SignRequest
from masche.link.refusal import RefusedError
from masche.model.refs import Name
from masche.rpc.status import Code, RpcError
from masche.testing.fake_proxy import FakeProxy
from masche.wire.types import CLUSTER


async def joined(mesh: Plant, machine: str, **grant: tuple[str, ...]) -> tuple[str, Presented]:
    """Join; returns the id given and what the machine then presents."""
    created = await mesh.plane.create_token(TokenRequest(ttl=60.0, **grant))
    key = keys.generate()
    reply = await joining.join(JoinString.parse(created.join_string), machine, key)
    return reply.machine, Presented(chain=reply.chain, key=keys.private_pem(key), roots=reply.bundle.roots)


@asynccontextmanager
async def linked(mesh: Plant, machine: str, presented: Presented) -> AsyncIterator[LinkClient]:
    target = Target(address=mesh.doors.address, presented=lambda: presented)
    client = LinkClient([target], lambda: Hello(machine=machine, agent_version="1"), rng=Random(1))
    running = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def told(client: LinkClient, kind: type) -> object:
    async with asyncio.timeout(10):
        async for event in client.events():
            if isinstance(event, kind):
                return event
    raise AssertionError("the events ended")


async def test_a_machine_joins_registers_is_signed_for_and_is_sent_away_when_it_is_revoked(mesh: Plant) -> None:
    machine, presented = await joined(mesh, "m9", namespaces=("shop",))
    channel = transport.channel(mesh.doors.address, presented, max_receive_bytes=-1)
    async with linked(mesh, machine, presented) as client, FakeProxy(channel, "web-proxy") as proxy:
        client.put(sidecar("web"))
        assert await told(client, Accepted)
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.names(CLUSTER))
        csr = keys.signing_request(keys.generate())
        reply = await client.sign(SignRequest(proxy="web-proxy", workload=Name("shop", "web"), csr=csr))
        assert reply.chain
        [row] = (await mesh.plane.machines()).machines
        assert (row.machine, row.is_connected, row.workloads, row.namespaces) == ("m9", True, 1, ("shop",))

        await mesh.plane.revoke_machine("m9")
        assert "revoked" in str(await told(client, Refused))
        await proxy.until(lambda: proxy.code)
        assert proxy.code is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises((RefusedError, ConnectionError)):
            await client.sign(SignRequest(proxy="web-proxy", workload=Name("shop", "web"), csr=csr))
        assert Name("shop", "web") not in mesh.parts.world.newest.workloads, "nobody is sent there any more"
    await channel.close()


async def test_a_join_string_is_spent_once(mesh: Plant) -> None:
    created = await mesh.plane.create_token(TokenRequest(namespaces=("*",), ttl=60.0))
    string = JoinString.parse(created.join_string)
    await joining.join(string, "m8", keys.generate())
    with pytest.raises(RefusedError, match="already used"):
        await joining.join(string, "m7", keys.generate())
    assert any("was refused" in message for message in mesh.happened("join-refused"))
    assert (await mesh.plane.tokens()).tokens == ()


async def test_a_stranger_is_not_heard_at_the_inner_door_and_little_at_the_outer(mesh: Plant) -> None:
    roots = mesh.parts.ground.authority.bundle.pem
    async with dialling.joining(mesh.doors.address, roots, max_receive_bytes=1 << 20) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/masche.link.v1.Link/Report", b"", within=5)
        assert caught.value.code is Code.UNAVAILABLE
    async with dialling.joining(mesh.doors.joining_address, roots, max_receive_bytes=1 << 20) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/masche.link.v1.Joining/Join", b"x" * 100_000, within=5)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_machine_that_joins_is_told_where_to_come_in(mesh: Plant) -> None:
    created = await mesh.plane.create_token(TokenRequest(namespaces=("*",), ttl=60.0))
    reply = await joining.join(JoinString.parse(created.join_string), "m6", keys.generate())
    assert reply.addresses == (mesh.doors.address,)
