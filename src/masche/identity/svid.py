"""X.509-SVIDs as a receiver must judge them once the chain was verified: which SPIFFE ID does this leaf carry, if any.

Decides from the certificate alone, by the X509-SVID specification; a chain that verifies is not enough to be somebody.
"""

from cryptography import x509

from masche.identity.malformed import MALFORMED
from masche.identity.spiffe import SpiffeError, SpiffeId


class SvidError(ValueError):
    """The certificate is not a leaf X.509-SVID; the text says why."""


def identity(leaf: x509.Certificate) -> SpiffeId:
    """The SPIFFE ID of a leaf. Raises SvidError.

    "An X.509 SVID MUST contain exactly one URI SAN"; "leaf certificates MUST set the cA field to false", "MUST set
    digitalSignature" and "MUST NOT set keyCertSign or cRLSign"; its SPIFFE ID "MUST have a non-root path component".
    """
    try:
        _check_leaf(leaf.extensions)
        [uri] = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
        found = SpiffeId.parse(uri)
    except x509.ExtensionNotFound as error:
        raise SvidError(f"the certificate has no {error.oid.dotted_string}") from error
    except SpiffeError as error:
        raise SvidError(str(error)) from error
    except MALFORMED as error:
        raise SvidError(f"the certificate does not have exactly one readable URI: {error}") from error
    if not found.path:
        raise SvidError(f"{found} names a trust domain and no workload in it")
    return found


def _check_leaf(extensions: x509.Extensions) -> None:
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    if not usage.critical or not usage.value.digital_signature:
        raise SvidError("the key usage is not critical or lacks digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise SvidError("the key may sign certificates: not a leaf")
    if _is_authority(extensions):
        raise SvidError("an authority is not a leaf")


def _is_authority(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
