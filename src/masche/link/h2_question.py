"""What status does an application answer that speaks HTTP/2 and nothing else? Asked with prior knowledge, by hand.

One GET without a body needs four static header fields, and of the answer only ``:status`` is read, which comes first
(RFC 9113, 8.3: "All pseudo-header fields MUST appear in a field block before all regular field lines"), and for which
HPACK has few forms (RFC 7541). Invariant: what is not understood is 0, which accuses nobody.
"""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final

_DATA_MOST: Final = 16_384
_FRAMES_MOST: Final = 32
_HEADERS, _RESET, _SETTINGS, _GOAWAY = 1, 3, 4, 7
_ACK, _END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_STATIC: Final = (200, 204, 206, 304, 400, 404, 500)
"""Statuses with an index of their own in the static table, from 8 on (RFC 7541, appendix A)."""

_LITERAL: Final = frozenset({0x48, 0x08, 0x18})
"""How a literal status begins: with its name from the static table; indexed, not, never."""

_DIGITS: Final = {f"{digit:05b}": digit for digit in range(3)} | {f"{22 + digit:06b}": digit for digit in range(3, 10)}
"""Huffman codes of digits (RFC 7541, appendix B)."""


async def status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, authority: str) -> int:
    """Ask on a new connection; return 0 when there is no answer that tells. Raises OSError."""
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0))
    writer.write(_frame(_HEADERS, _END_STREAM | _END_HEADERS, 1, b"\x82\x86" + _said(4, path) + _said(1, authority)))
    try:
        for _ in range(_FRAMES_MOST):
            head = await reader.readexactly(9)
            size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            if size > _DATA_MOST or kind in {_RESET, _GOAWAY}:
                return 0
            body = await reader.readexactly(size)
            if kind == _SETTINGS and not flags & _ACK:
                writer.write(_frame(_SETTINGS, _ACK, 0))
            elif kind == _HEADERS:
                return status_of(_block(body, flags))
    except asyncio.IncompleteReadError:
        pass
    return 0


def status_of(block: bytes) -> int:
    """Return the status with which a block of header fields begins, or 0."""
    while block and block[0] & 0xE0 == 0x20:  # the size of a table that we do not keep
        block = block[1:] if block[0] != 0x3F else block[1:].lstrip(bytes(range(0x80, 0x100)))[1:]
    if block and 0x88 <= block[0] < 0x88 + len(_STATIC):
        return _STATIC[block[0] - 0x88]
    if len(block) < 2 or block[0] not in _LITERAL or len(block) < 2 + (block[1] & 0x7F):
        return 0
    text = block[2 : 2 + (block[1] & 0x7F)]
    said = "".join(map(str, islice(_digits(text), 3))) if block[1] & 0x80 else text.decode("latin-1")
    return int(said) if len(said) == 3 and said.isascii() and said.isdecimal() else 0


def _digits(packed: bytes) -> Iterator[int]:
    code = ""
    for bit in f"{int.from_bytes(packed):0{8 * len(packed)}b}":
        code += bit
        if code in _DIGITS:
            yield _DIGITS[code]
            code = ""


def _block(body: bytes, flags: int) -> bytes:
    start, padding = (1, body[0]) if flags & _PADDED and body else (0, 0)
    return body[start + (5 if flags & _PRIORITY else 0) : len(body) - padding]


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body


def _said(name: int, value: str) -> bytes:
    """A field with a name of the static table and a literal value."""
    return bytes((name, len(value))) + value.encode("ascii")
