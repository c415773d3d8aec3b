"""No private key is ever in a message: every byte that a machine sends, in plaintext, is read and searched."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from link.plane import Plane, connected, proxy, serve, until
from masche.identity import credential, keys
from masche.identity.join import Grant
from masche.identity.keys import PrivateKey
from masche.identity.spiffe import SpiffeId
from masche.link import messages
from masche.link.client import LinkClient, Target
from masche.link.messages import JoinRequest, RenewRequest, Report, SignRequest
from masche.model.refs import Name


def forms(key: PrivateKey) -> dict[str, bytes]:
    """Every form in which a key could leave: the bare number, DER and PEM of all formats, its text in hex."""
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    found = {"scalar": scalar, "hex": scalar.hex().encode()}
    for style in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        found[f"DER {style}"] = key.private_bytes(serialization.Encoding.DER, style, serialization.NoEncryption())
        pem = key.private_bytes(serialization.Encoding.PEM, style, serialization.NoEncryption())
        found[f"PEM {style}"] = pem.splitlines()[1]
    return found


def assert_clean(sent: bytes, made: list[PrivateKey]) -> None:
    assert b"PRIVATE KEY" not in sent
    for key in made:
        for form, data in forms(key).items():
            assert data not in sent, f"a key left as {form}"


class Recorder:
    """Stands between a client and a Unix socket and keeps what the client sends."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.sent = bytearray()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self.upstream)
        try:
            await asyncio.gather(self._pump(reader, up_writer, self.sent), self._pump(up_reader, writer, bytearray()))
        finally:
            up_writer.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
        while data := await reader.read(65536):
            kept += data
            writer.write(data)
            await writer.drain()
        writer.close()


async def test_the_link_carries_no_private_key(
    plane: Plane, tmp_path: Path, link: Callable[[Target], LinkClient]
) -> None:
    server = await serve(plane, f"unix:{tmp_path}/control.sock")
    recorder = Recorder(f"{tmp_path}/control.sock")
    relay = await asyncio.start_unix_server(recorder.serve, f"{tmp_path}/relay.sock")
    client = link(Target(address=f"unix:{tmp_path}/relay.sock"))
    await connected(client)
    client.put(proxy("p1"))
    await until(plane.states, "registered")
    made = [keys.generate() for _ in range(5)]
    for key in made:
        request = keys.signing_request(key)
        await client.sign(SignRequest(proxy="p1", workload=Name("shop", "orders"), csr=request))
        assert request in bytes(recorder.sent), "the recorder sees what is sent"
    await client.report(Report(machine="m1", epoch="e", sequence=1))
    assert len(recorder.sent) > 1500
    assert_clean(bytes(recorder.sent), made)
    relay.close()
    await server.stop(0)


async def test_joining_and_renewing_carry_no_private_key(plane: Plane) -> None:
    old, new = keys.generate(), keys.generate()
    token = await plane.tokens.issue(Grant(), now=time.time())
    join = JoinRequest(token=token.reveal().decode(), machine="m1", csr=keys.signing_request(old))
    reply = await plane.join("unix:", join)
    request = keys.signing_request(new)
    renewal = RenewRequest(chain=reply.chain, csr=request, proof=credential.prove(old, reply.chain, request))
    assert (await plane.renew("unix:", renewal)).machine == "m1"
    assert_clean(messages.encode(join) + messages.encode(renewal), [old, new])


def test_the_search_itself_finds_a_key_in_every_form() -> None:
    key = keys.generate()
    for form, data in forms(key).items():
        try:
            assert_clean(b"before" + data + b"after", [key])
        except AssertionError:
            continue
        raise AssertionError(f"{form} was not found")


def test_what_is_signed_for_a_workload_is_its_registration(plane: Plane) -> None:
    identity = SpiffeId.of_workload("mesh.local", "shop", "orders")
    issued = plane.authority.sign(keys.signing_request(keys.generate()), identity, now=time.time())
    leaf = x509.load_pem_x509_certificate(issued.chain.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(identity)]
