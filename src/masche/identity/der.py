"""DER, as little of it as an X.509-SVID and a request for one need: what a value holds, read strictly or not at all.

Invariant: whatever the bytes are, reading ends, and raises nothing but DerError.
"""

from collections.abc import Iterator

INTEGER, BITS, SEQUENCE = 0x02, 0x03, 0x30


class DerError(ValueError):
    """These bytes are not the DER that was expected."""


def values(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the content of one value after another. Raises DerError at the first that is not well-formed."""
    at = 0
    while at < len(content):
        start, length = _length(content, at + 1)
        if content[at] & 0x1F == 0x1F or start + length > len(content):  # tags of several bytes are nowhere in X.509
            raise DerError("a value that is cut off, or of no known kind")
        yield content[at], content[start : start + length]
        at = start + length


def only(content: bytes, tag: int) -> bytes:
    """The content of the one value, of this tag, that all of ``content`` is. Raises DerError."""
    match list(values(content)):
        case [(found, inside)] if found == tag:
            return inside
        case _:
            raise DerError(f"not one value of the kind {tag:#x}")


def value(tag: int, content: bytes) -> bytes:
    """Write one value. Raises ValueError at 64 kB, which nothing that is written here has."""
    size = len(content)
    if size >= 1 << 16:
        raise ValueError(f"{size} bytes are too long")
    length = (
        bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 1 << 8 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + content


def _length(content: bytes, at: int) -> tuple[int, int]:
    """Where the content of a value begins, and how long it is: in the shortest form, as DER demands."""
    first = content[at] if at < len(content) else 0xFF
    if first < 0x80:
        return at + 1, first
    count = first & 0x7F
    told = content[at + 1 : at + 1 + count]
    length = int.from_bytes(told, "big")
    if not 1 <= count <= 4 or len(told) != count or length < 0x80 or told[0] == 0:
        raise DerError("a length that is not DER")
    return at + 1 + count, length
