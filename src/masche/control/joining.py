"""Machines that have no valid certificate yet: join tokens and renewals, for ``link.service.JoiningService``."""

from collections.abc import Awaitable, Callable

from masche.identity.admission import Admission, TooManyFailuresError
from masche.identity.authority import Issued
from masche.identity.credential import CredentialError
from masche.identity.csr import CsrError
from masche.identity.join import JoinError
from masche.link.messages import JoinReply, JoinRequest, RenewRequest, Roots
from masche.link.refusal import RefusedError
from masche.telemetry.events import Events


class Joining:
    """Answers Join and Renew. ``wall`` is Unix seconds, ``now`` monotonic; ``addresses`` are where agents connect."""

    def __init__(
        self,
        admission: Admission,
        *,
        events: Events,
        roots: Callable[[], Roots],
        addresses: tuple[str, ...],
        wall: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._events = events
        self._roots = roots
        self._addresses = addresses
        self._wall = wall
        self._now = now

    async def join(self, source: str, request: JoinRequest) -> JoinReply:
        """Spend a token for a machine credential."""
        answer = self._admission.join(
            source, token=request.token, name=request.machine, request=request.csr, now=self._wall(), clock=self._now()
        )
        return await self._answer(answer, source, "joined")

    async def renew(self, source: str, request: RenewRequest) -> JoinReply:
        """Give a new machine credential for an old one."""
        answer = self._admission.renew(
            source,
            chain=request.chain,
            request=request.csr,
            proof=request.proof,
            now=self._wall(),
            clock=self._now(),
        )
        return await self._answer(answer, source, "renewed its credential")

    async def _answer(self, pending: Awaitable[tuple[str, Issued]], source: str, verb: str) -> JoinReply:
        try:
            machine, issued = await pending
        except (JoinError, CsrError, CredentialError, TooManyFailuresError) as error:
            self._events.add(
                kind="join-refused", severity="warning", about=source, message=f"{source} was refused: {error}"
            )
            raise RefusedError(str(error), fix="make a new join string with `masche token create`") from error
        self._events.add(kind="machine-joined", about=machine, message=f"machine {machine} {verb}")
        return JoinReply(
            machine=machine,
            lifetime=issued.lifetime,
            chain=issued.chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            bundle=self._roots(),
            addresses=self._addresses,
        )
