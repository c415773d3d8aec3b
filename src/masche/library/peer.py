"""Who calls: the verified identity of the caller of the request that is being served, for applications to ask for.

``current()`` anywhere below a request, in async and in threaded code alike. Invariant: it comes from the caller's
certificate, as it was checked in the handshake, and never from a header.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from masche.identity.spiffe import SpiffeError, SpiffeId, WorkloadIdentity
from masche.model.frozen import frozen


@frozen
class Peer:
    """A caller that proved who it is. ``namespace`` and ``service_account`` are empty for what is no workload of ours.

    ``str(peer)`` is its SPIFFE ID.
    """

    spiffe_id: str
    trust_domain: str = ""
    namespace: str = ""
    service_account: str = ""

    def __str__(self) -> str:
        return self.spiffe_id

    @property
    def principal(self) -> str:
        """The SPIFFE ID without its scheme, as AuthorizationPolicies write it."""
        return self.spiffe_id.removeprefix("spiffe://")

    @classmethod
    def of(cls, spiffe_id: str) -> "Peer":
        """Read an identity that was verified already."""
        return _read(spiffe_id)


@lru_cache(maxsize=4096)
def _read(spiffe_id: str) -> Peer:
    try:
        found = SpiffeId.parse(spiffe_id)
    except SpiffeError:
        return Peer(spiffe_id=spiffe_id)
    match found.role:
        case WorkloadIdentity(namespace, account):
            domain = found.trust_domain
            return Peer(spiffe_id=spiffe_id, trust_domain=domain, namespace=namespace, service_account=account)
        case _:
            return Peer(spiffe_id=spiffe_id, trust_domain=found.trust_domain)


_current: ContextVar[Peer | None] = ContextVar("masche_peer", default=None)


def current() -> Peer | None:
    """Return the caller of the request that is being served; None for a plaintext caller, and outside of requests."""
    return _current.get()


@contextmanager
def calling(peer: Peer | None) -> Generator[None]:
    """Let ``peer`` be the caller within the block."""
    token = _current.set(peer)
    try:
        yield
    finally:
        _current.reset(token)
