"""How Envoy's local rate limit says what is ours: which rule a limit is, and what tells its buckets apart.

The encoder writes these words and the decoder reads them. Invariant: a key is text of CEL that never fails, so that
there is no request that a limit overlooks.
"""

import re

from masche.model.limits import KeyKind, LimitKey

DENIED = "x-masche-denied"
"""The response header that tells an authenticated caller which rule refused it."""

KEY = "key"
"""The entry of a descriptor that tells buckets apart; entries before it say that a match holds."""

_CERTIFIED = "connection.mtls ? connection.uri_san_peer_certificate : ''"
_HEADER = re.compile(r"'([^']+)' in request\.headers \? request\.headers\['([^']+)'\] : ''")


def expression(key: LimitKey) -> str:
    """Return what tells the buckets of a limit apart, as text of CEL."""
    if key.kind is KeyKind.CLIENT:
        return _CERTIFIED
    name = key.name.replace("'", "\\x27")
    return f"'{name}' in request.headers ? request.headers['{name}'] : ''"


def key_of(expression: str) -> LimitKey | None:
    """Read such a text back; None for another."""
    if expression == _CERTIFIED:
        return LimitKey(kind=KeyKind.CLIENT)
    found = _HEADER.fullmatch(expression)
    if found is None or found[1] != found[2]:
        return None
    return LimitKey(kind=KeyKind.HEADER, name=found[1].replace("\\x27", "'"))
