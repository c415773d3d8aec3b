"""Protocol buffers' wire format, as far as responses are concatenated from frames that were encoded once.

Invariant: a frame is a complete field, tag and length included, so any sequence of frames is a valid message.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from masche.model.blob import Blob
from masche.model.refs import Ref

LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}
_MAX_VARINT_BYTES = 10


class WireError(ValueError):
    """Bytes that are no valid message, or a body that does not fit the message it is meant for."""


class Field(NamedTuple):
    """One field of an encoded message: its number and where it starts, where its value starts, and where it ends."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


def varint(value: int) -> bytes:
    """Return ``value`` (not negative) as a base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: bytes) -> bytes:
    """Return one length-delimited field: tag, length, ``value``."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value


def text(number: int, value: str) -> bytes:
    """Return one string field; nothing for the empty string, as proto3 wants it."""
    return field(number, value.encode()) if value else b""


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(data):
            raise WireError("a varint runs past the end of the message")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise WireError("a varint is longer than ten bytes")


def fields(data: bytes) -> Iterator[Field]:
    """Yield the fields of an encoded message, in the order of its bytes.

    Raises:
        WireError: the bytes are no message, or use groups, which no xDS message does.
    """
    at = 0
    while at < len(data):
        tag, value = _read_varint(data, at)
        wire_type = tag & 7
        if wire_type == LENGTH_DELIMITED:
            size, value = _read_varint(data, value)
            end = value + size
        elif wire_type == 0:
            _, end = _read_varint(data, value)
        elif wire_type in _FIXED_SIZES:
            end = value + _FIXED_SIZES[wire_type]
        else:
            raise WireError(f"wire type {wire_type} is not used by any message of xDS")
        if end > len(data):
            raise WireError("a field runs past the end of the message")
        yield Field(tag >> 3, wire_type, at, value, end)
        at = end


def version_of(any_bytes: bytes) -> str:
    """Return the version of a resource: blake2b-128 of its ``Any``, in hex."""
    return blake2b(any_bytes, digest_size=16).hexdigest()


def packed(type_url: str, message: bytes) -> bytes:
    """Return the bytes of a ``google.protobuf.Any`` that holds ``message``."""
    return text(1, type_url) + (field(2, message) if message else b"")


def blob(type_url: str, name: str, message: bytes, refs: frozenset[Ref] = frozenset(), eds_name: str = "") -> Blob:
    """Frame one encoded resource for every stream that will carry it.

    ``Resource{version = 1, resource = 2, name = 3}`` is written with its ``Any`` last, and because ``resource`` and
    ``DiscoveryResponse.resources`` have the same number, the tail of the frame serves state-of-the-world streams too.
    """
    any_bytes = packed(type_url, message)
    version = version_of(any_bytes)
    head = text(1, version) + text(3, name)
    tail = field(2, any_bytes)
    frame = field(2, head + tail)
    return Blob(
        type_url=type_url,
        name=name,
        version=version,
        frame=frame,
        any_at=len(frame) - len(tail),
        refs=refs,
        eds_name=eds_name,
    )


def sotw_frame(blob: Blob) -> bytes:
    """Return the field ``resources`` of a state-of-the-world DiscoveryResponse."""
    return blob.frame[blob.any_at :]


def message_of(blob: Blob) -> bytes:
    """Return the encoded resource itself, without its frames."""
    tail = sotw_frame(blob)
    outer = next(fields(tail))
    any_bytes = tail[outer.value : outer.end]
    return next((any_bytes[part.value : part.end] for part in fields(any_bytes) if part.number == 2), b"")
