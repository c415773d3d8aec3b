"""Certificate requests: what is taken from one (its public key) and what it is refused for.

A request proves possession of a key and nothing else. Whatever it asks for beyond the identity that the registry
already knows is refused with a reason, so that nobody is left believing that it was granted.
"""

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from masche.identity.malformed import MALFORMED
from masche.identity.spiffe import SpiffeId

MAX_BYTES: Final = 16 << 10
"""A request is about 300 bytes; an RSA-4096 one has 1.2 KiB."""

RSA_BITS: Final = range(2048, 4097)

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_DIGESTS: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class CsrError(ValueError):
    """The request is refused; the text says why."""


def public_key(der: bytes, identity: SpiffeId) -> PublicKey:
    """The key that a request proves, once nothing in it contradicts ``identity``. Raises CsrError."""
    request = _parse(der)
    _check_extensions(request, identity)
    key = _check_key(request)
    _check_signature(request)
    return key


def _parse(der: bytes) -> x509.CertificateSigningRequest:
    if len(der) > MAX_BYTES:
        raise CsrError(f"the request has {len(der)} bytes; at most {MAX_BYTES} are read")
    try:
        return x509.load_der_x509_csr(der)
    except MALFORMED as error:
        raise CsrError(f"not a certificate request in DER: {error}") from error


def _check_key(request: x509.CertificateSigningRequest) -> PublicKey:
    try:
        key = request.public_key()
    except MALFORMED as error:
        raise CsrError(f"the key can not be read: {error}") from error
    match key:
        case ec.EllipticCurvePublicKey():
            if not isinstance(key.curve, _CURVES):
                raise CsrError(f"the curve {key.curve.name} is not taken; use P-256 or P-384")
            return key
        case rsa.RSAPublicKey():
            if key.key_size not in RSA_BITS:
                raise CsrError(f"an RSA key of {key.key_size} bits is not taken; use ECDSA P-256, or 2048 to 4096 bits")
            return key
        case _:
            raise CsrError(f"a key of type {type(key).__name__} is not taken; use ECDSA P-256")


def _check_signature(request: x509.CertificateSigningRequest) -> None:
    try:
        digest = request.signature_hash_algorithm
        valid = request.is_signature_valid
    except (*MALFORMED, InvalidSignature) as error:
        raise CsrError(f"the signature can not be checked: {error}") from error
    if not isinstance(digest, _DIGESTS):
        raise CsrError("the request is not signed over SHA-256 or better")
    if not valid:
        raise CsrError("the signature does not prove possession of the key")


def _check_extensions(request: x509.CertificateSigningRequest, identity: SpiffeId) -> None:
    """The only extension that may be asked for is a subject alternative name that says what the registry says."""
    try:
        extensions = list(request.extensions)
    except MALFORMED as error:
        raise CsrError(f"the extensions can not be read: {error}") from error
    for extension in extensions:
        match extension.value:
            case x509.SubjectAlternativeName():
                _check_names(list(extension.value), identity)
            case x509.BasicConstraints(ca=True):
                raise CsrError("the request asks to be an authority")
            case _:
                raise CsrError(f"the request asks for the extension {extension.oid.dotted_string}; ask for none")


def _check_names(names: list[x509.GeneralName], identity: SpiffeId) -> None:
    match names:
        case [x509.UniformResourceIdentifier(value=uri)] if uri == str(identity):
            return
        case _:
            asked = ", ".join(str(name.value) for name in names)[:200]
            raise CsrError(f"the request asks for {asked!r} but is registered as {identity}")
