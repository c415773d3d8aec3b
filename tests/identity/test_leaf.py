"""What is read in certificates, beside what ``cryptography`` reads in them; and what is written for keys."""

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from masche.identity import keys
from masche.identity.authority import Authority
from masche.identity.der import SEQUENCE, DerError, only, value, values
from masche.identity.leaf import Leaf
from masche.identity.spiffe import SpiffeId

WEB = SpiffeId.of_workload("mesh.local", "shop", "web")
UNREADABLE: Final = (
    ValueError, TypeError, OverflowError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)  # fmt: skip
KNOWN = (x509.SubjectAlternativeName, x509.KeyUsage, x509.BasicConstraints)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("authority")
    authority = Authority.open(folder / "a", "mesh.local", now=time.time(), audit=lambda _: None)
    return authority.sign(keys.signing_request(keys.generate()), WEB, now=time.time()).chain


def by_cryptography(der: bytes) -> Leaf:
    """The same by another's reader. Raises one of UNREADABLE."""
    found = x509.load_der_x509_certificate(der)
    held = {type(each.value): each for each in found.extensions}
    for each in KNOWN:
        assert each not in held or isinstance(held[each].value, each)
    usage, names, constraints = (held.get(each) for each in KNOWN[1:2] + KNOWN[:1] + KNOWN[2:])
    bare = Leaf(
        serial=found.serial_number, not_after=found.not_valid_after_utc.timestamp(), usage=None, uris=None,
        is_authority=bool(constraints and constraints.value.ca),
    )  # fmt: skip
    told = Leaf.of_der(der)
    assert (told.usage is None, told.uris is None) == (usage is None, names is None)
    if usage is not None and told.usage is not None:
        said = (told.usage.is_critical, told.usage.signs, told.usage.signs_certificates, told.usage.signs_revocations)
        words = usage.value
        assert said == (usage.critical, words.digital_signature, words.key_cert_sign, words.crl_sign)
    if names is not None:
        assert told.uris == tuple(names.value.get_values_for_type(x509.UniformResourceIdentifier))
    assert (told.serial, told.not_after, told.is_authority) == (bare.serial, bare.not_after, bare.is_authority)
    return told


def test_a_certificate_of_ours_and_its_issuer_are_read_as_cryptography_reads_them(chain: str) -> None:
    for certificate in x509.load_pem_x509_certificates(chain.encode()):
        by_cryptography(certificate.public_bytes(serialization.Encoding.DER))
    leaf = Leaf.of_pem(chain)
    assert leaf.uris == (str(WEB),)
    assert leaf.not_after > time.time()


@given(data=st.data())
def test_one_that_was_tampered_with_is_refused_or_read_alike(chain: str, data: st.DataObject) -> None:
    der = bytearray(x509.load_pem_x509_certificate(chain.encode()).public_bytes(serialization.Encoding.DER))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        Leaf.of_der(bytes(der))
    except DerError:
        return
    with suppress(*UNREADABLE):
        by_cryptography(bytes(der))


@given(st.binary(max_size=200))
@example(b"\x30\x80\x00\x00")
@example(b"\x30\x84\xff\xff\xff\xff")
def test_other_bytes_are_no_certificate(junk: bytes) -> None:
    with pytest.raises(DerError):
        Leaf.of_der(junk)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----"]
)
def test_other_words_are_no_certificate(text: str) -> None:
    with pytest.raises(DerError, match="no certificate in PEM"):
        Leaf.of_pem(text)


@given(st.integers(0, 0xFF).filter(lambda tag: tag & 0x1F != 0x1F), st.integers(0, 70_000))
@example(SEQUENCE, 0xFFFF)
def test_a_value_that_was_written_is_read_back_or_too_long_to_write(tag: int, size: int) -> None:
    if size > 0xFFFF:
        with pytest.raises(ValueError, match="too long"):
            value(tag, bytes(size))
    else:
        assert only(value(tag, bytes(size)), tag) == bytes(size)


@pytest.mark.parametrize("told", ["308100", "3081017f", "30820001ff", "3080", "30", "3f00", "3002ff", "30850000000000"])
def test_what_is_ber_or_cut_off_is_not_der(told: str) -> None:
    with pytest.raises(DerError):
        list(values(bytes.fromhex(told)))


def test_a_request_for_a_certificate_asks_for_nothing_and_proves_possession() -> None:
    key = keys.generate()
    made = x509.load_der_x509_csr(keys.signing_request(key))
    plain = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    assert made.tbs_certrequest_bytes == plain.tbs_certrequest_bytes
    assert made.is_signature_valid
    assert isinstance(made.signature_hash_algorithm, hashes.SHA256)
    key.public_key().verify(made.signature, made.tbs_certrequest_bytes, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        keys.generate().public_key().verify(made.signature, made.tbs_certrequest_bytes, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("number", [1, 2**200, 2**255])
def test_a_key_is_written_as_cryptography_writes_it(number: int) -> None:
    for key in (
        keys.generate(),
        ec.derive_private_key(number, ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
    ):
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        assert keys.private_pem(key).reveal() == plain
        assert keys.load_private(keys.private_pem(key)).private_numbers() == key.private_numbers()


def test_only_a_key_on_p256_asks_for_a_certificate() -> None:
    with pytest.raises(ValueError, match=re.escape("P-256")):
        keys.signing_request(ec.generate_private_key(ec.SECP384R1()))
