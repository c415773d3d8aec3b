"""xDS over mutual TLS: who is let in, as whom, and that a certificate can be exchanged while streams run."""

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from xds_plane import Plane
from xds_worlds import blob, cluster, world

from masche.identity import transport
from masche.identity.keys import Secret
from masche.identity.presented import Presented
from masche.identity.spiffe import SpiffeId
from masche.identity.tls import mutual_server_credentials
from masche.testing.fake_proxy import FakeProxy
from masche.wire.discovery import MAX_REQUEST_BYTES
from masche.wire.types import CLUSTER, ENDPOINTS
from masche.xds.server import handlers

MACHINE = "spiffe://mesh.local/machine/m1"
CONTROL = "spiffe://mesh.local/control-plane"


class Authority:
    """A small certificate authority for tests."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        constraints = (x509.BasicConstraints(ca=True, path_length=None), True)
        self.root = self._sign(self.name, self.key.public_key(), [constraints])

    @property
    def pem(self) -> bytes:
        return self.root.public_bytes(serialization.Encoding.PEM)

    def issue(self, *uris: str) -> Presented:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        leaf = self._sign(subject, key.public_key(), [(x509.SubjectAlternativeName(names), False)])
        return Presented(
            key=Secret(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            ),
            chain=leaf.public_bytes(serialization.Encoding.PEM).decode(),
            roots=self.pem.decode(),
        )

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extensions) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        return builder.sign(self.key, hashes.SHA256())


@dataclass
class Secured:
    plane: Plane
    port: int
    material: Presented

    @asynccontextmanager
    async def proxy(self, own: Presented | None, roots: bytes, node_id: str = "web") -> AsyncIterator[FakeProxy]:
        credentials = grpc.ssl_channel_credentials(roots, own and own.key.reveal(), own and own.chain.encode())
        # A channel of its own each time: gRPC would otherwise share one connection, and with it one handshake.
        private = (("grpc.use_local_subchannel_pool", 1),)
        async with (
            grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options=private) as channel,
            FakeProxy(channel, node_id) as proxy,
        ):
            yield proxy


@asynccontextmanager
async def serving(material: Presented) -> AsyncIterator[Secured]:
    secured = Secured(Plane(), 0, material)
    server = grpc.aio.server(options=transport.server(max_receive_bytes=MAX_REQUEST_BYTES))
    server.add_generic_rpc_handlers((handlers(secured.plane),))
    secured.port = server.add_secure_port("127.0.0.1:0", mutual_server_credentials(lambda: secured.material))
    await server.start()
    secured.plane.want("web", world(cluster("a")))
    yield secured
    await server.stop(0)


async def test_the_peer_is_known_by_the_one_spiffe_id_of_its_certificate():
    root = Authority()
    async with serving(root.issue(CONTROL)) as secured, secured.proxy(root.issue(MACHINE), root.pem) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.names(CLUSTER) == {"a"})
        (seat,) = secured.plane.seats
        assert seat.peer.spiffe_id == SpiffeId.parse(MACHINE)
        assert not seat.peer.is_local


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://mesh.local/machine/m1",),
        (MACHINE, "spiffe://mesh.local/machine/m2"),
        ("spiffe://mesh.local/a//b",),
    ],
    ids=["no URI", "no SPIFFE ID", "two SPIFFE IDs", "a malformed one"],
)
async def test_a_certificate_without_exactly_one_valid_spiffe_id_is_refused(uris: tuple[str, ...]):
    root = Authority()
    async with serving(root.issue(CONTROL)) as secured, secured.proxy(root.issue(*uris), root.pem) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.code is grpc.StatusCode.UNAUTHENTICATED)
        assert secured.plane.seats == []


@pytest.mark.parametrize("has_certificate", [False, True], ids=["no certificate", "another authority"])
async def test_a_stranger_does_not_get_past_the_handshake(has_certificate: bool):
    root = Authority()
    own = Authority().issue(MACHINE) if has_certificate else None
    async with serving(root.issue(CONTROL)) as secured, secured.proxy(own, root.pem) as proxy:
        await proxy.subscribe(CLUSTER)
        await proxy.until(lambda: proxy.code is grpc.StatusCode.UNAVAILABLE)
        assert secured.plane.seats == []


async def test_certificate_and_roots_are_exchanged_without_disturbing_streams_that_run():
    old, new = Authority(), Authority()
    async with serving(old.issue(CONTROL)) as secured, secured.proxy(old.issue(MACHINE), old.pem) as veteran:
        await veteran.subscribe(CLUSTER)
        await veteran.until(lambda: veteran.names(CLUSTER))
        secured.material = new.issue(CONTROL)
        async with secured.proxy(new.issue(MACHINE), new.pem) as newcomer:
            await newcomer.subscribe(CLUSTER)
            await newcomer.until(lambda: newcomer.names(CLUSTER))
        await veteran.subscribe(ENDPOINTS, "a")
        secured.plane.want("web", world(cluster("a"), blob(ENDPOINTS, "a")))
        await veteran.until(lambda: veteran.names(ENDPOINTS))
        async with secured.proxy(old.issue(MACHINE), old.pem) as outdated:
            await outdated.subscribe(CLUSTER)
            await outdated.until(lambda: outdated.code is grpc.StatusCode.UNAVAILABLE)
