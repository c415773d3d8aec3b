"""Who this machine is to its control plane: a credential from a join string, or the Unix socket of the control plane.

A credential is one file, key and chain together, replaced at once; it renews itself at its half-life, also after it has
expired, and every connection made from then on shows the new one. Several processes of a machine may use one file:
whoever comes first renews it, and the others take what that one was given.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from random import Random

import msgspec

from masche.identity import files, keys, lifetime, places
from masche.identity.files import UnsafeFileError
from masche.identity.join import JoinString
from masche.identity.keys import Secret
from masche.identity.presented import Presented
from masche.identity.rotation import Rotation
from masche.identity.spiffe import SpiffeId
from masche.identity.trust import BundleError
from masche.link.address import LINK_PORT
from masche.link.client import Target
from masche.link.messages import JoinReply, Roots
from masche.link.refusal import RefusedError


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


async def join(joining_string: JoinString, name: str, *, zone: str) -> Credential:
    """Spend a join string for a credential of the machine ``name``, whose key is made here.

    Raises BundleError, RefusedError, SpiffeError, OSError.
    """
    from masche.link import joining  # few processes ever join or renew, and they load what signs for it

    SpiffeId.of_machine("any", name)
    key = keys.generate()
    reply = await joining.join(joining_string, name, key)
    host = f"[{joining_string.host}]" if ":" in joining_string.host else joining_string.host
    return of_reply(keys.private_pem(key), reply, f"{host}:{joining_string.port}", zone=zone)


def save(data: Path, credential: Credential) -> Path:
    """Write it to this machine's folder, mode 0600. Raises UnsafeFileError, OSError."""
    files.private_folder(places.machine_folder(data))
    path = places.credential(data)
    files.write_private(path, msgspec.json.encode(credential))
    return path


@contextlib.asynccontextmanager
async def alone(data: Path) -> AsyncGenerator[None]:
    """While this lasts no other process joins or renews with this data folder. Raises UnsafeFileError, OSError."""
    files.private_folder(places.machine_folder(data))
    descriptor = os.open(places.credential_lock(data), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _is_locked(descriptor):  # noqa: ASYNC110 - another process lets go of it, which tells nobody
            await asyncio.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def load(data: Path) -> Credential | None:
    """Read it; None when this machine has not joined. Raises MachineError."""
    path = places.credential(data)
    try:
        return msgspec.json.decode(keys.read_secret(path).reveal(), type=Credential)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (UnsafeFileError, OSError) as error:
        raise MachineError(str(error)) from error
    except msgspec.DecodeError as error:
        raise MachineError(f"{path} is not a machine credential: join this machine again") from error


def local_id() -> str:
    """The id of a machine without a credential: its host name, made fit for a SPIFFE ID."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-.")
    return name[:253] or "localhost"


class Machine:
    """This machine's standing with its control plane.

    ``control_plane`` (``host:port`` or ``unix:/path``) stands in for where the credential says that control planes are.
    With ``is_kept`` False a credential is this process's own and never written.
    """

    def __init__(
        self,
        data: Path,
        credential: Credential | None,
        *,
        rng: Random,
        control_plane: str = "",
        is_kept: bool = True,
    ) -> None:
        self._data = data
        self._credential = credential
        self._rng = rng
        self._control_plane = control_plane
        self._is_kept = is_kept
        self._wake = asyncio.Event()
        self.id = credential.machine if credential else local_id()

    def __repr__(self) -> str:
        return f"<Machine {self.id}: {self._credential or 'beside its control plane'}>"

    @property
    def is_joined(self) -> bool:
        """Whether it came in by a token, rather than by living beside its control plane."""
        return self._credential is not None

    @property
    def credential(self) -> Credential | None:
        """The credential as it is now; None beside the control plane."""
        return self._credential

    @property
    def zone(self) -> str:
        """The zone that it joined with, "" for none."""
        return self._credential.zone if self._credential else ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of the control planes that it joined; none beside its control plane."""
        if self._credential is None:
            return ()
        return (self._control_plane,) if self._control_plane else self._credential.addresses

    def targets(self, on_use: Callable[[str], None]) -> tuple[Target, ...]:
        """Where control planes are; ``on_use`` is told the address before each connection."""
        if self._credential is None:
            return (Target(address=self._control_plane or f"unix:{places.control_socket(self._data)}"),)

        def target(address: str) -> Target:
            def presented() -> Presented:
                on_use(address)
                return self.presented()

            return Target(address=address, presented=presented)

        return tuple(target(address) for address in self.addresses)

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
            except (RefusedError, BundleError, MachineError, UnsafeFileError, OSError, ValueError):
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
        """The next credential: what another process of this machine was given meanwhile, or one of our own asking."""
        if not self._is_kept:
            return await _renewal(old)
        async with alone(self._data):
            if (kept := _newer(self._data, old)) is not None:
                return kept
            fresh = await _renewal(old)
            save(self._data, fresh)
            return fresh

    def _replace(self, credential: Credential) -> None:
        if credential != self._credential:
            self._credential = credential
            if self._is_kept and _newer(self._data, credential) is None:
                save(self._data, credential)


def _newer(data: Path, than: Credential) -> Credential | None:
    """What another process was given for the same machine since."""
    kept = load(data)
    return kept if kept and kept.machine == than.machine and kept.obtained_at > than.obtained_at else None


async def _renewal(old: Credential) -> Credential:
    from masche.identity.bundle import TrustBundle  # as above
    from masche.link import joining  # as above

    key = keys.generate()
    bundle = TrustBundle.of_pem(old.trust_domain, old.roots)
    reply = await joining.renew(old.joining, bundle, old.chain, keys.load_private(Secret(old.key.encode())), key)
    fresh = of_reply(keys.private_pem(key), reply, old.joining, zone=old.zone)
    return fresh if reply.addresses else msgspec.structs.replace(fresh, addresses=old.addresses)
