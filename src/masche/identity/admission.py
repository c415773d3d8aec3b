"""The door for machines: a token in, a machine credential out; an old credential in, a new one out.

Decides in the order that gives a stranger the least: how often this source failed, whether the request is a request at
all, and only then the token, which is spent even when what follows fails.
"""

from masche.identity import csr
from masche.identity.authority import Issued
from masche.identity.credential import CredentialError, Machines
from masche.identity.csr import CsrError
from masche.identity.join import Doorkeeper, JoinError, Tokens
from masche.identity.spiffe import SpiffeError, SpiffeId


class TooManyFailuresError(Exception):
    """This source failed too often and waits a minute; nothing was looked at."""


class Admission:
    """Joins and renewals of one control plane. ``now`` is epoch seconds, ``clock`` monotonic seconds."""

    def __init__(self, tokens: Tokens, machines: Machines, trust_domain: str, doorkeeper: Doorkeeper | None = None):
        self._tokens = tokens
        self._machines = machines
        self._trust_domain = trust_domain
        self._doorkeeper = doorkeeper or Doorkeeper()

    async def join(
        self, source: str, *, token: str, name: str, request: bytes, now: float, clock: float
    ) -> tuple[str, Issued]:
        """Spend a token; the machine's id and its credential.

        Raises JoinError, CsrError, CredentialError, TooManyFailuresError.
        """
        self._check_door(source, clock)
        try:
            csr.public_key(request, SpiffeId.of_machine(self._trust_domain, name))
            grant = await self._tokens.spend(token, now=now)
            return _named(await self._machines.welcome(name, grant, request, now=now))
        except SpiffeError as error:
            raise CredentialError(f"{name[:80]!r} can not be a machine's name: {error}") from error
        except (JoinError, CsrError):
            self._doorkeeper.failed(source, now=clock)
            raise

    async def renew(
        self, source: str, *, chain: str, request: bytes, proof: bytes, now: float, clock: float
    ) -> tuple[str, Issued]:
        """Renew a machine credential. Raises CredentialError, CsrError, TooManyFailuresError."""
        self._check_door(source, clock)
        try:
            return _named(await self._machines.renew(chain, request, proof, now=now))
        except (CredentialError, CsrError):
            self._doorkeeper.failed(source, now=clock)
            raise

    def _check_door(self, source: str, clock: float) -> None:
        if not self._doorkeeper.is_open(source, now=clock):
            raise TooManyFailuresError("too many failures from this address; try again in a minute")


def _named(issued: Issued) -> tuple[str, Issued]:
    return issued.identity.path.rpartition("/")[2], issued
