"""The certificate authority of a mesh: a root, an intermediate under it, and the X.509-SVIDs that it signs.

The name in a certificate is the ``identity`` argument, which its caller reads from the registry; nothing of a request
but its public key is ever copied. Every decision is audited before its certificate leaves.

Times are seconds since the epoch. Certificates satisfy OpenSSL's X509_STRICT: key identifiers everywhere, critical
basic constraints and key usage.
"""

import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from masche.identity import csr, issuers
from masche.identity.bundle import TrustBundle
from masche.identity.csr import CsrError, PublicKey
from masche.identity.issuers import AuthorityError, Issuer, Root
from masche.identity.spiffe import SpiffeId
from masche.identity.trust import CONTROL_PLANE_NAME
from masche.model.frozen import frozen

BACKDATE: Final = 300.0
"""NotBefore lies this much in the past, for peers whose clocks are behind."""

DAY: Final = 86400.0
MIN_LIFETIME: Final = 5.0
MAX_LIFETIME: Final = 366 * DAY
REMEMBERED_KEYS: Final = 200_000
"""So many public keys are remembered, to refuse one key for two identities; about 30 MB when full."""

_SERVER_AND_CLIENT: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_LEAF_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_NOT_AN_AUTHORITY: Final = x509.BasicConstraints(ca=False, path_length=None)
_NOBODY: Final = x509.Name([])


@frozen
class Issuance:
    """A certificate that is about to leave. ``key`` is the SHA-256 of its public key (SPKI), in hex."""

    identity: SpiffeId
    serial: str
    key: str
    not_before: float
    not_after: float


@frozen
class Refusal:
    """A request that was refused, and why."""

    identity: SpiffeId
    why: str


Audit = Callable[[Issuance | Refusal], None]
"""Called before an answer leaves; when it raises, nothing leaves."""


@frozen
class Issued:
    """A signed certificate: ``chain`` in PEM, leaf first, then the intermediate. ``lifetime`` is what is left of it."""

    identity: SpiffeId
    chain: str
    serial: str
    not_before: float
    not_after: float
    lifetime: float


class Authority:
    """Signs for one trust domain. Make it with ``open``; one thread at a time."""

    def __init__(self, folder: Path, trust_domain: str, *, root: Root, intermediate: Issuer, audit: Audit) -> None:
        self._folder = folder
        self._root = root
        self._intermediate = intermediate
        self._audit = audit
        self._keys: OrderedDict[bytes, SpiffeId] = OrderedDict()
        self._bundle = issuers.load_bundle(folder, trust_domain, root.certificate)
        self._chain_tail = intermediate.pem
        self.trust_domain = trust_domain

    @classmethod
    def open(cls, folder: Path, trust_domain: str, *, now: float, audit: Audit) -> "Authority":
        """Read the authority in ``folder``, or make it there.

        Raises files.UnsafeFileError when others can read it, and AuthorityError when it is of another trust domain,
        incomplete or expired.
        """
        root = issuers.open_root(folder, trust_domain, now=now)
        intermediate = issuers.open_intermediate(folder, trust_domain, root, now=now)
        return cls(folder, trust_domain, root=root, intermediate=intermediate, audit=audit)

    @property
    def bundle(self) -> TrustBundle:
        """The roots that verify this trust domain: our own first."""
        return self._bundle

    def trust(self, root: x509.Certificate) -> None:
        """Add a second root to the bundle, durably: the first step of replacing ours."""
        self._bundle = self._bundle.with_root(root)
        issuers.save_bundle(self._folder, self._bundle)

    def sign(self, request: bytes, identity: SpiffeId, *, now: float, lifetime: float = DAY) -> Issued:
        """Sign a request (DER) for ``identity``. Raises CsrError, audited, for a request that is refused."""
        return self._audited(request, identity, (), now=now, lifetime=lifetime)

    def sign_control_plane(
        self, request: bytes, hosts: Sequence[str], *, now: float, lifetime: float = 30 * DAY
    ) -> Issued:
        """Sign for a control plane that is reached by these DNS names and IP addresses. Raises CsrError."""
        names = [x509.DNSName(CONTROL_PLANE_NAME), *map(_general_name, hosts)]
        identity = SpiffeId.of_control_plane(self.trust_domain)
        return self._audited(request, identity, names, now=now, lifetime=lifetime)

    def refuse(self, identity: SpiffeId, why: str) -> None:
        """Put on record that this one asked for what it may not have, and that nothing was signed."""
        self._audit(Refusal(identity=identity, why=why))

    def _audited(
        self,
        request: bytes,
        identity: SpiffeId,
        names: Sequence[x509.GeneralName],
        *,
        now: float,
        lifetime: float,
    ) -> Issued:
        try:
            key = self._approved(request, identity)
        except CsrError as error:
            self._audit(Refusal(identity=identity, why=str(error)))
            raise
        return self._issue(key, identity, names, now=now, lifetime=lifetime)

    def _approved(self, request: bytes, identity: SpiffeId) -> PublicKey:
        """The key of a request, unless it belongs to the authority or was certified as somebody else."""
        if identity.trust_domain != self.trust_domain:
            raise CsrError(f"{identity} is not of the trust domain {self.trust_domain}")
        key = csr.public_key(request, identity)
        if key in (self._root.public_key, self._intermediate.public_key):
            raise CsrError("the key is the authority's own")
        digest = _key_digest(key)
        if self._keys.setdefault(digest, identity) != identity:
            raise CsrError(f"the key was certified for {self._keys[digest]}; make a new one")
        self._keys.move_to_end(digest)
        if len(self._keys) > REMEMBERED_KEYS:
            self._keys.popitem(last=False)
        return key

    def _issue(
        self,
        key: PublicKey,
        identity: SpiffeId,
        names: Sequence[x509.GeneralName],
        *,
        now: float,
        lifetime: float,
    ) -> Issued:
        if not MIN_LIFETIME <= lifetime <= MAX_LIFETIME:
            raise AuthorityError(f"a lifetime of {lifetime} s is not between {MIN_LIFETIME} and {MAX_LIFETIME}")
        self._renew_intermediate(now=now)
        terms = _Terms(
            serial=secrets.randbits(128) or 1,
            not_before=float(int(max(now - BACKDATE, self._intermediate.not_before))),
            not_after=float(int(min(now + lifetime, self._intermediate.not_after))),
        )
        leaf = _leaf(self._intermediate, key, [x509.UniformResourceIdentifier(str(identity)), *names], terms)
        self._audit(
            Issuance(
                identity=identity,
                serial=terms.hex_serial,
                key=_key_digest(key).hex(),
                not_before=terms.not_before,
                not_after=terms.not_after,
            )
        )
        return Issued(
            identity=identity,
            chain=leaf.public_bytes(Encoding.PEM).decode() + self._chain_tail,
            serial=terms.hex_serial,
            not_before=terms.not_before,
            not_after=terms.not_after,
            lifetime=terms.not_after - now,
        )

    def _renew_intermediate(self, *, now: float) -> None:
        if now >= self._intermediate.renew_at:
            self._intermediate = issuers.open_intermediate(self._folder, self.trust_domain, self._root, now=now)
            self._chain_tail = self._intermediate.pem


@frozen
class _Terms:
    """A serial number of 128 random bits, and the validity."""

    serial: int
    not_before: float
    not_after: float

    @property
    def hex_serial(self) -> str:
        return f"{self.serial:032x}"


def _leaf(issuer: Issuer, key: PublicKey, names: Sequence[x509.GeneralName], terms: _Terms) -> x509.Certificate:
    """An X.509-SVID: one URI among ``names``; as the subject is empty, the names are critical (RFC 5280, 4.2.1.6)."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NOBODY)
        .issuer_name(issuer.certificate.subject)
        .public_key(key)
        .serial_number(terms.serial)
        .not_valid_before(datetime.fromtimestamp(terms.not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(terms.not_after, UTC))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(_NOT_AN_AUTHORITY, critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(_SERVER_AND_CLIENT, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(issuer.key_identifier, critical=False)
    )
    return builder.sign(issuer.key, hashes.SHA256())


def _key_digest(key: PublicKey) -> bytes:
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
