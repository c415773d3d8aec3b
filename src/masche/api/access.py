"""What the API says about who is let in, what they hold and what is wrong: tokens, machines, certificates, findings.

The conventions are those of ``api.messages``.
"""

from enum import StrEnum

from masche.api.messages import Message, Request

# Joining


class TokenRequest(Request, frozen=True, kw_only=True):
    """A join token for one machine: what it may run (``*`` for any) and for how long the token is good, in seconds."""

    namespaces: tuple[str, ...]
    service_accounts: tuple[str, ...] = ("*",)
    ttl: float = 3600.0


class TokenInfo(Message, frozen=True, kw_only=True):
    """A join token that is not spent yet. ``id`` names it and is not the secret."""

    id: str
    namespaces: tuple[str, ...]
    service_accounts: tuple[str, ...]
    created_at: float
    expires_at: float


class TokenCreated(Message, frozen=True, kw_only=True):
    """A new token. ``join_string`` holds the secret, is shown this once and stored only as a hash."""

    token: TokenInfo
    join_string: str

    def __repr__(self) -> str:
        return f"TokenCreated(token={self.token!r}, join_string=Secret(...))"


class TokenList(Message, frozen=True, kw_only=True):
    """All unspent tokens."""

    tokens: tuple[TokenInfo, ...]


class MachineInfo(Message, frozen=True, kw_only=True):
    """A machine that joined: what it may run, until when its credential is good, whether its agent is connected."""

    machine: str
    namespaces: tuple[str, ...]
    service_accounts: tuple[str, ...]
    joined_at: float
    expires_at: float
    is_connected: bool
    is_revoked: bool = False
    address: str = ""
    agent_version: str = ""
    workloads: int = 0


class MachineList(Message, frozen=True, kw_only=True):
    """All machines that ever joined and are not forgotten."""

    machines: tuple[MachineInfo, ...]


class CertificateInfo(Message, frozen=True, kw_only=True):
    """A certificate that is in force. ``use`` is root, intermediate, control-plane, machine or workload.

    ``fingerprint`` is the SHA-256 of the DER in hex, ``holder`` the machine or workload that has the key.
    """

    use: str
    identity: str
    holder: str
    serial: str
    fingerprint: str
    not_before_at: float
    expires_at: float
    issuer: str = ""


class CertificateList(Message, frozen=True, kw_only=True):
    """All certificates in force, authorities first."""

    certificates: tuple[CertificateInfo, ...]


# Checks


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Message, frozen=True, kw_only=True):
    """The result of one check: what was looked at, what was found and, when it is not OK, the cure."""

    code: str
    title: str
    level: Level
    message: str
    fix: str = ""


class CheckReport(Message, frozen=True, kw_only=True):
    """All checks, the worst first."""

    findings: tuple[Finding, ...]


# Sessions


class LoginCode(Message, frozen=True, kw_only=True):
    """A one-time code for a browser; it is put behind the ``#`` of the login page's address."""

    code: str
    expires_at: float

    def __repr__(self) -> str:
        return f"LoginCode(code=Secret(...), expires_at={self.expires_at})"


class LoginRequest(Request, frozen=True, kw_only=True):
    """Spend a one-time code for a session cookie."""

    code: str


class Session(Message, frozen=True, kw_only=True):
    """Who asks: ``kind`` is ``browser`` or ``token``; ``expires_at`` is 0.0 for a token."""

    kind: str
    expires_at: float = 0.0
