"""One 64-bit hash for all that hashes consistently, so that calls with the same key meet the same endpoint."""

from hashlib import blake2b

SPACE = 1 << 64
"""Hashes are from 0 to SPACE - 1."""


def key_of(text: str, salt: str = "") -> int:
    """Return the hash of a text, 0 to 2**64 - 1: the same in every process and release, unlike ``hash``."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8, salt=salt.encode()).digest(), "big")


def points_of(text: str, count: int) -> list[int]:
    """Return ``count`` hashes that belong to a text, eight from each digest."""
    found: list[int] = []
    for number in range(-(-count // 8)):
        digest = blake2b(f"{text}#{number}".encode(), digest_size=64).digest()
        found += [int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8)]
    return found[:count]
