"""A machine comes in by its join string, and stays in by renewing, over real TLS."""

import asyncio
import time
from datetime import UTC, datetime
from random import Random

import pytest
from cryptography import x509

from link.plane import Mutual, connected, hello
from masche.identity import dialling, keys
from masche.identity.authority import Authority
from masche.identity.bundle import TrustBundle
from masche.identity.join import Grant, JoinString
from masche.identity.trust import BundleError
from masche.link import joining
from masche.link.client import LinkClient, Target
from masche.link.messages import JoinReply
from masche.link.refusal import RefusedError
from masche.rpc.channel import Channel
from masche.rpc.status import Code, RpcError


async def invited(mutual: Mutual, **grant: tuple[str, ...]) -> JoinString:
    token = await mutual.plane.tokens.issue(Grant(**grant), now=time.time())
    [pin] = mutual.plane.authority.bundle.fingerprints
    text = JoinString(host="127.0.0.1", port=mutual.joining_port, root=pin, token=token).reveal()
    return JoinString.parse(text)


def bundle_of(reply: JoinReply) -> TrustBundle:
    return TrustBundle.of_pem(reply.bundle.trust_domain, reply.bundle.roots)


async def test_a_token_becomes_a_credential_that_opens_the_link(mutual: Mutual) -> None:
    key = keys.generate()
    reply = await joining.join(await invited(mutual), "laptop", key)
    assert reply.machine == "laptop"
    assert 29 * 86400 < reply.lifetime <= 30 * 86400
    presented = mutual.presented_by(key, reply.chain, bundle_of(reply))
    client = LinkClient([Target(address=mutual.address, presented=lambda: presented)], hello, rng=Random(1))
    running = asyncio.ensure_future(client.run())
    async with asyncio.timeout(10):
        await connected(client)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_token_is_refused_the_second_time(mutual: Mutual) -> None:
    string = await invited(mutual)
    await joining.join(string, "laptop", keys.generate())
    with pytest.raises(RefusedError, match="unknown, expired or already used") as caught:
        await joining.join(string, "laptop", keys.generate())
    assert caught.value.fix == "ask for a new token"


async def test_a_second_machine_of_the_same_name_becomes_another_machine(mutual: Mutual) -> None:
    first = await joining.join(await invited(mutual), "laptop", keys.generate())
    second = await joining.join(await invited(mutual), "laptop", keys.generate())
    assert first.machine == "laptop"
    assert second.machine.startswith("laptop-")


async def test_another_root_is_noticed_before_the_token_is_shown(mutual: Mutual) -> None:
    string = await invited(mutual)
    wrong = JoinString(host=string.host, port=string.port, root="0" * 64, token=string.token)
    with pytest.raises(BundleError, match="not the mesh that was meant"):
        await joining.join(wrong, "laptop", keys.generate())
    assert (await joining.join(string, "laptop", keys.generate())).machine == "laptop", "the token is still good"


async def test_a_server_that_shows_our_root_without_a_certificate_under_it_gets_no_token(
    mutual: Mutual, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An impostor can copy the public root into its chain; its own certificate still does not verify."""
    other = Authority.open(tmp_path_factory.mktemp("other") / "a", "mesh.local", now=time.time(), audit=lambda _: None)
    key = keys.generate()
    issued = other.sign_control_plane(keys.signing_request(key), [], now=time.time())
    mutual.presented = mutual.presented_by(key, issued.chain, mutual.plane.authority.bundle)
    string = await invited(mutual)
    with pytest.raises(ConnectionError):
        await joining.join(string, "laptop", keys.generate())
    assert len(await mutual.plane.tokens.unspent(now=time.time())) == 1


async def test_a_credential_is_renewed_after_it_expired_and_only_with_its_key(mutual: Mutual) -> None:
    old = keys.generate()
    reply = await joining.join(await invited(mutual), "laptop", old)
    target = f"127.0.0.1:{mutual.joining_port}"
    bundle = bundle_of(reply)
    with pytest.raises(RefusedError, match="proof"):
        await joining.renew(target, bundle, reply.chain, keys.generate(), keys.generate())
    with pytest.raises(RefusedError, match="new key"):
        await joining.renew(target, bundle, reply.chain, old, old)
    renewed = await joining.renew(target, bundle, reply.chain, old, keys.generate())
    assert renewed.machine == "laptop"
    assert x509.load_pem_x509_certificate(renewed.chain.encode()).not_valid_after_utc > datetime.now(UTC)


async def test_the_joining_port_serves_nothing_else(mutual: Mutual) -> None:
    async with at_the_door(mutual) as channel:
        for path in ("/masche.link.v1.Link/SignCsr", "/masche.link.v1.Link/Register"):
            with pytest.raises(RpcError) as caught:
                await channel.unary(path, b"", within=5)
            assert caught.value.code is Code.UNIMPLEMENTED


async def test_an_oversized_join_is_not_read(mutual: Mutual) -> None:
    async with at_the_door(mutual) as channel:
        with pytest.raises(RpcError) as caught:
            await channel.unary("/masche.link.v1.Joining/Join", b"x" * 100_000, within=5)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def at_the_door(mutual: Mutual) -> Channel:
    bundle = mutual.plane.authority.bundle
    return dialling.joining(f"127.0.0.1:{mutual.joining_port}", bundle.pem, max_receive_bytes=1 << 20)
