"""The key and the certificate of this process: made here, signed by a control plane, kept in memory, renewed in time.

Invariant: what has expired is withdrawn, whatever else is missing; a key never leaves the process.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import msgspec
from cryptography import x509

from masche.identity import keys, lifetime
from masche.identity.malformed import MALFORMED
from masche.identity.rotation import Rotation, rotation
from masche.library.core.ports import MeshError
from masche.library.core.tls import Certificates
from masche.library.life.memory import Folder, KeptCertificate
from masche.link.messages import CertificateReport, Roots, SignReply, SignRequest
from masche.link.service import RefusedError
from masche.model.refs import Name

Sign = Callable[[SignRequest], Awaitable[SignReply]]
"""Has a request signed. Raises RefusedError, ConnectionError."""

Ask = Callable[[], Awaitable[tuple[str, Name]]]
"""Returns proxy and workload once a control plane knows them."""

MAX_ERROR = 4000


class Keeper:
    """Keeps ``certificates`` in force. What it holds outlives its ``run``, which may be begun again in another loop.

    ``folder`` keeps it for a start without a control plane; without one the key is in memory alone.
    """

    def __init__(self, certificates: Certificates, *, rng: Random, folder: Folder | None = None) -> None:
        self.certificates = certificates
        self._folder = folder
        self._rng = rng
        self._due: Rotation | None = None
        self._kept: KeptCertificate | None = None
        self._wake = asyncio.Event()
        self._serial = ""
        self.error = ""
        self.is_held = False

    def __repr__(self) -> str:
        return f"<Keeper of {self.certificates!r}{f', {self.error}' if self.error else ''}>"

    def trust(self, roots: Roots) -> None:
        """Judge peers by these roots from now on; when they are others, ask for a certificate of theirs at once."""
        kept = self._kept
        if kept is None or kept.roots == roots:
            return
        if kept.roots.roots != roots.roots:
            self._wake.set()
        self._kept = msgspec.structs.replace(kept, roots=roots)
        if self.is_held:
            self.certificates.put(kept.chain, keys.Secret(kept.key.encode()), roots.roots)

    @property
    def not_after(self) -> float:
        """When our certificate ends, in seconds since the epoch; 0 for none."""
        return self._kept.obtained_at + self._kept.lifetime if self._kept else 0.0

    def restore(self) -> None:
        """Take up what an earlier process kept, if it still holds."""
        kept = self._folder.certificate() if self._folder else None
        if self.is_held or kept is None or time.time() >= kept.obtained_at + kept.lifetime:
            return
        due = lifetime.renewal(
            obtained_at=kept.obtained_at, lifetime=kept.lifetime, now=time.monotonic(), rng=self._rng
        )
        with suppress(MeshError, *MALFORMED):
            self._take(kept, due)

    def report(self, workload: Name) -> tuple[CertificateReport, ...]:
        """How it stands, for a Report."""
        if not (self._kept or self.error):
            return ()
        error = self.error[:MAX_ERROR]
        return (CertificateReport(workload=workload, not_after=self.not_after, serial=self._serial, error=error),)

    async def run(self, ask: Ask, sign: Sign, *, on_change: Callable[[], None]) -> None:
        """Obtain, renew, and withdraw what expired, for ever."""
        self._wake = asyncio.Event()
        loop = asyncio.get_running_loop()
        while True:
            if self._due:
                await self._sleep(self._due)
            try:
                await self._renew(ask, sign)
            except (RefusedError, ConnectionError, MeshError) as error:
                self.error = str(error)
                now = loop.time()
                self._due = (self._due or Rotation(expires_at=now, renew_at=now)).failed(now=now, rng=self._rng)
            on_change()

    async def _renew(self, ask: Ask, sign: Sign) -> None:
        """Sign as soon as it is possible; what expires while waiting for a control plane is withdrawn on time."""
        proxy, workload = await self._asked(ask)
        key = keys.generate()
        reply = await sign(SignRequest(proxy=proxy, workload=workload, csr=keys.signing_request(key)))
        kept = KeptCertificate(
            chain=reply.chain,
            key=keys.private_pem(key).reveal().decode(),
            obtained_at=time.time(),
            lifetime=reply.lifetime,
            roots=reply.bundle,
        )
        self._take(kept, rotation(lifetime=reply.lifetime, now=time.monotonic(), rng=self._rng))
        if self._folder:
            await asyncio.to_thread(self._folder.keep_certificate, kept)

    def _take(self, kept: KeptCertificate, due: Rotation) -> None:
        self.certificates.put(kept.chain, keys.Secret(kept.key.encode()), kept.roots.roots)
        self._kept, self._due = kept, due
        self._serial = f"{x509.load_pem_x509_certificate(kept.chain.encode()).serial_number:032x}"
        self.error, self.is_held = "", True

    async def _asked(self, ask: Ask) -> tuple[str, Name]:
        asked = asyncio.ensure_future(ask())
        try:
            if self.is_held and self._due:
                await asyncio.wait({asked}, timeout=max(0.0, self._due.expires_at - asyncio.get_running_loop().time()))
                if not asked.done():
                    self._expire()
            return await asked
        finally:
            asked.cancel()

    async def _sleep(self, due: Rotation) -> None:
        """Until renewal is due, or somebody asks for it; an end of life in between takes the certificate away."""
        loop = asyncio.get_running_loop()
        deadline = due.next_deadline()
        if self.is_held and due.expires_at <= deadline:
            await lifetime.wait(self._wake, due.expires_at - loop.time())
            if loop.time() >= due.expires_at:
                self._expire()
        await lifetime.wait(self._wake, deadline - loop.time())
        self._wake.clear()

    def _expire(self) -> None:
        self.is_held = False
        self.error = "our certificate has ended and no control plane has signed another"
        self.certificates.withdraw()
