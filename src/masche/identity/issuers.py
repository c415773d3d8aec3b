"""The certificates that sign: the root and the intermediate, as files of one private folder.

``root.key root.pem intermediate.key intermediate.pem`` and ``bundle.pem`` (every root that is trusted). A key is
durable before the certificate that names it, so that being killed between the two leaves nothing unfinishable.
``root.key`` may be taken away to a safe place; it is needed again when the intermediate is to be renewed.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from masche.identity import files, keys
from masche.identity.bundle import TrustBundle, fingerprint
from masche.identity.keys import PrivateKey
from masche.identity.malformed import MALFORMED
from masche.identity.spiffe import SpiffeId

ROOT_LIFETIME: Final = timedelta(days=3653)
INTERMEDIATE_LIFETIME: Final = timedelta(days=366)
_BACKDATE: Final = timedelta(minutes=5)
_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class AuthorityError(Exception):
    """The authority can not do that; the text says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """A certificate that signs, and its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @cached_property
    def public_key(self) -> object:
        """Its public key, to compare with others."""
        return self.certificate.public_key()

    @cached_property
    def pem(self) -> str:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @cached_property
    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """What a certificate signed by this one says of its issuer."""
        return _key_identifier(self.certificate)

    @cached_property
    def not_before(self) -> float:
        """Seconds since the epoch."""
        return self.certificate.not_valid_before_utc.timestamp()

    @cached_property
    def not_after(self) -> float:
        """Seconds since the epoch."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def renew_at(self) -> float:
        """Half of its life, in seconds since the epoch."""
        return (self.not_before + self.not_after) / 2


@dataclass(frozen=True, kw_only=True)
class Root:
    """The root certificate, and its key unless that is kept elsewhere."""

    certificate: x509.Certificate
    key: PrivateKey | None
    folder: Path

    @cached_property
    def public_key(self) -> object:
        """Its public key, to compare with others."""
        return self.certificate.public_key()


def open_root(folder: Path, trust_domain: str, *, now: float) -> Root:
    """Read the root, or make one that is good for ten years. Raises AuthorityError, files.UnsafeFileError."""
    files.private_folder(folder)
    at = datetime.fromtimestamp(now, UTC)
    path = folder / "root.pem"
    if not path.exists():
        key = _key(folder / "root.key")
        files.write_private(path, _self_signed(key, trust_domain, at).public_bytes(Encoding.PEM))
    certificate = _certificate(path)
    _check_trust_domain(path, certificate, trust_domain)
    if at >= certificate.not_valid_after_utc:
        raise AuthorityError(f"{path} expired on {certificate.not_valid_after_utc}; install a new root")
    return Root(certificate=certificate, key=_optional_key(folder / "root.key", certificate), folder=folder)


def open_intermediate(folder: Path, trust_domain: str, root: Root, *, now: float) -> Issuer:
    """Read the intermediate, or make a new one when there is none or half its life is over.

    Raises AuthorityError when a new one is needed and the root's key is not there.
    """
    at = datetime.fromtimestamp(now, UTC)
    found = _read_intermediate(folder, root)
    if found and (now < found.renew_at or (root.key is None and now < found.not_after)):
        return found
    if root.key is None:
        raise AuthorityError(f"the intermediate must be signed again; put root.key back into {folder}")
    return _new_intermediate(folder, trust_domain, root, root.key, at)


def load_bundle(folder: Path, trust_domain: str, root: x509.Certificate) -> TrustBundle:
    """Our own root first, then those that ``bundle.pem`` has besides."""
    bundle = TrustBundle(trust_domain, (root,))
    path = folder / "bundle.pem"
    if path.exists():
        for other in TrustBundle.of_pem(trust_domain, keys.read_secret(path).reveal().decode()).roots:
            bundle = bundle.with_root(other)
    return bundle


def save_bundle(folder: Path, bundle: TrustBundle) -> None:
    """Write ``bundle.pem``, durably."""
    files.write_private(folder / "bundle.pem", bundle.pem.encode())


def _read_intermediate(folder: Path, root: Root) -> Issuer | None:
    """The intermediate on disk, or None when there is none that this root signed and whose key is there."""
    path = folder / "intermediate.pem"
    if not path.exists():
        return None
    certificate = _certificate(path)
    key = _key(folder / "intermediate.key")
    if key.public_key() != certificate.public_key() or certificate.issuer != root.certificate.subject:
        return None
    return Issuer(certificate=certificate, key=key)


def _new_intermediate(folder: Path, trust_domain: str, root: Root, root_key: PrivateKey, at: datetime) -> Issuer:
    """The key is replaced first: until its certificate follows, the pair on disk does not fit and is made anew."""
    key = keys.generate()
    files.write_private(folder / "intermediate.key", keys.private_pem(key).reveal())
    builder = _builder(key, trust_domain, "intermediate", path_length=0)
    certificate = (
        builder.issuer_name(root.certificate.subject)
        .not_valid_before(max(at - _BACKDATE, root.certificate.not_valid_before_utc))
        .not_valid_after(min(at + INTERMEDIATE_LIFETIME, root.certificate.not_valid_after_utc))
        .add_extension(_key_identifier(root.certificate), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    files.write_private(folder / "intermediate.pem", certificate.public_bytes(Encoding.PEM))
    return Issuer(certificate=certificate, key=key)


def _self_signed(key: PrivateKey, trust_domain: str, at: datetime) -> x509.Certificate:
    builder = _builder(key, trust_domain, "root", path_length=1)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return (
        builder.issuer_name(_name(key, trust_domain, "root"))
        .not_valid_before(at - _BACKDATE)
        .not_valid_after(at + ROOT_LIFETIME)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(key: PrivateKey, trust_domain: str, role: str, *, path_length: int) -> x509.CertificateBuilder:
    """What a root and an intermediate have in common.

    "A signing certificate SHOULD itself be an SVID ... the SPIFFE ID of a signing certificate MUST NOT have a path".
    """
    public = key.public_key()
    domain = x509.UniformResourceIdentifier(str(SpiffeId(trust_domain)))
    return (
        x509.CertificateBuilder()
        .subject_name(_name(key, trust_domain, role))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.SubjectAlternativeName([domain]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(key: PrivateKey, trust_domain: str, role: str) -> x509.Name:
    """A subject that no two keys share, so that verifiers never confuse an old root with a new one."""
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
    common = f"{trust_domain[:32]} {role} {digest[:16]}"
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "masche"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


def _key(path: Path) -> PrivateKey:
    """The key on disk, or a new one: a key without a certificate is what a kill between the two left behind."""
    if not path.exists():
        files.write_private(path, keys.private_pem(keys.generate()).reveal())
    return _load(path)


def _optional_key(path: Path, certificate: x509.Certificate) -> PrivateKey | None:
    if not path.exists():
        return None
    key = _load(path)
    if key.public_key() != certificate.public_key():
        raise AuthorityError(f"{path} is not the key of {path.with_suffix('.pem')} ({fingerprint(certificate)[:16]})")
    return key


def _load(path: Path) -> PrivateKey:
    try:
        return keys.load_private(keys.read_secret(path))
    except ValueError as error:
        raise AuthorityError(f"{path} is not a private key: {error}") from error


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(keys.read_secret(path).reveal())
    except MALFORMED as error:
        raise AuthorityError(f"{path} is not a certificate: {error}") from error


def _check_trust_domain(path: Path, certificate: x509.Certificate, trust_domain: str) -> None:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = found.get_values_for_type(x509.UniformResourceIdentifier)
    if names != [str(SpiffeId(trust_domain))]:
        raise AuthorityError(f"{path} is of {', '.join(names)}, not of the trust domain {trust_domain}")
