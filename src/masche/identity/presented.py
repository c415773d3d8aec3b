"""What one end of a TLS connection shows, and by what it judges the other: for whoever does its TLS without ``ssl``."""

from masche.identity.keys import Secret
from masche.model.frozen import frozen


@frozen
class Presented:
    """What one end shows in a handshake: its chain (PEM, leaf first) and key, and the roots by which it judges."""

    chain: str
    key: Secret
    roots: str
