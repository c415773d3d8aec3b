"""X.509-SVIDs as a receiver must judge them once the chain was verified: which SPIFFE ID does this leaf carry, if any.

Decides from the certificate alone, by the X509-SVID specification; a chain that verifies is not enough to be somebody.
"""

from masche.identity.leaf import Leaf
from masche.identity.spiffe import SpiffeError, SpiffeId


class SvidError(ValueError):
    """The certificate is not a leaf X.509-SVID; the text says why."""


def identity(leaf: Leaf) -> SpiffeId:
    """The SPIFFE ID of a leaf. Raises SvidError.

    "An X.509 SVID MUST contain exactly one URI SAN"; "leaf certificates MUST set the cA field to false", "MUST set
    digitalSignature" and "MUST NOT set keyCertSign or cRLSign"; its SPIFFE ID "MUST have a non-root path component".
    """
    _check_leaf(leaf)
    if leaf.uris is None or len(leaf.uris) != 1:
        raise SvidError(f"the certificate does not have exactly one readable URI: {len(leaf.uris or ())}")
    try:
        found = SpiffeId.parse(leaf.uris[0])
    except SpiffeError as error:
        raise SvidError(str(error)) from error
    if not found.path:
        raise SvidError(f"{found} names a trust domain and no workload in it")
    return found


def _check_leaf(leaf: Leaf) -> None:
    usage = leaf.usage
    if usage is None:
        raise SvidError("the certificate has no key usage")
    if not usage.is_critical or not usage.signs:
        raise SvidError("the key usage is not critical or lacks digitalSignature")
    if usage.signs_certificates or usage.signs_revocations:
        raise SvidError("the key may sign certificates: not a leaf")
    if leaf.is_authority:
        raise SvidError("an authority is not a leaf")
