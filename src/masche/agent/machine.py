"""Who this machine is to its control plane: a credential from ``masche join``, or the Unix socket of the control plane.

A credential is one file, key and chain together, replaced at once; it renews itself at its half-life, also after it has
expired, and every connection made from then on shows the new one.
"""

import asyncio
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from masche.agent import lifetime
from masche.agent.folders import Folders
from masche.identity import files, keys
from masche.identity.bundle import BundleError, TrustBundle
from masche.identity.files import UnsafeFileError
from masche.identity.keys import Secret
from masche.identity.rotation import Rotation
from masche.identity.tls import Presented
from masche.link import joining
from masche.link.client import Target
from masche.link.messages import JoinReply, Roots
from masche.link.service import RefusedError

LINK_PORT = 15012
"""Where a control plane is reached over mutual TLS, when it did not say."""


class MachineError(Exception):
    """The machine credential cannot be used; the message says what to do."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A machine credential as it is kept, and the zone in which the machine said that it is.

    ``joining`` is where it is renewed; instants are seconds since the epoch.
    """

    machine: str
    trust_domain: str
    chain: str
    key: str
    roots: str
    addresses: tuple[str, ...]
    joining: str
    obtained_at: float
    lifetime: float
    not_after: float
    zone: str = ""

    def __repr__(self) -> str:
        return f"<Credential of {self.machine} in {self.trust_domain} until {self.not_after:.0f}>"


def of_reply(key: Secret, reply: JoinReply, joining_address: str, *, zone: str) -> Credential:
    """The credential that a Join or Renew gave for a key that was made here."""
    return Credential(
        machine=reply.machine,
        trust_domain=reply.bundle.trust_domain,
        chain=reply.chain,
        key=key.reveal().decode(),
        roots=reply.bundle.roots,
        addresses=reply.addresses or (f"{joining_address.rpartition(':')[0]}:{LINK_PORT}",),
        joining=joining_address,
        obtained_at=time.time(),
        lifetime=reply.lifetime,
        not_after=reply.not_after,
        zone=zone,
    )


def save(folders: Folders, credential: Credential) -> Path:
    """Write it to this machine's folder, mode 0600."""
    files.private_folder(folders.machine)
    path = folders.credential
    files.write_private(path, msgspec.json.encode(credential))
    return path


def load(folders: Folders) -> Credential | None:
    """Read it; None when this machine has not joined. Raises MachineError."""
    path = folders.credential
    try:
        return msgspec.json.decode(keys.read_secret(path).reveal(), type=Credential)
    except FileNotFoundError:
        return None
    except UnsafeFileError as error:
        raise MachineError(str(error)) from error
    except msgspec.DecodeError as error:
        raise MachineError(f"{path} is not a machine credential: join this machine again") from error


def local_id() -> str:
    """The id of a machine without a credential: its host name, made fit for a SPIFFE ID."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-.")
    return name[:253] or "localhost"


class Machine:
    """This machine's standing with its control plane."""

    def __init__(self, folders: Folders, credential: Credential | None, *, rng: Random) -> None:
        self._folders = folders
        self._credential = credential
        self._rng = rng
        self._wake = asyncio.Event()
        self.id = credential.machine if credential else local_id()

    def __repr__(self) -> str:
        return f"<Machine {self.id}: {self._credential or 'beside its control plane'}>"

    @property
    def is_joined(self) -> bool:
        """Whether it came in by a token, rather than by living beside its control plane."""
        return self._credential is not None

    @property
    def zone(self) -> str:
        """The zone that it joined with, "" for none."""
        return self._credential.zone if self._credential else ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of the control planes that it joined; none beside its control plane."""
        return self._credential.addresses if self._credential else ()

    def targets(self, on_use: Callable[[str], None]) -> tuple[Target, ...]:
        """Where control planes are; ``on_use`` is told the address before each connection."""
        if self._credential is None:
            return (Target(address=f"unix:{self._folders.control_socket}"),)

        def target(address: str) -> Target:
            def presented() -> Presented:
                on_use(address)
                return self.presented()

            return Target(address=address, presented=presented)

        return tuple(target(address) for address in self._credential.addresses)

    def presented(self) -> Presented:
        """What a new connection shows. Only for a joined machine."""
        if self._credential is None:
            raise MachineError("this machine has no credential")
        credential = self._credential
        return Presented(chain=credential.chain, key=Secret(credential.key.encode()), roots=credential.roots)

    def trust(self, roots: Roots) -> None:
        """Judge control planes by these roots from now on; when they are others, renew at once."""
        known = self._credential
        if known and roots.trust_domain == known.trust_domain and roots.roots != known.roots:
            self._replace(msgspec.structs.replace(known, roots=roots.roots))
            self._wake.set()

    async def run(self) -> None:
        """Renew for ever; a machine without a credential has nothing to renew."""
        if self._credential is None:
            return
        loop = asyncio.get_running_loop()
        due = self._due(self._credential)
        while True:
            await lifetime.wait(self._wake, due.next_deadline() - loop.time())
            self._wake.clear()
            try:
                renewed = await self._renewed(self._credential)
            except (RefusedError, BundleError, OSError, ValueError):
                due = due.failed(now=loop.time(), rng=self._rng)
            else:
                self._replace(renewed)
                due = self._due(renewed)

    def _due(self, credential: Credential) -> Rotation:
        now = asyncio.get_running_loop().time()
        return lifetime.renewal(
            obtained_at=credential.obtained_at, lifetime=credential.lifetime, now=now, rng=self._rng
        )

    async def _renewed(self, old: Credential) -> Credential:
        key = keys.generate()
        bundle = TrustBundle.of_pem(old.trust_domain, old.roots)
        reply = await joining.renew(old.joining, bundle, old.chain, keys.load_private(Secret(old.key.encode())), key)
        fresh = of_reply(keys.private_pem(key), reply, old.joining, zone=old.zone)
        return fresh if reply.addresses else msgspec.structs.replace(fresh, addresses=old.addresses)

    def _replace(self, credential: Credential) -> None:
        if credential != self._credential:
            self._credential = credential
            save(self._folders, credential)
