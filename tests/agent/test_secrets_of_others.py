"""A proxy that asks for the secrets of another gets none of them, whatever name it says. Item C13, in short.

Keys never get beyond the agent that made them, so there are two who could hand one out: the agent, whose shelves are by
proxy, and a control plane, which has none, and through which nothing that is asked of secrets passes.
"""

import grpc.aio
from cryptography import x509

from agent.world import World, free_port
from masche.testing.fake_proxy import FakeProxy
from masche.wire import secret
from masche.wire.types import SECRET


async def test_a_proxy_gets_its_own_secrets_and_those_of_nobody_else(machine: World) -> None:
    for service in ("orders", "web"):
        await machine.run(service, port=free_port())
    orders, web = await machine.ready("orders"), await machine.ready("web")
    names = (secret.CERTIFICATE, secret.ROOTS)
    theirs = (
        f"workload/{orders.workload}",
        orders.proxy,
        orders.workload,
        "kubernetes://shop/orders",
        "../default",
        "*",
    )
    async with (
        grpc.aio.insecure_channel(f"unix:{machine.folders.relay_socket}") as channel,
        FakeProxy(channel, web.proxy) as proxy,
    ):
        await proxy.subscribe(SECRET, *theirs, *names)
        await proxy.until(lambda: proxy.names(SECRET) == set(names))
        identity = _identity(proxy.held[SECRET][secret.CERTIFICATE].frame)
    assert identity.endswith("/ns/shop/sa/web")
    assert not any(SECRET.encode() in each for each in machine.plane.received), "a control plane was asked for secrets"


def _identity(answer: bytes) -> str:
    """As whom the certificate in a secret calls."""
    _, begin, rest = answer.partition(b"-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition(b"-----END CERTIFICATE-----")
    names = x509.load_pem_x509_certificate(begin + body + end).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    [found] = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    return found
