"""The key and the certificate of one workload over time: made here, signed by a control plane, renewed, withdrawn.

Decides when to ask and what is in force; where that is shown and kept is told by whoever holds it. The key goes nowhere
else; what goes to a control plane is a certificate request. Invariant: what has expired is withdrawn, whatever else is
missing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import msgspec
from cryptography import x509

from masche.identity import keys, lifetime
from masche.identity.files import UnsafeFileError
from masche.identity.malformed import MALFORMED
from masche.identity.rotation import Rotation
from masche.link.messages import CertificateReport, Roots, SignReply, SignRequest
from masche.link.refusal import RefusedError
from masche.model.frozen import frozen
from masche.model.refs import Name

MAX_ERROR = 4000
"""Characters of an error that are told."""

Ask = Callable[[], Awaitable[tuple[str, Name]]]
"""Returns proxy and workload once a control plane knows them."""

Sign = Callable[[SignRequest], Awaitable[SignReply]]
"""Has a request signed. Raises RefusedError, ConnectionError."""


class UnusableError(Exception):
    """What a control plane signed cannot be shown."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with its key and the roots that came with it; instants are seconds since the epoch."""

    chain: str
    key: str
    obtained_at: float
    lifetime: float
    not_after: float
    bundle: Roots

    def __repr__(self) -> str:
        return f"<certificate until {self.not_after:.0f}, key Secret(...)>"

    @property
    def is_valid(self) -> bool:
        """Whether peers will accept it now."""
        return time.time() < min(self.not_after, self.obtained_at + self.lifetime)


@frozen
class Place:
    """Where a certificate goes. ``show`` raises UnusableError; ``keep`` may wait for a disk, and runs in a thread.

    With None for it a certificate is kept nowhere.
    """

    show: Callable[[Kept], None]
    withdraw: Callable[[], None]
    keep: Callable[[Kept], None] | None


class Renewal:
    """Keeps a certificate in force. What it holds outlives its ``run``, which may be begun again in another loop."""

    def __init__(self, place: Place, *, rng: Random) -> None:
        self._place = place
        self._rng = rng
        self._kept: Kept | None = None
        self._due: Rotation | None = None
        self._wake = asyncio.Event()
        self._serial = ""
        self._is_unkept = self._is_of_old_roots = False
        self.error = ""
        self.is_held = False

    def __repr__(self) -> str:
        return f"<Renewal of {self._kept or 'none yet'}{f', {self.error}' if self.error else ''}>"

    @property
    def not_after(self) -> float:
        """When the certificate ends, in seconds since the epoch; 0 for none."""
        return self._kept.not_after if self._kept else 0.0

    @property
    def trust_domain(self) -> str:
        """The trust domain of the mesh, "" before there is a certificate."""
        return self._kept.bundle.trust_domain if self._kept else ""

    @property
    def is_valid(self) -> bool:
        """Whether there is a certificate that peers will accept now."""
        return self._kept is not None and self._kept.is_valid

    def report(self, workload: Name) -> tuple[CertificateReport, ...]:
        """How it stands, for a Report."""
        if not (self._kept or self.error):
            return ()
        error = self.error[:MAX_ERROR]
        return (CertificateReport(workload=workload, not_after=self.not_after, serial=self._serial, error=error),)

    def restore(self, kept: Kept | None) -> None:
        """Take up what an earlier process kept, if it still holds and there is nothing later."""
        if kept and kept.is_valid and not self.is_held:
            with suppress(UnusableError):
                self._take(kept)

    def trust(self, roots: Roots) -> None:
        """Judge peers by these roots from now on; when they are others, ask for a certificate of theirs at once."""
        before = self._kept
        if before is None or before.bundle == roots:
            return
        kept = msgspec.structs.replace(before, bundle=roots)
        try:
            if self.is_held:
                self._place.show(kept)
        except UnusableError as error:
            self.error = str(error)
            return
        self._is_of_old_roots |= before.bundle.roots != roots.roots
        self._kept, self._is_unkept = kept, True
        self._wake.set()

    async def run(self, ask: Ask, sign: Sign, *, on_change: Callable[[], None] = lambda: None) -> None:
        """Obtain, renew, and withdraw what expired, for ever."""
        self._wake = asyncio.Event()
        if self._is_unkept:  # since the last run
            self._wake.set()
        while True:
            if self._due:
                await self._sleep(self._due)
            if self._is_unkept and self._kept:
                await self._keep(self._kept)
            if self._is_wanted():
                await self._try(ask, sign)
                on_change()

    def _is_wanted(self) -> bool:
        return self._due is None or self._is_of_old_roots or _now() >= self._due.next_deadline()

    async def _try(self, ask: Ask, sign: Sign) -> None:
        self._is_of_old_roots = False  # before anything is awaited: roots that come meanwhile ask once more
        try:
            kept = await self._signed(ask, sign)
            self._take(kept)
        except (RefusedError, ConnectionError, UnusableError) as error:
            self.error = str(error)
            now = _now()
            self._due = (self._due or Rotation(expires_at=now, renew_at=now)).failed(now=now, rng=self._rng)
        else:
            self.error = ""
            await self._keep(kept)

    async def _signed(self, ask: Ask, sign: Sign) -> Kept:
        """Signed as soon as it is possible; what expires while waiting for a control plane is withdrawn on time."""
        proxy, workload = await self._asked(ask)
        key = keys.generate()
        reply = await sign(SignRequest(proxy=proxy, workload=workload, csr=keys.signing_request(key)))
        return Kept(
            chain=reply.chain,
            key=keys.private_pem(key).reveal().decode(),
            obtained_at=time.time(),
            lifetime=reply.lifetime,
            not_after=reply.not_after,
            bundle=reply.bundle,
        )

    async def _asked(self, ask: Ask) -> tuple[str, Name]:
        asked = asyncio.ensure_future(ask())
        try:
            if self.is_held and self._due:
                await asyncio.wait({asked}, timeout=max(0.0, self._due.expires_at - _now()))
                if not asked.done():
                    self._expire()
            return await asked
        finally:
            asked.cancel()

    async def _sleep(self, due: Rotation) -> None:
        """Until renewal is due, or somebody asks for it; an end of life in between takes the certificate away."""
        deadline = due.next_deadline()
        if self.is_held and due.expires_at <= deadline:
            await lifetime.wait(self._wake, due.expires_at - _now())
            if _now() >= due.expires_at:
                self._expire()
        await lifetime.wait(self._wake, deadline - _now())
        self._wake.clear()

    def _expire(self) -> None:
        self.is_held = False
        self.error = self.error or "our certificate has ended and no control plane has signed another"
        self._place.withdraw()

    def _take(self, kept: Kept) -> None:
        try:
            serial = x509.load_pem_x509_certificate(kept.chain.encode()).serial_number
        except MALFORMED as error:
            raise UnusableError(f"what was signed is no certificate: {error}") from error
        self._place.show(kept)
        self._kept, self._serial, self.is_held = kept, f"{serial:032x}", True
        self._due = lifetime.renewal(
            obtained_at=kept.obtained_at, lifetime=kept.lifetime, now=time.monotonic(), rng=self._rng
        )

    async def _keep(self, kept: Kept) -> None:
        """Without a place on disk it serves all the same, until this process ends."""
        self._is_unkept = False
        if self._place.keep is None:
            return
        try:
            await asyncio.to_thread(self._place.keep, kept)
        except (OSError, UnsafeFileError) as error:
            self.error = f"the certificate is in force, and cannot be kept on disk: {error}"


def _now() -> float:
    return asyncio.get_running_loop().time()
