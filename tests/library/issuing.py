"""Certificates for tests: workloads of a mesh by their names, and leaves that our own authority would never make."""

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from masche.identity import issuers, keys
from masche.identity.authority import Authority
from masche.identity.keys import PrivateKey
from masche.identity.secret_file import as_file
from masche.identity.spiffe import SpiffeId
from masche.library.core.tls import Certificates

_LEAF = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


class Issuing:
    """An authority of one trust domain."""

    def __init__(self, folder: Path, trust_domain: str = "mesh.local") -> None:
        now = time.time()
        self.trust_domain = trust_domain
        self.authority = Authority.open(folder, trust_domain, now=now, audit=lambda _: None)
        self._issuer = issuers.open_intermediate(
            folder, trust_domain, issuers.open_root(folder, trust_domain, now=now), now=now
        )

    @property
    def roots(self) -> str:
        return self.authority.bundle.pem

    def name(self, workload: str) -> str:
        """Its SPIFFE ID."""
        return str(SpiffeId.of_workload(self.trust_domain, "shop", workload))

    def pair(self, workload: str) -> tuple[str, PrivateKey]:
        """A fresh chain and key."""
        key = keys.generate()
        identity = SpiffeId.parse(self.name(workload))
        return self.authority.sign(keys.signing_request(key), identity, now=time.time(), lifetime=3600).chain, key

    def certificates(self, workload: str) -> Certificates:
        made = Certificates()
        self.renew(made, workload)
        return made

    def renew(self, certificates: Certificates, workload: str) -> None:
        chain, key = self.pair(workload)
        certificates.put(chain, keys.private_pem(key), self.roots)

    def odd(self, *names: x509.GeneralName) -> ssl.SSLContext:
        """A server whose certificate our authority signed, with names that it would not sign."""
        return bare_server(*self.odd_pair(*names), self.roots)

    def odd_pair(self, *names: x509.GeneralName) -> tuple[str, PrivateKey]:
        """A chain with such names, and its key."""
        key, at = keys.generate(), datetime.now(UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - timedelta(minutes=5))
            .not_valid_after(at + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._issuer.key_identifier, critical=False)
            .sign(self._issuer.key, hashes.SHA256())
        )
        return leaf.public_bytes(Encoding.PEM).decode() + self._issuer.pem, key


def bare_server(chain: str, key: PrivateKey, roots: str) -> ssl.SSLContext:
    """A server that looks at no name: what it is does not depend on what is tested."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, chain, key, roots)


def bare_client(roots: str, chain: str = "", key: PrivateKey | None = None) -> ssl.SSLContext:
    """A client that looks at no name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _loaded(context, chain, key, roots)


def _loaded(context: ssl.SSLContext, chain: str, key: PrivateKey | None, roots: str) -> ssl.SSLContext:
    if roots:
        context.load_verify_locations(cadata=roots)
    if key is not None:
        with as_file(keys.Secret(keys.private_pem(key).reveal() + chain.encode())) as path:
            context.load_cert_chain(path)
    return context
