"""What a connection says of itself to each request that comes by it: who the caller is, and how it was encrypted.

Read once per connection, whichever server has it. Invariant: it is read off the connection, under keys of a scope that
no caller can write.
"""

import asyncio
import hashlib
import random
import ssl
import time
from typing import Any, Final

from masche.library.core.ports import Identity
from masche.library.core.tls import peer_id
from masche.library.inbound.asgi import SHOWN, App, Message, Receive, Scope, Send
from masche.library.inbound.deciding import Shown

MAX_CONNECTION_AGE: Final = 3600.0
"""Seconds after which a connection is closed after an answer: nobody keeps an old certificate alive by staying."""

GOING_AWAY: Final = 1001
"""RFC 6455, 7.4.1: "an endpoint is \"going away\", such as a server going down"; its client opens another."""

_TLS_1_3 = 0x0304
_CIPHERS = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}


def last_until() -> float:
    """Until when a connection that begins now takes requests, in monotonic seconds. It varies, to spread reconnects."""
    return time.monotonic() + MAX_CONNECTION_AGE * (1 - random.random() / 10)  # noqa: S311 - no secret


class Introduced:
    """The application as one connection calls it: scopes say who the caller is."""

    def __init__(self, app: App, tls: ssl.SSLObject, shown: Shown) -> None:
        self._app = app
        self._shown = shown
        self._extension = _extension(tls)
        self.until = last_until()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope of this connection."""
        extensions: dict[str, Any] = {**(scope.get("extensions") or {}), "tls": self._extension}
        inside: Scope = {**scope, SHOWN: self._shown, "extensions": extensions}
        if scope["type"] == "websocket":
            conversation = _Conversation(receive, send, self.until)
            await conversation.between(self._app, inside)
            return
        is_last = time.monotonic() > self.until and scope.get("http_version", "") in {"1.0", "1.1"}
        await self._app(inside, receive, self._last(send) if is_last else send)

    def _last(self, send: Send) -> Send:
        async def ending(message: Message) -> None:
            if message["type"] == "http.response.start":  # the caller opens another connection
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        return ending


class _Conversation:
    """A WebSocket that ends when its connection is too old: the caller is told so, and the application as well."""

    def __init__(self, receive: Receive, send: Send, until: float) -> None:
        self._receive, self._send, self._until = receive, send, until
        self._next: asyncio.Future[Message] | None = None
        self._is_over = False

    async def between(self, app: App, scope: Scope) -> None:
        """Let the application have it."""
        try:
            await app(scope, self._received, self._sent)
        finally:
            if self._next is not None:
                self._next.cancel()

    async def _received(self) -> Message:
        """The next message, or the end; who is cancelled while waiting finds the same message the next time."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._receive())
        await asyncio.wait({self._next}, timeout=max(0.0, self._until - time.monotonic()))
        if self._next.done():
            found, self._next = self._next, None
            return found.result()
        await self._sent({"type": "websocket.close", "code": GOING_AWAY, "reason": "the connection is too old"})
        return {"type": "websocket.disconnect", "code": GOING_AWAY}

    async def _sent(self, message: Message) -> None:
        """Pass it on, unless it is over: what an application says after that is nobody's concern."""
        if self._is_over:
            return
        self._is_over = message["type"] == "websocket.close"
        await self._send(message)


def _extension(tls: ssl.SSLObject) -> dict[str, Any]:
    """ASGI's TLS extension, version 0.2: what the application may want to know of the connection."""
    certificate = tls.getpeercert(binary_form=True)
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else [],
        "client_cert_name": "" if certificate else None,
        "client_cert_error": None,
        "tls_version": _TLS_1_3,
        "cipher_suite": _CIPHERS.get((tls.cipher() or ("",))[0]),
    }


def shown_by(tls: ssl.SSLObject, identity: Identity) -> Shown | None:
    """Say what the peer of a connection proved; None when it proved nothing."""
    peer, certificate = peer_id(tls), tls.getpeercert(binary_form=True)
    if not peer or certificate is None:
        return None
    return Shown(peer=peer, certificate=hashlib.sha256(certificate).hexdigest(), local=identity.spiffe_id)


def introduced(app: App, tls: ssl.SSLObject | None, identity: Identity) -> App:
    """Return the application as a connection calls it; as it is when nobody proved anything."""
    shown = shown_by(tls, identity) if tls is not None else None
    return Introduced(app, tls, shown) if tls is not None and shown is not None else app
