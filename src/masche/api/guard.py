"""Decides from a request's method, path and headers whether it may come in, before a byte of its body is read.

Invariant: the decision never depends on what exists behind a path, so that nobody without credentials learns anything
from an answer. The order matters and each step says why it stands there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from masche.api.credentials import Credentials, is_same

COOKIE = "masche_session"
SAFE_METHODS = frozenset({"GET", "HEAD"})
OPEN_PATHS = frozenset({"/healthz", "/icon.svg", "/login", "/login.js"})
LOGIN_PATH = "/v1/session"
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Caller(StrEnum):
    """Who was let in."""

    ANYONE = "anyone"
    TOKEN = "token"  # noqa: S105 - the name of a way in, not a secret
    BROWSER = "browser"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Let in; ``session_ends_at`` in Unix seconds for browsers."""

    caller: Caller
    session_ends_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Kept out, with an answer that is the same for every path. ``is_guess`` counts against the limit on guessing."""

    status: HTTPStatus
    code: str
    message: str
    fix: str
    is_guess: bool = False


WRONG_HOST = Refused(
    status=HTTPStatus.MISDIRECTED_REQUEST,
    code="wrong-host",
    message="this address is not one that the API answers to",
    fix="use the address that `masche up` printed, or allow this name with `masche up --api-host`",
)
WRONG_ORIGIN = Refused(
    status=HTTPStatus.FORBIDDEN,
    code="wrong-origin",
    message="the request comes from another site",
    fix="open the dashboard at the address that `masche dashboard` prints",
)
NO_CREDENTIALS = Refused(
    status=HTTPStatus.UNAUTHORIZED,
    code="unauthenticated",
    message="valid credentials are needed",
    fix="browsers: open the link that `masche dashboard` prints; programs: send `Authorization: Bearer` with the token",
)
BAD_CREDENTIALS = Refused(
    status=NO_CREDENTIALS.status,
    code=NO_CREDENTIALS.code,
    message=NO_CREDENTIALS.message,
    fix=NO_CREDENTIALS.fix,
    is_guess=True,
)
TOO_MUCH = Refused(
    status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    code="headers-too-large",
    message="the request has too many headers, or too long ones",
    fix="send at most 100 headers of 16 KiB in all",
)
WRONG_TYPE = Refused(
    status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    code="wrong-content-type",
    message="a body must be JSON",
    fix="send `Content-Type: application/json`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """What the decision is made from. ``headers`` has lower-case names; a repeated header is joined with commas."""

    method: str
    path: str
    headers: Mapping[str, str]
    cookie: str = ""

    @property
    def host(self) -> str:
        """The Host header without its port, in lower case."""
        return host_name(self.headers.get("host", ""))

    @property
    def is_from_this_site(self) -> bool:
        """Whether Origin, where there is one, is the very address that was asked for. ``null`` is not."""
        origin = self.headers.get("origin")
        host = self.headers.get("host", "").lower()
        return origin is None or origin.lower() in {f"http://{host}", f"https://{host}"}


def host_name(host: str) -> str:
    """``LocalHost:80`` -> ``localhost``; brackets of an IPv6 address stay."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def admission(
    knock: Knock, credentials: Credentials, *, allowed_hosts: frozenset[str], now: float
) -> Admitted | Refused:
    """Decide. ``now`` is in Unix seconds."""
    # Size before anything else: what follows reads the headers.
    if len(knock.headers) > MAX_HEADERS or sum(len(n) + len(v) for n, v in knock.headers.items()) > MAX_HEADER_BYTES:
        return TOO_MUCH
    # Host next: with DNS rebinding a hostile page is same-origin with us, and only the name gives it away.
    if knock.host not in allowed_hosts:
        return WRONG_HOST
    # Origin then, for everyone: no site but ours has any business here, whatever credentials it got hold of.
    if not knock.is_from_this_site:
        return WRONG_ORIGIN
    if knock.path in OPEN_PATHS and knock.method in SAFE_METHODS:
        return Admitted(caller=Caller.ANYONE)
    who = _login(knock) if _is_login(knock) else _credentials(knock, credentials, now=now)
    # The content type last: text/plain is what a form can send without asking, and only who came in may learn of it.
    if isinstance(who, Admitted) and knock.method == "POST" and not _is_json(knock):
        return WRONG_TYPE
    return who


def _is_login(knock: Knock) -> bool:
    return knock.path == LOGIN_PATH and knock.method == "POST" and "authorization" not in knock.headers


def _login(knock: Knock) -> Admitted | Refused:
    """The code in the body is the credential; it comes from our own page, which has an Origin."""
    return Admitted(caller=Caller.ANYONE) if "origin" in knock.headers else WRONG_ORIGIN


def _credentials(knock: Knock, credentials: Credentials, *, now: float) -> Admitted | Refused:
    authorization = knock.headers.get("authorization")
    if authorization is not None:
        scheme, _, given = authorization.partition(" ")
        is_good = is_same(given, credentials.token) and scheme.lower() == "bearer"
        return Admitted(caller=Caller.TOKEN) if is_good else BAD_CREDENTIALS
    if not knock.cookie:
        return NO_CREDENTIALS
    ends_at = credentials.sessions.expiry(knock.cookie, now=now)
    if ends_at is None:
        return BAD_CREDENTIALS
    return Admitted(caller=Caller.BROWSER, session_ends_at=ends_at) if _is_meant(knock) else WRONG_ORIGIN


def _is_meant(knock: Knock) -> bool:
    """A cookie comes along uninvited, so a request with one must show that our own page sent it.

    Ports do not count for SameSite: a page of another port of this host is "same-site", hence both checks.
    """
    if knock.method not in SAFE_METHODS and "origin" not in knock.headers:
        return False
    site = knock.headers.get("sec-fetch-site", "none")
    is_navigation = knock.headers.get("sec-fetch-mode") == "navigate" and knock.method in SAFE_METHODS
    return site in {"same-origin", "none"} or is_navigation


def _is_json(knock: Knock) -> bool:
    return knock.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


@dataclass(slots=True, kw_only=True)
class GuessLimit:
    """A token bucket over wrong credentials, of everyone together. Right ones are never held up: no one is locked out.

    ``rate`` guesses a second are answered 401, up to ``burst`` at once; the others 429.
    """

    rate: float = 20.0
    burst: float = 200.0
    _left: float = 200.0
    _at: float = 0.0

    def is_allowed(self, *, now: float) -> bool:
        """Count one guess at ``now`` (monotonic seconds)."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
