"""What a process hands out of its life in the mesh: Knowledge, Reception and Identity that stay valid for ever.

Each asks whoever lives now. Invariant: nothing of one life is kept here, so that a fork, or a thread that begins again,
needs nobody to be told.
"""

import ssl
from concurrent.futures import Future
from typing import Protocol

from masche.library.core.ports import HTTP_1, Known, NotReadyError
from masche.library.core.tls import Certificates
from masche.library.life.feeding import Feeding
from masche.model.view import Inbound


class Living(Protocol):
    """As much of a resident as is asked."""

    @property
    def feed(self) -> Feeding:
        """What the mesh says."""
        ...

    def start(self) -> None:
        """Begin, if it has not."""
        ...

    def waiting_for(self) -> str:
        """What it waits for; "" for nothing."""
        ...


class LivingKnowledge:
    """The Knowledge of whichever process this is now: asking begins it."""

    def __init__(self, resident: Living) -> None:
        self._resident = resident

    def known(self, authority: str) -> Known | None:
        """See Knowledge."""
        self._resident.start()
        return self._resident.feed.known(authority)

    def want(self, authority: str) -> "Future[Known]":
        """See Knowledge."""
        self._resident.start()
        return self._resident.feed.want(authority)

    def waiting_for(self) -> str:
        """See Knowledge."""
        return self._resident.waiting_for() or self._resident.feed.waiting_for()


class LivingReception:
    """The Reception of whichever process this is now."""

    def __init__(self, resident: Living) -> None:
        self._resident = resident

    def inbound(self, port: int) -> Inbound | None:
        """See Reception."""
        return self._resident.feed.inbound(port)

    def waiting_for(self) -> str:
        """See Reception."""
        return self._resident.waiting_for() or self._resident.feed.waiting_for()


class LivingIdentity:
    """The Identity of whichever process this is now: asking begins it."""

    def __init__(self, resident: Living, certificates: Certificates) -> None:
        self._resident = resident
        self._certificates = certificates

    @property
    def spiffe_id(self) -> str:
        """See Identity."""
        return self._certificates.spiffe_id

    def client_context(self, identities: tuple[str, ...], alpn: tuple[str, ...] = HTTP_1) -> ssl.SSLContext:
        """See Identity."""
        try:
            return self._certificates.client_context(identities, alpn)  # what is held is held by a life that has begun
        except NotReadyError:
            self._begun()
            return self._certificates.client_context(identities, alpn)

    def server_context(self, alpn: tuple[str, ...] = HTTP_1) -> ssl.SSLContext:
        """See Identity."""
        self._begun()
        return self._certificates.server_context(alpn)

    def _begun(self) -> None:
        """Raises NotReadyError with what is waited for."""
        self._resident.start()
        if not self._certificates.spiffe_id:
            raise NotReadyError(f"this process has no certificate: waiting for {self._resident.waiting_for()}")
