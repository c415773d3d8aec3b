"""The authority: its files, the certificates it makes, and the requests it refuses."""

import os
import ssl
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from masche.identity import authority as module
from masche.identity import files, keys
from masche.identity.authority import DAY, Authority, Issuance, Refusal
from masche.identity.bundle import TrustBundle, fingerprint
from masche.identity.csr import CsrError, public_key
from masche.identity.files import UnsafeFileError
from masche.identity.issuers import AuthorityError
from masche.identity.spiffe import SpiffeId
from masche.identity.trust import CONTROL_PLANE_NAME, BundleError

WEB = SpiffeId.of_workload("mesh.local", "shop", "web")
CARTS = SpiffeId.of_workload("mesh.local", "shop", "carts")
NOW = float(int(time.time()))


class Ledger(list[Issuance | Refusal]):
    def __call__(self, entry: Issuance | Refusal) -> None:
        self.append(entry)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def authority(tmp_path: Path, ledger: Ledger) -> Authority:
    return Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=ledger)


def fresh() -> bytes:
    return keys.signing_request(keys.generate())


def leaf_of(chain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain.encode())


def test_its_files_are_private_under_umask_zero(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)
        made.trust(Authority.open(tmp_path / "b", "mesh.local", now=NOW, audit=lambda _: None).bundle.roots[0])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "a").iterdir()}
    assert set(modes) == {"root.key", "root.pem", "intermediate.key", "intermediate.pem", "bundle.pem"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("name", ["root.key", "intermediate.key", "."])
def test_it_refuses_to_start_when_others_can_read_its_keys(authority: Authority, tmp_path: Path, name: str) -> None:
    (tmp_path / "a" / name).chmod(0o750 if name == "." else 0o644)
    with pytest.raises(UnsafeFileError, match="chmod go="):
        Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)


def test_opened_again_it_is_the_same_authority(authority: Authority, tmp_path: Path) -> None:
    again = Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)
    assert again.bundle == authority.bundle
    assert (
        again.sign(fresh(), WEB, now=NOW).chain.split("-----END")[1]
        == authority.sign(fresh(), WEB, now=NOW).chain.split("-----END")[1]
    ), "the same intermediate"


def test_it_is_not_opened_for_another_trust_domain(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="not of the trust domain other"):
        Authority.open(tmp_path / "a", "other", now=NOW, audit=lambda _: None)


def test_an_expired_root_is_refused_with_a_cure(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="install a new root"):
        Authority.open(tmp_path / "a", "mesh.local", now=NOW + 3700 * DAY, audit=lambda _: None)


def test_the_intermediate_is_renewed_at_half_life_and_the_old_leaves_still_verify(authority: Authority) -> None:
    old = authority.sign(fresh(), WEB, now=NOW, lifetime=300 * DAY)
    new = authority.sign(fresh(), WEB, now=NOW + 200 * DAY)
    assert old.chain.split("-----END")[1] != new.chain.split("-----END")[1]
    assert new.lifetime == DAY
    for chain in (old.chain, new.chain):
        assert verifies(chain, authority.bundle, at=NOW + 200 * DAY)


def test_without_the_roots_key_it_signs_until_the_intermediate_ends(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "a" / "root.key").unlink()
    offline = Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)
    assert offline.sign(fresh(), WEB, now=NOW + 300 * DAY).lifetime == DAY
    with pytest.raises(AuthorityError, match=r"put root\.key back"):
        offline.sign(fresh(), WEB, now=NOW + 367 * DAY)


def test_a_leaf_never_outlives_its_issuer(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "a" / "root.key").unlink()
    offline = Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)
    issued = offline.sign(fresh(), WEB, now=NOW + 365.5 * DAY)
    assert issued.lifetime == DAY / 2


@pytest.mark.parametrize("missing", ["root.pem", "intermediate.key", "intermediate.pem"])
def test_being_killed_between_two_files_leaves_nothing_broken(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "a"
    Authority.open(folder, "mesh.local", now=NOW, audit=lambda _: None)
    (folder / missing).unlink()
    again = Authority.open(folder, "mesh.local", now=NOW, audit=lambda _: None)
    assert verifies(again.sign(fresh(), WEB, now=NOW).chain, again.bundle, at=NOW)


def test_an_intermediate_key_without_its_certificate_is_certified_anew(authority: Authority, tmp_path: Path) -> None:
    key = keys.private_pem(keys.generate()).reveal()
    files.write_private(tmp_path / "a" / "intermediate.key", key)
    again = Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)
    assert verifies(again.sign(fresh(), WEB, now=NOW).chain, authority.bundle, at=NOW)


def test_a_roots_key_that_is_not_the_roots_is_refused(authority: Authority, tmp_path: Path) -> None:
    files.write_private(tmp_path / "a" / "root.key", keys.private_pem(keys.generate()).reveal())
    with pytest.raises(AuthorityError, match="is not the key of"):
        Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)


KILLED = """
import os, sys
from pathlib import Path
from masche.identity import files
from masche.identity.authority import Authority
steps = int(sys.argv[2])
real = files.os.fsync
def fsync(descriptor):
    global steps
    steps -= 1
    if steps < 0:
        os.kill(os.getpid(), 9)
    real(descriptor)
files.os.fsync = fsync
Authority.open(Path(sys.argv[1]), "mesh.local", now=float(sys.argv[3]), audit=lambda _: None)
"""


def test_killed_at_every_step_of_its_making_it_is_finished_by_the_next_start(tmp_path: Path) -> None:
    for step in range(9):
        folder = tmp_path / str(step)
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(step), str(NOW)], check=False)
        assert done.returncode == (-9 if step < 8 else 0)
        made = Authority.open(folder, "mesh.local", now=NOW, audit=lambda _: None)
        assert verifies(made.sign(fresh(), WEB, now=NOW).chain, made.bundle, at=NOW)


def verifies(chain: str, bundle: TrustBundle, *, at: float) -> bool:
    leaf, *rest = x509.load_pem_x509_certificates(chain.encode())
    policy = x509.verification.PolicyBuilder().store(x509.verification.Store(list(bundle.roots)))
    verifier = policy.time(datetime.fromtimestamp(at, UTC)).build_client_verifier()
    names = verifier.verify(leaf, rest).subjects
    return names is not None and len(names) == 1


def test_a_leaf_is_an_x509_svid(authority: Authority) -> None:
    issued = authority.sign(fresh(), WEB, now=NOW)
    leaf = leaf_of(issued.chain)
    get = leaf.extensions.get_extension_for_class
    san = get(x509.SubjectAlternativeName)
    assert san.critical
    assert list(san.value) == [x509.UniformResourceIdentifier(str(WEB))]
    assert not list(leaf.subject)
    assert get(x509.BasicConstraints).critical
    assert not get(x509.BasicConstraints).value.ca
    usage = get(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert set(get(x509.ExtendedKeyUsage).value) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert get(x509.AuthorityKeyIdentifier).value.key_identifier
    assert get(x509.SubjectKeyIdentifier)
    assert leaf.not_valid_before_utc == datetime.fromtimestamp(NOW - 300, UTC) or (
        leaf.not_valid_before_utc == datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=5)
    )
    assert leaf.not_valid_after_utc == datetime.fromtimestamp(NOW + DAY, UTC)
    assert issued.serial == f"{leaf.serial_number:032x}"


def test_signing_certificates_are_authorities_of_the_trust_domain_without_a_path(authority: Authority) -> None:
    issued = authority.sign(fresh(), WEB, now=NOW)
    _, intermediate = x509.load_pem_x509_certificates(issued.chain.encode())
    for certificate, length in ((intermediate, 0), (authority.bundle.roots[0], 1)):
        get = certificate.extensions.get_extension_for_class
        assert get(x509.BasicConstraints).critical
        assert get(x509.BasicConstraints).value.path_length == length
        assert get(x509.KeyUsage).critical
        assert get(x509.KeyUsage).value.key_cert_sign
        san = get(x509.SubjectAlternativeName).value
        assert san.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://mesh.local"]


def test_serial_numbers_do_not_repeat(authority: Authority) -> None:
    serials = {authority.sign(fresh(), WEB, now=NOW).serial for _ in range(500)}
    assert len(serials) == 500
    assert max(int(s, 16) for s in serials) > 1 << 120


def test_a_control_plane_has_its_names(authority: Authority) -> None:
    issued = authority.sign_control_plane(fresh(), ["cp.example.org", "10.0.0.1", "::1"], now=NOW)
    san = leaf_of(issued.chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://mesh.local/control-plane"]
    assert san.get_values_for_type(x509.DNSName) == [CONTROL_PLANE_NAME, "cp.example.org"]
    assert [str(ip) for ip in san.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]


@pytest.mark.parametrize("name", ["spiffe://other/ns/a/sa/b", "spiffe://mesh.local.evil/ns/a/sa/b"])
def test_it_signs_for_its_own_trust_domain_alone(authority: Authority, ledger: Ledger, name: str) -> None:
    with pytest.raises(CsrError, match="not of the trust domain"):
        authority.sign(fresh(), SpiffeId.parse(name), now=NOW)
    assert isinstance(ledger[-1], Refusal)


def test_every_issuance_is_audited_before_it_leaves(authority: Authority, ledger: Ledger) -> None:
    issued = authority.sign(fresh(), WEB, now=NOW)
    [entry] = ledger
    assert isinstance(entry, Issuance)
    assert (entry.identity, entry.serial, entry.not_after) == (WEB, issued.serial, issued.not_after)


def test_when_the_audit_fails_no_certificate_leaves(tmp_path: Path) -> None:
    def broken(_: object) -> None:
        raise OSError("disk full")

    authority = Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=broken)
    with pytest.raises(OSError, match="disk full"):
        authority.sign(fresh(), WEB, now=NOW)


# requests that ask for too much, or prove too little


def csr(key: object = None, *extensions: x509.ExtensionType, subject: str = "", digest: object = None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    key = key or keys.generate()
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else digest or hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type] - all kinds of keys


def uris(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(n) for n in names])


def tampered() -> bytes:
    good = bytearray(fresh())
    good[-3] ^= 0xFF
    return bytes(good)


def signed_by_another_key() -> bytes:
    """The request of one key with the signature of another."""
    mine, other = fresh(), fresh()
    loaded, foreign = x509.load_der_x509_csr(mine), x509.load_der_x509_csr(other)
    if len(loaded.signature) == len(foreign.signature):
        return mine.replace(loaded.signature, foreign.signature)
    return signed_by_another_key()


ABUSES = {
    "another identity": (lambda: csr(None, uris(str(CARTS))), "registered as"),
    "several identities": (lambda: csr(None, uris(str(WEB), str(CARTS))), "registered as"),
    "the identity twice": (lambda: csr(None, uris(str(WEB), str(WEB))), "registered as"),
    "a DNS name": (lambda: csr(None, x509.SubjectAlternativeName([x509.DNSName(CONTROL_PLANE_NAME)])), "registered as"),
    "NUL in the identity": (lambda: csr(None, uris(str(WEB) + "\x00")), "registered as"),
    "a CA bit": (lambda: csr(None, x509.BasicConstraints(ca=True, path_length=None)), "an authority"),
    "an extension": (lambda: csr(None, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])), "the extension"),
    "RSA 1024": (lambda: csr(rsa.generate_private_key(65537, 1024)), "1024 bits"),
    "P-224": (lambda: csr(ec.generate_private_key(ec.SECP224R1())), "secp224r1"),
    "secp256k1": (lambda: csr(ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
    "Ed25519": (lambda: csr(ed25519.Ed25519PrivateKey.generate()), "Ed25519PublicKey"),
    "DSA": (lambda: csr(dsa.generate_private_key(1024)), "DSAPublicKey"),
    "a bad signature": (tampered, "possession|not a certificate request"),
    "a foreign signature": (signed_by_another_key, "possession"),
    "oversized": (lambda: fresh() + b"\0" * 20_000, "at most 16384"),
    "trailing bytes": (lambda: fresh() + b"\0", "not a certificate request"),
    "empty": (lambda: b"", "not a certificate request"),
    "PEM": (lambda: b"-----BEGIN CERTIFICATE REQUEST-----", "not a certificate request"),
    "a certificate": (lambda: TRUSTED.public_bytes(Encoding.DER), "not a certificate request"),
}
TRUSTED = (
    x509.CertificateBuilder()
    .subject_name(x509.Name([]))
    .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
    .public_key(keys.generate().public_key())
    .serial_number(1)
    .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
    .not_valid_after(datetime(2021, 1, 1, tzinfo=UTC))
    .sign(keys.generate(), hashes.SHA256())
)


@pytest.mark.parametrize("abuse", ABUSES)
def test_a_request_that_abuses_is_refused_and_audited(authority: Authority, ledger: Ledger, abuse: str) -> None:
    make, why = ABUSES[abuse]
    with pytest.raises(CsrError, match=why):
        authority.sign(make(), WEB, now=NOW)
    [entry] = ledger
    assert isinstance(entry, Refusal)
    assert entry.identity == WEB


def test_a_key_certified_for_one_identity_is_refused_for_another(authority: Authority) -> None:
    request = fresh()
    authority.sign(request, WEB, now=NOW)
    authority.sign(request, WEB, now=NOW)
    with pytest.raises(CsrError, match="make a new one"):
        authority.sign(request, CARTS, now=NOW)


def test_the_authoritys_own_keys_are_refused(authority: Authority, tmp_path: Path) -> None:
    for name in ("root.key", "intermediate.key"):
        key = keys.load_private(keys.read_secret(tmp_path / "a" / name))
        with pytest.raises(CsrError, match="the authority's own"):
            authority.sign(keys.signing_request(key), WEB, now=NOW)


def test_what_a_request_says_of_its_subject_is_not_copied(authority: Authority) -> None:
    issued = authority.sign(csr(None, uris(str(WEB)), subject="admin"), WEB, now=NOW)
    assert not list(leaf_of(issued.chain).subject)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_strong_keys_of_other_kinds_are_taken(authority: Authority, key: object) -> None:
    assert verifies(authority.sign(csr(key), WEB, now=NOW).chain, authority.bundle, at=NOW)


@given(st.binary(max_size=400))
def test_junk_is_a_refusal(data: bytes) -> None:
    with pytest.raises(CsrError):
        public_key(data, WEB)


@given(st.integers(0, 300), st.integers(1, 255))
def test_a_request_with_any_byte_changed_is_refused_or_proves_its_own_key(position: int, change: int) -> None:
    data = bytearray(REQUEST)
    data[position % len(data)] ^= change
    try:
        public_key(bytes(data), WEB)
    except CsrError:
        return
    raise AssertionError("a changed request was taken")


REQUEST = fresh()


# trust bundles


def test_a_bundle_of_two_roots_verifies_leaves_of_both(authority: Authority, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "b", "mesh.local", now=NOW, audit=lambda _: None)
    authority.trust(other.bundle.roots[0])
    for signer in (authority, other):
        assert verifies(signer.sign(fresh(), WEB, now=NOW).chain, authority.bundle, at=NOW)
    again = Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)
    assert again.bundle.fingerprints == authority.bundle.fingerprints
    assert TrustBundle.of_pem("mesh.local", authority.bundle.pem) == authority.bundle


@pytest.mark.parametrize("pem", ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_root_is_a_bundle_error(pem: str) -> None:
    with pytest.raises(BundleError):
        TrustBundle.of_pem("mesh.local", pem)


def test_a_leaf_is_no_root(authority: Authority) -> None:
    with pytest.raises(BundleError, match="not an authority"):
        TrustBundle.of_pem("mesh.local", authority.sign(fresh(), WEB, now=NOW).chain.split("-----END")[0] + END)


END = "-----END CERTIFICATE-----\n"


def test_the_pin_is_the_sha256_that_other_tools_compute(authority: Authority) -> None:
    [root] = authority.bundle.roots
    assert fingerprint(root) == root.fingerprint(hashes.SHA256()).hex()
    assert ssl.PEM_cert_to_DER_cert(authority.bundle.pem) == root.public_bytes(Encoding.DER)


def test_one_core_signs_fast_enough(authority: Authority) -> None:
    """The measured rate is about 3,400/s on an idle core; the best of five, as others may use the same core."""
    took: list[float] = []
    for _ in range(5):
        requests = [fresh() for _ in range(40)]
        start = time.process_time()
        for request in requests:
            authority.sign(request, WEB, now=NOW)
        took.append(time.process_time() - start)
    assert 40 / min(took) > 1000
    assert module.REMEMBERED_KEYS > 10_000
