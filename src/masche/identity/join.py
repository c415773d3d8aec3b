"""Join strings and the tokens in them: how a machine without a credential proves that it was invited.

``masche://host:port#<sha256 of the root>.<token>``. The pin lets the machine know the mesh before the mesh knows it. A
token is 256 random bits, kept only as a hash, and spent exactly once: by ``Records.take``, which is atomic and durable.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from masche.identity.keys import Secret
from masche.model.frozen import frozen

HOUR: Final = 3600.0
TOKEN_BYTES: Final = 32
BUCKET: Final = "join-tokens"
MAX_TOKEN_AGE: Final = 30 * 86400.0

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PATTERN: Final = re.compile(r"\*|[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?|[a-z0-9][-.a-z0-9]{0,251}\*")


class JoinError(ValueError):
    """A join string or a token is refused. What a stranger is told never depends on how wrong it was."""


class Records(Protocol):
    """What is needed of a store of private records; ``model.ports.Records`` has it."""

    async def get(self, bucket: str, key: str) -> bytes | None:
        """Return the record, or None."""
        ...

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Write it, durable on return."""
        ...

    async def create(self, bucket: str, key: str, value: bytes) -> bool:
        """Write it only if it is not there; say whether it was written. Atomic across processes."""
        ...

    async def take(self, bucket: str, key: str) -> bytes | None:
        """Delete it and return what it was; of many concurrent takers exactly one gets it."""
        ...

    async def list(self, bucket: str) -> dict[str, bytes]:
        """All records of a bucket by key."""
        ...


@frozen
class JoinString:
    """Where to join, which root to expect (SHA-256 in hex), and the token."""

    host: str
    port: int
    root: str
    token: Secret

    @classmethod
    def parse(cls, text: str) -> "JoinString":
        """Read a join string. Raises JoinError, whose text never has the token in it."""
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise JoinError("the join string has no valid host and port") from error
        if parts.scheme != "masche" or not host or not port or parts.path or parts.query or "@" in parts.netloc:
            raise JoinError("a join string looks like masche://host:port#<sha256 of the root>.<token>")
        root, dot, token = parts.fragment.partition(".")
        if not dot or not _SHA256.fullmatch(root):
            raise JoinError("the join string has no SHA-256 of the root before the token; was it copied whole?")
        try:
            _token_bytes(token)
        except JoinError as error:
            raise JoinError("the token of the join string is not whole; was it copied whole?") from error
        return cls(host=host, port=port, root=root, token=Secret(token.encode()))

    def reveal(self) -> str:
        """The join string as it is handed to the machine. It is a secret until it is spent."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"masche://{host}:{self.port}#{self.root}.{self.token.reveal().decode()}"


class Grant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a token gives a machine: which namespaces and service accounts it may run (``*``, ``team-*`` or exact).

    Instants are seconds since the epoch.
    """

    namespaces: tuple[str, ...] = ("*",)
    service_accounts: tuple[str, ...] = ("*",)
    created_at: float = 0.0
    expires_at: float = 0.0
    note: str = ""


def _impossible(grant: Grant) -> str | None:
    """The first pattern that nothing can match; "" where there is none at all."""
    for patterns in (grant.namespaces, grant.service_accounts):
        for pattern in patterns or ("",):
            if not _PATTERN.fullmatch(pattern):
                return pattern
    return None


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is stored."""

    digest: bytes
    grant: Grant


@frozen
class Attempts:
    """How many failures a source is forgiven: ``burst`` at once, then one in ``pause`` seconds."""

    burst: int = 10
    pause: float = 6.0
    sources: int = 10_000


class Doorkeeper:
    """Counts failures by source, so that guessing is slow and nobody is locked out by somebody else.

    The table is bounded: the sources that failed longest ago are forgotten first.
    """

    def __init__(self, attempts: Attempts | None = None) -> None:
        self._attempts = attempts or Attempts()
        self._debts: OrderedDict[str, float] = OrderedDict()

    def is_open(self, source: str, *, now: float) -> bool:
        """Whether this source may try; ``now`` is monotonic. A source owes ``pause`` seconds for each failure."""
        return self._debts.get(source, now) - now < self._attempts.burst * self._attempts.pause

    def failed(self, source: str, *, now: float) -> None:
        """Count one failure."""
        self._debts[source] = max(self._debts.get(source, now), now) + self._attempts.pause
        self._debts.move_to_end(source)
        while len(self._debts) > self._attempts.sources:
            self._debts.popitem(last=False)


class Tokens:
    """Issues tokens and spends them. Any number of control planes may share the records."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def issue(self, grant: Grant, *, now: float, lifetime: float = HOUR) -> Secret:
        """A new token for one machine, good for ``lifetime`` seconds (``now`` since the epoch).

        Raises:
            JoinError: it could never be of use.
        """
        if not 0 < lifetime <= MAX_TOKEN_AGE:
            raise JoinError(f"a token lives more than 0 and at most {MAX_TOKEN_AGE:.0f} seconds")
        if (wrong := _impossible(grant)) is not None:
            raise JoinError(f"{wrong!r} names no namespace or service account; write one, team-* or *")
        raw = secrets.token_bytes(TOKEN_BYTES)
        kept = _Kept(
            digest=_digest(raw),
            grant=msgspec.structs.replace(grant, created_at=now, expires_at=now + lifetime),
        )
        if not await self._records.create(BUCKET, _id(kept.digest), msgspec.msgpack.encode(kept)):
            raise JoinError("this token is there already: the source of randomness is broken")
        return Secret(_text(raw))

    async def spend(self, token: str, *, now: float) -> Grant:
        """What the token gives, once. Raises JoinError when it is unknown, expired or was spent.

        The record is taken before it is judged, so that of any number of uses at once one gets it; being killed
        afterwards loses the token, never spends it twice.
        """
        digest = _digest(_token_bytes(token))
        found = await self._records.take(BUCKET, _id(digest))
        kept = _Kept(digest=b"", grant=Grant()) if found is None else msgspec.msgpack.decode(found, type=_Kept)
        if not hmac.compare_digest(kept.digest, digest) or now >= kept.grant.expires_at:
            raise JoinError("the token is unknown, expired or already used")
        return kept.grant

    async def unspent(self, *, now: float) -> dict[str, Grant]:
        """The tokens that can still be spent, by their public id. Expired ones are swept out."""
        found: dict[str, Grant] = {}
        for key, value in (await self._records.list(BUCKET)).items():
            grant = msgspec.msgpack.decode(value, type=_Kept).grant
            if now < grant.expires_at:
                found[key] = grant
            else:
                await self._records.take(BUCKET, key)
        return found

    async def withdraw(self, token_id: str) -> bool:
        """Make an unspent token worthless, by its public id; say whether there was one."""
        return await self._records.take(BUCKET, token_id) is not None


def public_id(token: Secret) -> str:
    """What a token is called where it may be read."""
    return _id(_digest(_token_bytes(token.reveal().decode())))


def _text(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _token_bytes(token: str) -> bytes:
    """The 256 bits of a token. Raises JoinError for any other spelling, so that one token has one text."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise JoinError("the token is unknown, expired or already used") from error
    if len(raw) != TOKEN_BYTES or _text(raw).decode() != token:
        raise JoinError("the token is unknown, expired or already used")
    return raw


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(b"masche join token\0" + raw).digest()


def _id(digest: bytes) -> str:
    """The public half of the hash names the record; the whole of it is compared."""
    return digest.hex()[:16]
