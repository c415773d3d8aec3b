"""The key and the certificate of this process: made here, signed by a control plane, kept in memory, renewed in time.

Invariant: what has expired is withdrawn, whatever else is missing; a key never leaves the process.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

from cryptography import x509

from masche.identity import keys, lifetime
from masche.identity.rotation import Rotation, rotation
from masche.library.core.ports import MeshError
from masche.library.core.tls import Certificates
from masche.link.messages import CertificateReport, Roots, SignReply, SignRequest
from masche.link.service import RefusedError
from masche.model.refs import Name

Sign = Callable[[SignRequest], Awaitable[SignReply]]
"""Has a request signed. Raises RefusedError, ConnectionError."""

Ask = Callable[[], Awaitable[tuple[str, Name]]]
"""Returns proxy and workload once a control plane knows them."""

MAX_ERROR = 4000


class Keeper:
    """Keeps ``certificates`` in force. What it holds outlives its ``run``, which may be begun again in another loop."""

    def __init__(self, certificates: Certificates, *, rng: Random) -> None:
        self.certificates = certificates
        self._rng = rng
        self._due: Rotation | None = None
        self._key = keys.Secret(b"")
        self._chain = ""
        self._roots: Roots | None = None
        self._wake = asyncio.Event()
        self._serial = ""
        self._not_after = 0.0
        self.error = ""
        self.is_held = False

    def __repr__(self) -> str:
        return f"<Keeper of {self.certificates!r}{f', {self.error}' if self.error else ''}>"

    def trust(self, roots: Roots) -> None:
        """Judge peers by these roots from now on; when they are others, ask for a certificate of theirs at once."""
        if self._roots is None or self._roots == roots:
            return
        if self._roots.roots != roots.roots:
            self._wake.set()
        self._roots = roots
        if self.is_held:
            self._show()

    def report(self, workload: Name) -> tuple[CertificateReport, ...]:
        """How it stands, for a Report."""
        if not (self._not_after or self.error):
            return ()
        error = self.error[:MAX_ERROR]
        return (CertificateReport(workload=workload, not_after=self._not_after, serial=self._serial, error=error),)

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
        self._key, self._chain, self._roots = keys.private_pem(key), reply.chain, reply.bundle
        self._show()
        self._due = rotation(lifetime=reply.lifetime, now=asyncio.get_running_loop().time(), rng=self._rng)
        self._serial = f"{x509.load_pem_x509_certificate(reply.chain.encode()).serial_number:032x}"
        self._not_after = time.time() + reply.lifetime
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

    def _show(self) -> None:
        assert self._roots is not None
        self.certificates.put(self._chain, self._key, self._roots.roots)

    def _expire(self) -> None:
        self.is_held = False
        self.error = "our certificate has ended and no control plane has signed another"
        self.certificates.withdraw()
