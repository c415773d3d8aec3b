"""What a connection says to each scope, and when it ends."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import pytest

from masche.library.inbound import introduced
from masche.library.inbound.asgi import App, Message, Receive, Scope, Send
from masche.library.inbound.deciding import Shown
from masche.library.inbound.introduced import GOING_AWAY, Introduced

WEB = Shown(peer="spiffe://mesh.local/ns/shop/sa/web", certificate="ab", local="spiffe://mesh.local/ns/shop/sa/orders")


class Tls:
    """As much of a connection as is looked at."""

    def getpeercert(self, *, binary_form: bool) -> bytes:
        return b""

    def cipher(self) -> tuple[str]:
        return ("TLS_AES_128_GCM_SHA256",)


def an_introduction(app: App) -> Introduced:
    tls: Any = Tls()
    return Introduced(app, tls, WEB)


async def converse(app: App, said: Iterable[Message]) -> list[Message]:
    """Serve a WebSocket whose caller says this and then nothing more."""
    coming, sent = iter(said), list[Message]()

    async def receive() -> Message:
        found = next(coming, None)
        if found is None:
            await asyncio.Event().wait()
            raise AssertionError
        return found

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(20):
        await an_introduction(app)({"type": "websocket"}, receive, send)
    return sent


async def parrot(_scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})
    await send({"type": "websocket.close", "code": 1000})


async def test_a_websocket_on_an_old_connection_is_ended_and_both_sides_are_told(monkeypatch: pytest.MonkeyPatch):
    """Whoever stays connected would otherwise keep a certificate alive that has ended, or was revoked."""
    monkeypatch.setattr(introduced, "MAX_CONNECTION_AGE", 0.2)
    began = time.monotonic()
    sent = await converse(parrot, [{"type": "websocket.receive", "text": "hi"}])
    assert time.monotonic() - began > 0.15
    assert [each["type"] for each in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[-1]["code"] == GOING_AWAY


async def test_no_message_is_lost_by_an_application_that_waits_only_so_long():
    heard: list[str] = []

    async def slowly() -> Message:
        await asyncio.sleep(0.05)
        return {"text": "a"}

    async def impatient(_scope: Scope, receive: Receive, _send: Send) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.001)
        heard.append((await receive())["text"])

    async def nowhere(_message: Message) -> None:
        raise AssertionError

    async with asyncio.timeout(20):
        await an_introduction(impatient)({"type": "websocket"}, slowly, nowhere)
    assert heard == ["a"]
