"""Trust bundles: the one or more roots that verify a trust domain.

A root is named by the SHA-256 of its certificate, which is what a join string pins. While a root is being replaced the
bundle holds both, so that either end of a connection may be the first to change.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from masche.identity.malformed import MALFORMED
from masche.identity.spiffe import SpiffeId
from masche.identity.trust import BundleError
from masche.model.frozen import frozen


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate's DER, in hex: the pin of a root."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


@frozen(kw_only=False)
class TrustBundle:
    """The roots of one trust domain in the order in which they were added; never empty, none twice."""

    trust_domain: str
    roots: tuple[x509.Certificate, ...]

    def __post_init__(self) -> None:
        SpiffeId(self.trust_domain)
        if not self.roots:
            raise BundleError(f"the trust bundle of {self.trust_domain} has no root")
        for root in self.roots:
            _check_root(root)
        if len(set(self.fingerprints)) != len(self.roots):
            raise BundleError(f"the trust bundle of {self.trust_domain} has a root twice")

    @classmethod
    def of_root(cls, root: x509.Certificate) -> "TrustBundle":
        """The bundle of one root, whose trust domain its own URI says. Raises BundleError."""
        try:
            found = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            [uri] = found.get_values_for_type(x509.UniformResourceIdentifier)
            return cls(SpiffeId.parse(uri).trust_domain, (root,))
        except BundleError:
            raise
        except (x509.ExtensionNotFound, *MALFORMED) as error:
            raise BundleError(f"the root does not say its trust domain: {error}") from error

    @classmethod
    def of_pem(cls, trust_domain: str, pem: str) -> "TrustBundle":
        """Read one or more certificates. Raises BundleError."""
        try:
            return cls(trust_domain, tuple(x509.load_pem_x509_certificates(pem.encode())))
        except BundleError:
            raise
        except MALFORMED as error:
            raise BundleError(f"not certificates in PEM: {error}") from error

    @property
    def pem(self) -> str:
        """All roots in PEM, as Envoy's ``trusted_ca`` and gRPC read them."""
        return "".join(root.public_bytes(Encoding.PEM).decode() for root in self.roots)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The pins of the roots."""
        return tuple(fingerprint(root) for root in self.roots)

    def with_root(self, root: x509.Certificate) -> "TrustBundle":
        """This bundle and one root more; unchanged when it is there."""
        return self if fingerprint(root) in self.fingerprints else replace(self, roots=(*self.roots, root))

    def __repr__(self) -> str:
        pins = ", ".join(pin[:12] for pin in self.fingerprints)
        return f"<TrustBundle {self.trust_domain}: {pins}>"


def pinned_root(chain: Sequence[bytes], pin: str) -> x509.Certificate:
    """The root of this SHA-256 among the certificates (DER) that a server showed. Raises BundleError."""
    for der in chain:
        if hashlib.sha256(der).hexdigest() == pin.lower():
            root = x509.load_der_x509_certificate(der)
            _check_root(root)
            return root
    raise BundleError(f"the server did not show a root with the SHA-256 {pin}: it is not the mesh that was meant")


def _check_root(root: x509.Certificate) -> None:
    try:
        is_authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *MALFORMED) as error:
        raise BundleError(f"a root without readable basic constraints: {error}") from error
    if not is_authority:
        raise BundleError("a certificate that is not an authority can not be a root")
