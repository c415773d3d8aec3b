"""One workload's key and certificate: made here, signed by the control plane, given to Envoy, renewed in time.

The private key goes to the disk of this machine (0600) and to Envoy's Unix socket; what is sent to a control plane is a
certificate request. Invariant: an expired certificate is never handed out, whatever else is missing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Protocol

import msgspec
from cryptography import x509

from masche.agent.sds import Shelf
from masche.identity import files, keys, lifetime, shown
from masche.identity.rotation import Rotation
from masche.link.messages import Roots, SignReply, SignRequest
from masche.link.service import RefusedError
from masche.model.refs import Name
from masche.wire import framing, grpc_bootstrap, secret
from masche.wire.types import SECRET


class Signer(Protocol):
    """What is needed of a link."""

    async def sign(self, request: SignRequest) -> SignReply:
        """Have a request signed. Raises RefusedError, ConnectionError."""
        ...


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with its key and the roots that came with it, as they are kept on disk."""

    chain: str
    key: str
    obtained_at: float
    lifetime: float
    not_after: float
    bundle: Roots

    def __repr__(self) -> str:
        return f"<certificate until {self.not_after:.0f}, key Secret(...)>"


class Identity:
    """The certificate of one workload, from its first request to its end.

    ``certificate`` is the name of the secret that holds it; ``shown`` is the folder in which a program that reads files
    finds it, if there is one.
    """

    def __init__(
        self,
        *,
        file: Path,
        proxy: str,
        workload: Name,
        shelf: Shelf,
        signer: Signer,
        rng: Random,
        certificate: str = secret.CERTIFICATE,
        shown: Path | None = None,
    ) -> None:
        self._file = file
        self._proxy = proxy
        self._workload = workload
        self._shelf = shelf
        self._signer = signer
        self._certificate = certificate
        self._shown = shown
        self._rng = rng
        self._kept: Kept | None = None
        self._wake = asyncio.Event()
        self._obtained = asyncio.Event()
        self._serial = ""
        self.error = ""

    def __repr__(self) -> str:
        return f"<Identity of {self._workload}: {self._kept or 'none yet'}>"

    @property
    def not_after(self) -> float:
        """When the certificate ends, in seconds since the epoch; 0 for none."""
        return self._kept.not_after if self._kept else 0.0

    @property
    def serial(self) -> str:
        """The certificate's serial number in hex, "" for none."""
        return self._serial

    @property
    def is_valid(self) -> bool:
        """Whether there is a certificate that peers will accept now."""
        return self._kept is not None and _is_valid(self._kept)

    def load(self) -> None:
        """Take up the certificate of an earlier run, if it still holds."""
        try:
            found = msgspec.json.decode(keys.read_secret(self._file).reveal(), type=Kept)
        except (OSError, files.UnsafeFileError, msgspec.DecodeError):
            return
        if _is_valid(found):
            self._take(found)

    def trust(self, roots: Roots) -> None:
        """Judge peers by these roots from now on; when they are others, ask for a certificate of theirs at once."""
        if self._kept is None or self._kept.bundle == roots:
            return
        if self._kept.bundle.roots != roots.roots:
            self._wake.set()
        self._keep(msgspec.structs.replace(self._kept, bundle=roots))

    async def obtained(self) -> None:
        """Return once there is a valid certificate."""
        await self._obtained.wait()

    async def run(self, may_sign: Callable[[], Awaitable[None]]) -> None:
        """Obtain, renew, and withdraw what expired, for ever. ``may_sign`` returns once the workload is registered."""
        loop = asyncio.get_running_loop()
        due = self._due()
        while True:
            if due:
                await self._sleep(due)
            try:
                await self._renew(may_sign, due)
            except (RefusedError, ConnectionError) as error:
                self.error = str(error)
                now = loop.time()
                due = (due or Rotation(expires_at=now, renew_at=now)).failed(now=now, rng=self._rng)
            else:
                due = self._due()

    def _due(self) -> Rotation | None:
        if self._kept is None:
            return None
        now = asyncio.get_running_loop().time()
        return lifetime.renewal(
            obtained_at=self._kept.obtained_at, lifetime=self._kept.lifetime, now=now, rng=self._rng
        )

    async def _renew(self, may_sign: Callable[[], Awaitable[None]], due: Rotation | None) -> None:
        """Sign as soon as it is possible; what expires while waiting for a control plane is withdrawn on time."""
        loop = asyncio.get_running_loop()
        registered = asyncio.ensure_future(may_sign())
        try:
            if due and not due.is_expired(now=loop.time()):
                await asyncio.wait({registered}, timeout=due.expires_at - loop.time())
                if not registered.done():
                    self._expire()
            await registered
        finally:
            registered.cancel()
        key = keys.generate()
        request = SignRequest(proxy=self._proxy, workload=self._workload, csr=keys.signing_request(key))
        reply = await self._signer.sign(request)
        pem = keys.private_pem(key).reveal().decode()
        self._keep(
            Kept(
                chain=reply.chain,
                key=pem,
                obtained_at=time.time(),
                lifetime=reply.lifetime,
                not_after=reply.not_after,
                bundle=reply.bundle,
            )
        )
        self.error = ""

    async def _sleep(self, due: Rotation) -> None:
        """Until renewal is due, or somebody asks for it; an end of life in between takes the certificate away."""
        loop = asyncio.get_running_loop()
        deadline = due.next_deadline()
        if loop.time() < due.expires_at <= deadline:
            await lifetime.wait(self._wake, due.expires_at - loop.time())
            if loop.time() >= due.expires_at:
                self._expire()
        await lifetime.wait(self._wake, deadline - loop.time())
        self._wake.clear()

    def _expire(self) -> None:
        self._shelf.withdraw(self._certificate)
        if self._shown:
            shown.withdraw(self._shown)
        self._obtained.clear()

    def _keep(self, kept: Kept) -> None:
        files.write_private(self._file, msgspec.json.encode(kept))
        self._take(kept)

    def _take(self, kept: Kept) -> None:
        self._kept = kept
        self._serial = f"{x509.load_pem_x509_certificate(kept.chain.encode()).serial_number:032x}"
        bundles = {kept.bundle.trust_domain: kept.bundle.roots, **kept.bundle.others}
        pair = secret.certificate(self._certificate, kept.chain.encode(), kept.key.encode())
        roots = secret.roots(secret.ROOTS, {domain: pem.encode() for domain, pem in bundles.items()})
        self._shelf.put(
            framing.blob(SECRET, self._certificate, pair),
            framing.blob(SECRET, secret.ROOTS, roots),
        )
        if self._shown:
            shown.show(self._shown, _files(kept))
        self._obtained.set()


def _files(kept: Kept) -> dict[str, bytes]:
    """As gRPC reads them. It tells no trust domains apart, so of another one's roots it must not know."""
    return {
        grpc_bootstrap.CERTIFICATE: kept.chain.encode(),
        grpc_bootstrap.KEY: kept.key.encode(),
        grpc_bootstrap.ROOTS: kept.bundle.roots.encode(),
    }


def _is_valid(kept: Kept) -> bool:
    return time.time() < min(kept.not_after, kept.obtained_at + kept.lifetime)
