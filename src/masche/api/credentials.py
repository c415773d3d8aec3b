"""Who may ask: the token of this installation, the browsers that logged in and the one-time codes by which they do.

Invariant: a secret is on disk only in files of mode 0600, and of sessions and codes only a SHA-256 is kept, so that
reading memory or disk lets nobody in. Time is an argument: Unix seconds, because sessions outlive the process.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from masche.identity.files import read_private, write_private

SESSION_TTL = 12 * 3600.0
LOGIN_CODE_TTL = 3600.0
MAX_SESSIONS = 256
MAX_LOGIN_CODES = 64
_SECRET_BYTES = 32


class CredentialsError(Exception):
    """The files cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class ApiFolder:
    """The API's files in the data folder, for the server that writes them and the client that reads them."""

    data: Path

    @property
    def folder(self) -> Path:
        """Holds the others; mode 0700."""
        return self.data / "api"

    @property
    def token(self) -> Path:
        """The bearer token, 256 random bits in URL-safe base64."""
        return self.folder / "token"

    @property
    def sessions(self) -> Path:
        """The hashes of the sessions in force."""
        return self.folder / "sessions"

    @property
    def address(self) -> Path:
        """``host:port`` of the API that runs on this folder now, or ran last."""
        return self.folder / "address"


def load_token(folder: ApiFolder) -> str:
    """Read the token, or make it at the first start. Raises UnsafeFileError, or CredentialsError when it is none."""
    folder.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        token = read_private(folder.token).decode("ascii", "replace").strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(_SECRET_BYTES)
        write_private(folder.token, token.encode())
    if len(token) < 40:
        raise CredentialsError(f"{folder.token} does not hold a token: delete it and start again to make a new one")
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def is_same(given: str, secret: str) -> bool:
    """Compare in a time that tells nothing about either."""
    return hmac.compare_digest(_digest(given), _digest(secret))


@dataclass(slots=True)
class LoginCodes:
    """One-time codes: each lets one browser in, once, within its hour."""

    _expiry: dict[str, float] = field(default_factory=dict[str, float], repr=False)

    def create(self, *, now: float) -> tuple[str, float]:
        """Make a code and say until when it is good. The oldest goes when there are too many."""
        while len(self._expiry) >= MAX_LOGIN_CODES:
            del self._expiry[next(iter(self._expiry))]
        code = secrets.token_urlsafe(_SECRET_BYTES)
        self._expiry[_digest(code)] = now + LOGIN_CODE_TTL
        return code, now + LOGIN_CODE_TTL

    def spend(self, code: str, *, now: float) -> bool:
        """Whether the code was good; it is not any more. Looked up by hash, so that timing tells nothing about it."""
        return self._expiry.pop(_digest(code), 0.0) > now


@dataclass(slots=True)
class Sessions:
    """Browsers that logged in, on disk as hashes, so that a restart of the control plane logs nobody out."""

    path: Path
    _expiry: dict[str, float] = field(default_factory=dict[str, float], repr=False)

    @classmethod
    def load(cls, path: Path, *, now: float) -> "Sessions":
        """Read those still in force; a file that cannot be understood means that everyone logs in again."""
        try:
            kept = msgspec.json.decode(read_private(path), type=dict[str, float])
        except (FileNotFoundError, msgspec.DecodeError):
            kept = {}
        return cls(path, _alive(kept, now=now))

    def start(self, *, now: float) -> tuple[str, float]:
        """Begin a session: the value of its cookie and when it ends."""
        value, ends_at = secrets.token_urlsafe(_SECRET_BYTES), now + SESSION_TTL
        alive = _alive(self._expiry, now=now)
        for oldest in sorted(alive, key=alive.__getitem__)[: max(0, len(alive) - MAX_SESSIONS + 1)]:
            del alive[oldest]
        self._expiry = {**alive, _digest(value): ends_at}
        self._save()
        return value, ends_at

    def expiry(self, value: str, *, now: float) -> float | None:
        """When the session of this cookie ends; None when there is no such session."""
        ends_at = self._expiry.get(_digest(value), 0.0)
        return ends_at if ends_at > now else None

    def end(self, value: str) -> None:
        """Log out, for good."""
        if self._expiry.pop(_digest(value), None) is not None:
            self._save()

    def _save(self) -> None:
        write_private(self.path, msgspec.json.encode(self._expiry))


def _alive(expiry: Mapping[str, float], *, now: float) -> dict[str, float]:
    return {digest: ends_at for digest, ends_at in expiry.items() if ends_at > now}


@dataclass(slots=True, kw_only=True)
class Credentials:
    """All three together: what ``guard`` checks a request against."""

    token: str = field(repr=False)
    sessions: Sessions
    codes: LoginCodes = field(default_factory=LoginCodes)

    @classmethod
    def load(cls, folder: ApiFolder, *, now: float) -> "Credentials":
        """Read or make them. Raises CredentialsError, UnsafeFileError, or OSError when the folder cannot be written."""
        return cls(token=load_token(folder), sessions=Sessions.load(folder.sessions, now=now))
