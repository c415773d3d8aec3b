"""Is this process fit to be called? Asked in the process itself, past its own door, so that no port stands open for it.

What the resident asks once a second: have we a certificate, were we told who may come in, does the application's loop
turn, and does the application say that it is well. Invariant: a READY that callers hear of means that a call of theirs
would reach the application.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

from masche.library.core.ports import Identity, Reception
from masche.library.inbound.asgi import App, Message, Scope

WITHIN: Final = 1.0
"""Seconds that an answer may take, as for the probes of other placements."""

Probe = Callable[[], Awaitable[str]]
"""One question; answers "" when all is well, otherwise what is wrong."""


def asking(
    app: App,
    path: str,
    *,
    port: int,
    reception: Reception,
    identity: Identity,
    loop: asyncio.AbstractEventLoop,
    state: Callable[[], Mapping[str, Any]] = dict,
) -> Probe:
    """Return the question, to be asked in any loop; the application is asked in ``loop``, its own.

    ``path`` "" asks only whether its loop turns; else any status from 200 to 399 is well, as Kubernetes has it.
    ``state`` is what the application's lifespan left for its requests.
    """

    async def ask() -> str:
        if not identity.spiffe_id or reception.inbound(port) is None:
            return f"waiting for {reception.waiting_for() or 'the control plane'}"
        what = f"GET {path}" if path else "the application's event loop"
        asked: Future[int] = asyncio.run_coroutine_threadsafe(_answered(app, path, port, state()), loop)
        try:
            async with asyncio.timeout(WITHIN):
                status = await asyncio.wrap_future(asked)
        except TimeoutError:
            return f"{what}: no answer within {WITHIN:g} s"
        except Exception as error:  # noqa: BLE001 - whatever the application raises is its answer
            return f"{what}: {type(error).__name__}: {error}"
        return "" if 200 <= status < 400 else f"{what}: status {status}"

    return ask


def turning(*, port: int, reception: Reception, identity: Identity, loop: asyncio.AbstractEventLoop) -> Probe:
    """Return the question of a server that has no path to be asked by: whether its loop turns."""
    return asking(_nothing, "", port=port, reception=reception, identity=identity, loop=loop)


async def _nothing(_scope: Scope, _receive: object, _send: object) -> None:
    """An application that is never asked."""


async def _answered(app: App, path: str, port: int, state: Mapping[str, Any]) -> int:
    """Return the status of one GET; 200 without a path."""
    if not path:
        return 200
    statuses: list[int] = []
    plain, _, query = path.partition("?")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"masche-probe")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", port),
        "state": dict(state),
        "masche.peer": None,
    }
    heard: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        return heard.pop() if heard else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0] if statuses else 0
