"""Private keys: made here and unprintable. The files in which they stay are those of ``identity.files``.

A P-256 key has one form in DER, with a few bytes at known places, so it and a request for it are written without the
encoders of ``cryptography``, which weigh as much as half of the library's own code.
"""

import hmac
from base64 import b64encode
from pathlib import Path
from textwrap import wrap
from typing import Final, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from masche.identity.der import BITS, INTEGER, SEQUENCE, value
from masche.identity.files import read_private

PrivateKey = ec.EllipticCurvePrivateKey

_BYTES: Final = 32
_ON_P256: Final = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
"""The algorithm of a key: id-ecPublicKey, on secp256r1 (RFC 5480)."""
_BY_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
"""The algorithm of a signature: ecdsa-with-SHA256 (RFC 5758)."""
_OCTETS, _TAGGED_0, _TAGGED_1 = 0x04, 0xA0, 0xA1


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
    if not isinstance(key.curve, ec.SECP256R1):
        return _encoded(key)
    number = key.private_numbers().private_value.to_bytes(_BYTES, "big")
    inside = value(SEQUENCE, _integer(1) + value(_OCTETS, number) + value(_TAGGED_1, _point(key)))  # RFC 5915
    der = value(SEQUENCE, _integer(0) + _ON_P256 + value(_OCTETS, inside))  # RFC 5958
    lines = wrap(b64encode(der).decode(), 64)
    return Secret("\n".join(("-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", "")).encode())


def _encoded(key: PrivateKey) -> Secret:
    from cryptography.hazmat.primitives import serialization as form  # no key that is made here

    return Secret(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))


def load_private(pem: Secret) -> PrivateKey:
    """Read a key back. Raises ValueError when it is not an elliptic-curve key."""
    from cryptography.hazmat.primitives import serialization  # few processes read a key back

    key = serialization.load_pem_private_key(pem.reveal(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")
    return key


def signing_request(key: PrivateKey) -> bytes:
    """A certificate request (DER) that proves possession of the key and asks for nothing: the registry decides.

    Raises ValueError for a key that is not on P-256.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("only keys on P-256 ask for certificates")
    nobody, nothing = value(SEQUENCE, b""), value(_TAGGED_0, b"")
    asked = value(SEQUENCE, _integer(0) + nobody + value(SEQUENCE, _ON_P256 + _point(key)) + nothing)  # RFC 2986
    signature = value(BITS, b"\0" + key.sign(asked, _Ecdsa()))
    return value(SEQUENCE, asked + _BY_SHA256 + signature)


class _Ecdsa(ec.ECDSA):
    """ECDSA with SHA-256, which does not load all ciphers to learn whether it could sign without chance."""

    algorithm = hashes.SHA256()  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] # never set
    deterministic_signing = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] # as above

    def __init__(self) -> None:
        """Ask nothing: that is what the class of ``cryptography`` does here."""


def _point(key: PrivateKey) -> bytes:
    """The public half, not compressed, as a BIT STRING."""
    numbers = key.public_key().public_numbers()
    return value(BITS, b"\0\4" + numbers.x.to_bytes(_BYTES, "big") + numbers.y.to_bytes(_BYTES, "big"))


def _integer(small: int) -> bytes:
    return value(INTEGER, bytes([small]))


def read_secret(path: Path) -> Secret:
    """Read a file that must be ours alone. Raises UnsafeFileError, FileNotFoundError, OSError (also for a symlink)."""
    return Secret(read_private(path))
