"""What one end of a TLS connection shows, and by what it judges the other: for whoever does its TLS without ``ssl``."""

from dataclasses import dataclass

from masche.identity.keys import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What one end shows in a handshake: its chain (PEM, leaf first) and key, and the roots by which it judges."""

    chain: str
    key: Secret
    roots: str
