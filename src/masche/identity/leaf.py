"""What an end of a connection reads in a certificate: whose it is, until when, and what it may be used for.

Reads what X.509-SVIDs are judged by and nothing else, so that a process with the library needs no other X.509 (that
of ``cryptography`` weighs 1.5 MB). OpenSSL has verified the chain that it is part of before anybody is judged by it.
Invariant: bytes that could be understood in two ways (an extension twice, a value that is not DER) are refused.
"""

from base64 import b64decode
from datetime import UTC, datetime
from typing import Final

from masche.identity.der import BITS, INTEGER, SEQUENCE, DerError, only, values
from masche.model.frozen import frozen

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_VERSION_3: Final = b"\x02\x01\x02"
_UTC_TIME, _GENERAL_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_URI: Final = 0x86
_OTHER_NAMES: Final = {0xA0, 0x81, 0x82, 0xA4, 0x87, 0x88}
"""Names that are passed over: otherName, an address of e-mail, of DNS, of a directory, of IP, and a registered one."""

_USAGE, _ALTERNATIVES, _CONSTRAINTS = bytes.fromhex("551d0f"), bytes.fromhex("551d11"), bytes.fromhex("551d13")


@frozen
class Usage:
    """The extension keyUsage (RFC 5280, 4.2.1.3)."""

    is_critical: bool
    signs: bool
    signs_certificates: bool
    signs_revocations: bool


@frozen
class Leaf:
    """A certificate; ``not_after`` in seconds since the epoch, ``uris`` None without a subjectAltName."""

    serial: int
    not_after: float
    usage: Usage | None
    uris: tuple[str, ...] | None
    is_authority: bool

    @classmethod
    def of_der(cls, der: bytes) -> "Leaf":
        """Read a certificate. Raises DerError."""
        (tag, tbs), *_ = _several(only(der, SEQUENCE), 3)
        if tag != SEQUENCE:
            raise DerError("a certificate without content")
        version, serial, _algorithm, _issuer, validity, *rest = _several(tbs, 7)
        if version != (_VERSION, _VERSION_3) or serial[0] != INTEGER or validity[0] != SEQUENCE:
            raise DerError("not a certificate of version 3")
        _, not_after = _several(validity[1], 2)
        held = _extensions([content for tag, content in rest if tag == _EXTENSIONS])
        return cls(
            serial=int.from_bytes(serial[1], "big", signed=True),
            not_after=_instant(*not_after),
            usage=_usage(*held[_USAGE]) if _USAGE in held else None,
            uris=_uris(held[_ALTERNATIVES][1]) if _ALTERNATIVES in held else None,
            is_authority=_is_authority(held[_CONSTRAINTS][1]) if _CONSTRAINTS in held else False,
        )

    @classmethod
    def of_pem(cls, pem: str) -> "Leaf":
        """Read the first certificate of a chain. Raises DerError."""
        _, begun, rest = pem.partition(_BEGIN)
        body, ended, _ = rest.partition(_END)
        if not (begun and ended):
            raise DerError("no certificate in PEM")
        try:
            return cls.of_der(b64decode("".join(body.split()), validate=True))
        except ValueError as error:
            raise DerError(f"no certificate in PEM: {error}") from error


def _several(content: bytes, least: int) -> list[tuple[int, bytes]]:
    found = list(values(content))
    if len(found) < least:
        raise DerError("something is missing")
    return found


def _extensions(found: list[bytes]) -> dict[bytes, tuple[bool, bytes]]:
    """Whether each is critical and its value, by the bytes of its OID."""
    held: dict[bytes, tuple[bool, bytes]] = {}
    for each in values(only(found[0], SEQUENCE)) if found else ():
        match each[0], list(values(each[1])):
            case 0x30, [(0x06, oid), (0x04, told)]:
                is_critical = False
            case 0x30, [(0x06, oid), (0x01, flag), (0x04, told)]:
                is_critical = _flag(flag)
            case _:
                raise DerError("an extension that is none")
        if oid in held:
            raise DerError("an extension twice")
        held[oid] = is_critical, told
    return held


def _usage(is_critical: bool, told: bytes) -> Usage:
    bits = only(told, BITS)
    if len(bits) < 2 or bits[0] > 7:  # the first byte says how many bits of the last are none
        raise DerError("a key usage that is none")
    return Usage(
        is_critical=is_critical,
        signs=bool(bits[1] & 0x80),
        signs_certificates=bool(bits[1] & 0x04),
        signs_revocations=bool(bits[1] & 0x02),
    )


def _uris(told: bytes) -> tuple[str, ...]:
    names = _several(only(told, SEQUENCE), 1)
    if any(tag != _URI and tag not in _OTHER_NAMES for tag, _ in names):
        raise DerError("a name of an unknown kind")
    try:
        return tuple(name.decode("ascii") for tag, name in names if tag == _URI)
    except UnicodeDecodeError as error:
        raise DerError("a URI that is not ASCII") from error


def _is_authority(told: bytes) -> bool:
    match list(values(only(told, SEQUENCE))):
        case [] | [(0x02, _)]:
            return False
        case [(0x01, flag)] | [(0x01, flag), (0x02, _)]:
            return _flag(flag)
        case _:
            raise DerError("basic constraints that are none")


def _flag(content: bytes) -> bool:
    if content not in {b"\x00", b"\xff"}:
        raise DerError("neither true nor false")
    return content == b"\xff"


def _instant(tag: int, content: bytes) -> float:
    """Seconds since the epoch. "CAs MUST always encode dates through the year 2049 as UTCTime" (RFC 5280, 4.1.2.5)."""
    digits = content[:-1].decode("latin-1")
    if tag not in {_UTC_TIME, _GENERAL_TIME} or content[-1:] != b"Z" or not (digits.isascii() and digits.isdigit()):
        raise DerError("a time that is none")
    if tag == _UTC_TIME:
        digits = ("20" if digits[:2] < "50" else "19") + digits
    if len(digits) != len("YYYYMMDDhhmmss"):
        raise DerError("a time that is none")
    try:
        parts = (int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2)))
        return datetime(*parts, tzinfo=UTC).timestamp()
    except ValueError as error:
        raise DerError(f"a time that is none: {error}") from error
