"""Which certificates are somebody: the X.509-SVID matrix, in handshakes of Python's ssl and in ``svid.identity``."""

import asyncio
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from masche.identity import files, keys, svid
from masche.identity.authority import Authority
from masche.identity.keys import PrivateKey
from masche.identity.spiffe import SpiffeId
from masche.identity.svid import SvidError

WEB = SpiffeId.of_workload("mesh.local", "shop", "web")
NOW = time.time()
Shown = tuple[str, PrivateKey]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)


def issue(authority: Authority, *, now: float = NOW, lifetime: float = 3600.0) -> Shown:
    key = keys.generate()
    return authority.sign(keys.signing_request(key), WEB, now=now, lifetime=lifetime).chain, key


def context(authority: Authority, shown: Shown, folder: Path, *, server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=authority.bundle.pem)
    path = folder / ("server.pem" if server else "client.pem")
    files.write_private(path, shown[0].encode() + keys.private_pem(shown[1]).reveal())
    made.load_cert_chain(path)
    return made


async def handshake(authority: Authority, server: Shown, client: Shown, folder: Path) -> str:
    """The SPIFFE ID that the server saw, over loopback; raises what the handshake raised on either side."""
    seen: asyncio.Future[bytes | BaseException] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"ok")
        await writer.drain()
        writer.close()
        seen.set_result(shown)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context(authority, server, folder, server=True))
    port = listening.sockets[0].getsockname()[1]
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context(authority, client, folder, server=False)
        )
        try:
            if await reader.read() != b"ok":
                raise ConnectionError("the server closed the connection")
        finally:
            writer.close()
    except OSError:
        assert not seen.done(), "the server's application saw a connection that was refused"
        raise
    finally:
        listening.close()
    found = await seen
    assert isinstance(found, bytes)
    return str(svid.identity(x509.load_der_x509_certificate(found)))


async def test_two_workloads_shake_hands_and_see_who_they_are(authority: Authority, tmp_path: Path) -> None:
    found = await handshake(authority, issue(authority), issue(authority), tmp_path)
    assert found == "spiffe://mesh.local/ns/shop/sa/web"


async def test_a_peer_whose_clock_is_five_minutes_behind_takes_a_new_leaf(authority: Authority, tmp_path: Path) -> None:
    early = issue(authority, now=NOW + 290)
    assert await handshake(authority, early, early, tmp_path)


def other_root(authority: Authority, folder: Path) -> Shown:
    return issue(Authority.open(folder / "other", "mesh.local", now=NOW, audit=lambda _: None))


def without_intermediate(authority: Authority, folder: Path) -> Shown:
    chain, key = issue(authority)
    return chain.split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n", key


def signed_by_a_leaf(authority: Authority, folder: Path) -> Shown:
    chain, parent = issue(authority)
    child = keys.generate()
    forged = craft(child, issuer=x509.load_pem_x509_certificate(chain.encode()), issuer_key=parent)
    return forged.public_bytes(Encoding.PEM).decode() + chain, child


def of_the_same_names_but_another_key(authority: Authority, folder: Path) -> Shown:
    """An intermediate that calls itself what ours is called."""
    chain, _ = issue(authority)
    _, intermediate = x509.load_pem_x509_certificates(chain.encode())
    impostor, child = keys.generate(), keys.generate()
    forged = craft(child, issuer=intermediate, issuer_key=impostor)
    return forged.public_bytes(Encoding.PEM).decode() + chain.split("-----END CERTIFICATE-----\n")[1], child


def expired(authority: Authority, folder: Path) -> Shown:
    return issue(authority, now=NOW - 7200, lifetime=3600)


def not_yet_valid(authority: Authority, folder: Path) -> Shown:
    return issue(authority, now=NOW + 3600)


REFUSED: list[Callable[[Authority, Path], Shown]] = [
    other_root,
    without_intermediate,
    signed_by_a_leaf,
    of_the_same_names_but_another_key,
    expired,
    not_yet_valid,
]


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_bad_chain_is_refused_by_either_side(
    tmp_path: Path, make: Callable[[Authority, Path], Shown], side: str
) -> None:
    authority = Authority.open(tmp_path / "a", "mesh.local", now=NOW - 86400, audit=lambda _: None)
    good, bad = issue(authority), make(authority, tmp_path)
    pair = (bad, good) if side == "server" else (good, bad)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(authority, *pair, tmp_path)


# what the leaf itself must be

USAGE = dict.fromkeys(
    [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ],
    False,
)


def usage(**bits: bool) -> tuple[x509.ExtensionType, bool]:
    return x509.KeyUsage(**(USAGE | bits)), True


def uris(*names: str) -> tuple[x509.ExtensionType, bool]:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names]), True


LEAF_USAGE = usage(digital_signature=True)
NO_AUTHORITY = (x509.BasicConstraints(ca=False, path_length=None), True)


def craft(
    key: PrivateKey,
    *extensions: tuple[x509.ExtensionType, bool],
    issuer: x509.Certificate | None = None,
    issuer_key: PrivateKey | None = None,
) -> x509.Certificate:
    """Any certificate, self-signed unless an issuer is given."""
    nobody = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject if issuer else nobody)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
    )
    wanted = extensions or (
        uris(str(WEB)),
        LEAF_USAGE,
        NO_AUTHORITY,
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer_key or key).public_key()), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    )
    for extension, critical in wanted:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key or key, hashes.SHA256())


@pytest.mark.parametrize(
    "extensions",
    [
        (uris(str(WEB)), LEAF_USAGE, NO_AUTHORITY),
        (uris(str(WEB)), LEAF_USAGE),
        (uris(str(WEB)), usage(digital_signature=True, key_agreement=True), NO_AUTHORITY),
        (
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(WEB)), x509.DNSName("a.example")]), False),
            LEAF_USAGE,
        ),
    ],
)
def test_a_leaf_that_is_an_svid_has_its_identity(extensions: tuple[tuple[x509.ExtensionType, bool], ...]) -> None:
    assert svid.identity(craft(keys.generate(), *extensions)) == WEB


BAD_LEAVES = {
    "no names": (LEAF_USAGE,),
    "a DNS name alone": ((x509.SubjectAlternativeName([x509.DNSName("a.example")]), True), LEAF_USAGE),
    "two identities": (uris(str(WEB), "spiffe://mesh.local/ns/shop/sa/carts"), LEAF_USAGE),
    "the identity and another URI": (uris(str(WEB), "https://a.example"), LEAF_USAGE),
    "another scheme": (uris("https://mesh.local/ns/shop/sa/web"), LEAF_USAGE),
    "a trust domain alone": (uris("spiffe://mesh.local"), LEAF_USAGE),
    "a query": (uris(f"{WEB}?a"), LEAF_USAGE),
    "a dot segment": (uris("spiffe://mesh.local/ns/shop/../shop/sa/web"), LEAF_USAGE),
    "capitals in the trust domain": (uris("spiffe://MESH.local/ns/shop/sa/web"), LEAF_USAGE),
    "NUL": (uris(f"{WEB}\x00.evil"), LEAF_USAGE),
    "no key usage": (uris(str(WEB)),),
    "key usage not critical": (uris(str(WEB)), (LEAF_USAGE[0], False)),
    "no digitalSignature": (uris(str(WEB)), usage(key_agreement=True)),
    "keyCertSign": (uris(str(WEB)), usage(digital_signature=True, key_cert_sign=True)),
    "cRLSign": (uris(str(WEB)), usage(digital_signature=True, crl_sign=True)),
    "an authority": (uris(str(WEB)), LEAF_USAGE, (x509.BasicConstraints(ca=True, path_length=0), True)),
}


@pytest.mark.parametrize("case", BAD_LEAVES)
def test_a_leaf_that_is_no_svid_is_nobody(case: str) -> None:
    with pytest.raises(SvidError):
        svid.identity(craft(ec.generate_private_key(ec.SECP256R1()), *BAD_LEAVES[case]))
