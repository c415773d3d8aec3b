"""Private keys: made here and unprintable. The files in which they stay are those of ``identity.files``."""

import hmac
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from masche.identity.files import read_private

PrivateKey = ec.EllipticCurvePrivateKey


class Secret:
    """Bytes that never show: not in ``repr``, not in a format string, not in a pickle. ``reveal`` hands them out."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes themselves; call it where they are used and keep no copy."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(Secret)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


def generate() -> PrivateKey:
    """A new ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: PrivateKey) -> Secret:
    """The key as unencrypted PKCS#8 in PEM, as Envoy and gRPC read it."""
    return Secret(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def load_private(pem: Secret) -> PrivateKey:
    """Read a key back. Raises ValueError when it is not an elliptic-curve key."""
    key = serialization.load_pem_private_key(pem.reveal(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")
    return key


def signing_request(key: PrivateKey) -> bytes:
    """A certificate request (DER) that proves possession of the key and asks for nothing: the registry decides."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def read_secret(path: Path) -> Secret:
    """Read a file that must be ours alone. Raises UnsafeFileError, FileNotFoundError, OSError (also for a symlink)."""
    return Secret(read_private(path))
