"""One workload's key and certificate where its proxy, or its program, finds them, and where they outlive this process.

The private key goes to the disk of this machine (0600), to Envoy's Unix socket and to who reads files, nowhere else.
Invariant: an expired certificate is never handed out, whatever else is missing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Protocol

import msgspec

from masche.agent.sds import Shelf
from masche.identity import files, keys, shown
from masche.link.messages import CertificateReport, Roots, SignReply, SignRequest
from masche.link.renewal import Kept, Place, Renewal
from masche.model.refs import Name
from masche.wire import framing, grpc_bootstrap, secret
from masche.wire.types import SECRET


class Signer(Protocol):
    """What is needed of a link."""

    async def sign(self, request: SignRequest) -> SignReply:
        """Have a request signed. Raises RefusedError, ConnectionError."""
        ...


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
        self._obtained = asyncio.Event()
        self._renewal = Renewal(Place(show=self._show, withdraw=self._withdraw, keep=self._keep), rng=rng)

    def __repr__(self) -> str:
        return f"<Identity of {self._workload}: {self._renewal}>"

    @property
    def not_after(self) -> float:
        """When the certificate ends, in seconds since the epoch; 0 for none."""
        return self._renewal.not_after

    @property
    def trust_domain(self) -> str:
        """The trust domain of the mesh, "" before there is a certificate."""
        return self._renewal.trust_domain

    @property
    def is_valid(self) -> bool:
        """Whether there is a certificate that peers will accept now."""
        return self._renewal.is_valid

    def report(self) -> tuple[CertificateReport, ...]:
        """How it stands, for a Report."""
        return self._renewal.report(self._workload)

    def load(self) -> None:
        """Take up the certificate of an earlier run, if it still holds."""
        try:
            found = msgspec.json.decode(keys.read_secret(self._file).reveal(), type=Kept)
        except (OSError, files.UnsafeFileError, msgspec.DecodeError):
            return
        self._renewal.restore(found)

    def trust(self, roots: Roots) -> None:
        """Judge peers by these roots from now on; when they are others, ask for a certificate of theirs at once."""
        self._renewal.trust(roots)

    async def obtained(self) -> None:
        """Return once there is a valid certificate."""
        await self._obtained.wait()

    async def run(self, may_sign: Callable[[], Awaitable[None]]) -> None:
        """Obtain, renew, and withdraw what expired, for ever. ``may_sign`` returns once the workload is registered."""

        async def ask() -> tuple[str, Name]:
            await may_sign()
            return self._proxy, self._workload

        await self._renewal.run(ask, self._signer.sign)

    def _show(self, kept: Kept) -> None:
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

    def _withdraw(self) -> None:
        self._shelf.withdraw(self._certificate)
        if self._shown:
            shown.withdraw(self._shown)
        self._obtained.clear()

    def _keep(self, kept: Kept) -> None:
        files.write_private(self._file, msgspec.json.encode(kept))


def _files(kept: Kept) -> dict[str, bytes]:
    """As gRPC reads them. It tells no trust domains apart, so of another one's roots it must not know."""
    return {
        grpc_bootstrap.CERTIFICATE: kept.chain.encode(),
        grpc_bootstrap.KEY: kept.key.encode(),
        grpc_bootstrap.ROOTS: kept.bundle.roots.encode(),
    }
