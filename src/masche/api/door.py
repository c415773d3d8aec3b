"""The two layers around the routes: the Guard, which lets a request in or not, and the Net, which no error passes.

Invariant: every response that leaves carries the security headers, the refusals and the failures too.
"""

import logging
import time
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masche.api.answers import SECURITY_HEADERS, failure
from masche.api.credentials import Credentials
from masche.api.guard import COOKIE, SAFE_METHODS, GuessLimit, Knock, Refused, admission
from masche.api.messages import Error

LOGIN_PAGE = (Path(__file__).parent / "login.html").read_bytes()
TOO_MANY = Error(code="too-many-attempts", message="too many wrong credentials", fix="wait a second and try again")
_log = logging.getLogger("masche.api")


class Guard:
    """Asks ``guard.admission`` about every request; puts what it said into ``request.state.admitted``."""

    def __init__(
        self, inner: ASGIApp, *, credentials: Credentials, allowed_hosts: frozenset[str], limit: GuessLimit
    ) -> None:
        self.inner = inner
        self.credentials = credentials
        self.allowed_hosts = allowed_hosts
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry out the decision."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        send = _with_security_headers(send)
        decision = admission(_knock(scope), self.credentials, allowed_hosts=self.allowed_hosts, now=time.time())
        if isinstance(decision, Refused):
            await refused(decision, scope, self.limit)(scope, receive, send)
            return
        scope.setdefault("state", {})["admitted"] = decision
        await self.inner(scope, receive, send)


class Net:
    """Answers 500 for what nobody foresaw; the reason goes to the log and not to the caller."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and catch."""
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.inner(scope, receive, watched)
        except Exception:  # the last net: a defect must not show a traceback to the caller
            _log.exception("a request failed in a way that nobody foresaw", extra={"path": scope.get("path", "")})
            if has_begun:
                raise
            await _DEFECT(scope, receive, send)


_DEFECT = failure(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    Error(
        code="internal",
        message="the control plane made a mistake with this request; its log has the reason",
        fix="look at the log of `masche up`, and please report it",
    ),
)


def refused(why: Refused, scope: Scope, limit: GuessLimit) -> Response:
    """The answer to who was kept out: the login page for a browser that navigates, JSON for everyone else."""
    if why.is_guess and not limit.is_allowed(now=time.monotonic()):
        response = failure(HTTPStatus.TOO_MANY_REQUESTS, TOO_MANY)
        response.headers["Retry-After"] = "1"
        return response
    is_page = scope["method"] in SAFE_METHODS and "text/html" in Headers(scope=scope).get("accept", "")
    if why.status == HTTPStatus.UNAUTHORIZED and is_page:
        return HTMLResponse(LOGIN_PAGE, status_code=why.status, headers={"Cache-Control": "no-store"})
    response = failure(why.status, Error(code=why.code, message=why.message, fix=why.fix))
    if why.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _knock(scope: Scope) -> Knock:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    cookie = Request(scope).cookies.get(COOKIE, "")
    return Knock(method=scope["method"], path=scope["path"], headers=headers, cookie=cookie)


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(SECURITY_HEADERS)
        await send(message)

    return sending
