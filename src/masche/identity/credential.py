"""Machine credentials: what a machine may run, how it renews, and how it is banned.

A machine is known by the id that its join was given; its record lists the namespaces and service accounts it may run
and the serials of its last two certificates. A renewal is signed by the old key, so it works after the old leaf has
expired, over a connection that needs no client certificate. A revoked machine renews nothing and is admitted nowhere.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification

from masche.identity import csr
from masche.identity.authority import DAY, Authority, Issued
from masche.identity.bundle import TrustBundle
from masche.identity.csr import CsrError
from masche.identity.join import Grant, Records
from masche.identity.keys import PrivateKey
from masche.identity.malformed import MALFORMED
from masche.identity.spiffe import Machine, SpiffeError, SpiffeId

BUCKET: Final = "machines"
REVOKED: Final = "revoked-machines"
"""A ban is a record of its own, so that no renewal at the same instant on another control plane can write over it."""

LIFETIME: Final = 30 * DAY
GRACE: Final = 90 * DAY
"""So long after its leaf expired a machine may still renew."""


class CredentialError(ValueError):
    """A machine credential is not given or not renewed; the text says why."""


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a machine. ``proven`` is the serial that it used last, ``issued`` the one it was given last."""

    machine: str
    grant: Grant
    proven: str = ""
    issued: str = ""
    not_after: float = 0.0


def refusal(grant: Grant, namespace: str, service_account: str) -> str:
    """Why a machine with this grant may not run that service account; "" when it may."""
    if not _matches(grant.namespaces, namespace):
        return f"this machine may run workloads of {', '.join(grant.namespaces)}, not of the namespace {namespace}"
    if not _matches(grant.service_accounts, service_account):
        allowed = ", ".join(grant.service_accounts)
        return f"this machine may run the service accounts {allowed}, not {service_account}"
    return ""


def _matches(patterns: Sequence[str], value: str) -> bool:
    """``*`` is any, ``team-*`` a prefix, everything else itself; never a regular expression."""
    return any(
        value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern for pattern in patterns if pattern
    )


def prove(key: PrivateKey, chain: str, request: bytes) -> bytes:
    """A machine's signature by its old key over the old leaf and the new request (DER): what ``Renew`` carries."""
    leaf = x509.load_pem_x509_certificate(chain.encode())
    return key.sign(_claim(leaf, request), ec.ECDSA(hashes.SHA256()))


class Machines:
    """Gives, renews and revokes machine credentials. Any number of control planes may share the records."""

    def __init__(self, records: Records, authority: Authority) -> None:
        self._records = records
        self._authority = authority
        self._revoked: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()

    @property
    def revoked(self) -> frozenset[str]:
        """The ids of revoked machines as of the last ``load``; ask it whenever a machine connects."""
        return self._revoked

    async def load(self) -> dict[str, MachineRecord]:
        """Read all machines again, and with them ``revoked``; at start, and every few seconds with several writers."""
        self._revoked = frozenset(await self._records.list(REVOKED))
        return {key: _decode(value) for key, value in (await self._records.list(BUCKET)).items()}

    async def find(self, machine: str) -> MachineRecord | None:
        """The record of one machine."""
        value = await self._records.get(BUCKET, machine)
        return None if value is None else _decode(value)

    async def welcome(self, name: str, grant: Grant, request: bytes, *, now: float) -> Issued:
        """The first credential of a machine whose token was spent. Raises CsrError, CredentialError.

        The id is ``name``, or ``name`` and six random hex digits when that is taken: nobody becomes another machine.
        """
        for machine in (name, f"{name}-{secrets.token_hex(3)}"):
            identity = self._identity(machine)
            csr.public_key(request, identity)
            record = MachineRecord(machine=machine, grant=grant)
            if await self._records.create(BUCKET, machine, _encode(record)):
                return await self._issue(record, request, now=now)
        raise CredentialError(f"there is a machine {name} already; choose another name")

    async def renew(self, chain: str, request: bytes, proof: bytes, *, now: float) -> Issued:
        """The next credential of a machine that proves its last one. Raises CredentialError, CsrError."""
        leaf, machine = proven_machine(chain, request, proof, self._authority.bundle, now=now)
        async with self._lock:
            record = await self.find(machine)
            if record is None:
                raise CredentialError(f"the machine {machine} is not known here; join it again")
            if (why := await self._records.get(REVOKED, machine)) is not None:
                raise CredentialError(f"the machine {machine} is revoked: {why.decode()}")
            serial = f"{leaf.serial_number:032x}"
            if serial not in {record.proven, record.issued}:
                raise CredentialError("this credential was replaced since; only the newest can be renewed")
            return await self._issue(msgspec.structs.replace(record, proven=serial), request, now=now)

    async def revoke(self, machine: str, *, why: str) -> bool:
        """Ban a machine for good, durably; say whether it was known."""
        if await self.find(machine) is None:
            return False
        await self._records.put(REVOKED, machine, why.encode())
        self._revoked |= {machine}
        return True

    def _identity(self, machine: str) -> SpiffeId:
        try:
            return SpiffeId.of_machine(self._authority.trust_domain, machine)
        except SpiffeError as error:
            raise CredentialError(f"{machine!r} can not be a machine's name: {error}") from error

    async def _issue(self, record: MachineRecord, request: bytes, *, now: float) -> Issued:
        """Sign, and write the serial down before the certificate leaves."""
        issued = self._authority.sign(request, self._identity(record.machine), now=now, lifetime=LIFETIME)
        fresh = msgspec.structs.replace(record, issued=issued.serial, not_after=issued.not_after)
        await self._records.put(BUCKET, record.machine, _encode(fresh))
        return issued


def proven_machine(
    chain: str, request: bytes, proof: bytes, bundle: TrustBundle, *, now: float
) -> tuple[x509.Certificate, str]:
    """The leaf and the machine id that a renewal proves. Raises CredentialError, CsrError.

    The chain is verified as of the leaf's last second when that has passed, at most GRACE ago.
    """
    try:
        leaf, *intermediates = x509.load_pem_x509_certificates(chain.encode())
    except MALFORMED as error:
        raise CredentialError(f"the old chain can not be read: {error}") from error
    expired_at = leaf.not_valid_after_utc.timestamp()
    if now > expired_at + GRACE:
        raise CredentialError(f"the credential expired more than {GRACE / DAY:.0f} days ago; join this machine again")
    names = _verified_names(leaf, intermediates, bundle, at=min(now, expired_at - 1))
    machine = _machine(names, bundle.trust_domain)
    _check_proof(leaf, request, proof)
    if csr.public_key(request, SpiffeId.of_machine(bundle.trust_domain, machine)) == leaf.public_key():
        raise CsrError("a renewal needs a new key")
    return leaf, machine


def _verified_names(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], bundle: TrustBundle, *, at: float
) -> list[x509.GeneralName]:
    moment = datetime.fromtimestamp(at, UTC)
    policy = verification.PolicyBuilder().store(verification.Store(list(bundle.roots))).time(moment)
    try:
        verified = policy.build_client_verifier().verify(leaf, intermediates)
    except (verification.VerificationError, *MALFORMED) as error:
        raise CredentialError(f"the old chain does not verify: {error}") from error
    return list(verified.subjects or ())


def _check_proof(leaf: x509.Certificate, request: bytes, proof: bytes) -> None:
    try:
        key = leaf.public_key()
    except MALFORMED as error:
        raise CredentialError(f"the old credential's key can not be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CredentialError("the old credential has no elliptic-curve key")
    try:
        key.verify(proof, _claim(leaf, request), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise CredentialError("the proof is not signed by the old credential's key") from error


def _machine(names: list[x509.GeneralName], trust_domain: str) -> str:
    match names:
        case [x509.UniformResourceIdentifier(value=uri)]:
            pass
        case _:
            raise CredentialError("the old credential does not have exactly one SPIFFE ID")
    try:
        identity = SpiffeId.parse(uri)
    except SpiffeError as error:
        raise CredentialError(f"the old credential has no valid SPIFFE ID: {error}") from error
    if identity.trust_domain != trust_domain or not isinstance(role := identity.role, Machine):
        raise CredentialError(f"{identity} is not a machine of {trust_domain}")
    return role.id


def _claim(leaf: x509.Certificate, request: bytes) -> bytes:
    """What is signed: a purpose, the old leaf and the new request, so that a signature fits nothing else."""
    old = hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()
    return b"masche machine renewal v1\0" + old + hashlib.sha256(request).digest()


def _encode(record: MachineRecord) -> bytes:
    return msgspec.msgpack.encode(record)


def _decode(value: bytes) -> MachineRecord:
    return msgspec.msgpack.decode(value, type=MachineRecord)
