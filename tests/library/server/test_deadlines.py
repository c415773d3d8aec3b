"""How long an answer is of use: told by verified callers alone, and it holds for the calls made for its request."""

import asyncio
from contextvars import Context, copy_context
from math import inf
from typing import Any

import pytest

from library.server.serving import inbound
from masche.library import wsgi
from masche.library.core import context
from masche.library.core.tls import Certificates
from masche.library.inbound.asgi import SHOWN, Guarded, Message, Receive, Scope, Send
from masche.library.inbound.deciding import Shown
from masche.library.inbound.door import Door
from masche.library.inbound.wsgi import as_asgi
from masche.model.view import MtlsMode
from masche.testing.static_reception import Counted, StaticReception
from masche.traffic.deadline import NO_DEADLINE, Deadline

PORT = 8080
WEB = Shown(peer="spiffe://mesh.local/ns/shop/sa/web", certificate="ab", local="spiffe://mesh.local/ns/shop/sa/orders")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def a_door() -> Door:
    reception = StaticReception(told={PORT: inbound(port=PORT, mtls=MtlsMode.PERMISSIVE)})
    return Door(PORT, workload=lambda: "shop/orders-1", reception=reception, counter=Counted(), now=Clock())


def scope(kind: str = "http", *headers: tuple[bytes, bytes], shown: Shown | None = WEB) -> Scope:
    told: list[tuple[bytes, bytes]] = [(b"host", b"orders"), *headers]
    return {"type": kind, "method": "GET", "path": "/", "headers": told, SHOWN: shown}


async def receive() -> Message:
    return {"type": "http.request", "body": b""}


async def send(_message: Message) -> None:
    """To nobody."""


TOLD = (b"x-envoy-expected-rq-timeout-ms", b"1500")


@pytest.mark.parametrize(
    ("headers", "shown", "holds"),
    [
        ((TOLD,), WEB, 101.5),
        ((TOLD, (b"grpc-timeout", b"500m")), WEB, 100.5),
        ((TOLD,), None, inf),
        ((), WEB, inf),
    ],
)
async def test_the_word_of_a_verified_caller_holds_for_calls_made_for_its_request(
    headers: tuple[tuple[bytes, bytes], ...], shown: Shown | None, holds: float
):
    seen: list[Any] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(context.current())
        seen.append(await asyncio.to_thread(context.current))
        seen.append([name for name, _ in scope["headers"] if name.startswith(b"x-envoy")])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    await Guarded(app, a_door())(scope("http", *headers, shown=shown), receive, send)
    assert seen == [Deadline(holds), Deadline(holds), []]
    assert context.current() == NO_DEADLINE


async def test_what_goes_on_after_the_answer_is_bound_no_more():
    """A mail that is sent when the answer is out must not fail because nobody waits for the answer any more."""
    seen: list[Deadline] = []
    answered = asyncio.Event()

    async def later() -> None:
        seen.append(context.current())
        await answered.wait()
        seen.append(context.current())

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(later())
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "more_body": True})
        seen.append(context.current())
        await send({"type": "http.response.body"})
        seen.append(context.current())
        answered.set()
        await task

    await Guarded(app, a_door())(scope("http", TOLD), receive, send)
    assert seen == [Deadline(101.5), Deadline(101.5), NO_DEADLINE, NO_DEADLINE]


async def test_a_conversation_has_no_end_that_its_caller_waits_for():
    seen: list[Deadline] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(context.current())
        await send({"type": "websocket.accept"})
        seen.append(context.current())

    await Guarded(app, a_door())(scope("websocket", TOLD), receive, send)
    assert seen == [Deadline(101.5), NO_DEADLINE]


def test_within_a_block_a_deadline_only_becomes_earlier_and_outside_nobody_is_bound():
    inherited: list[Context] = []
    with context.until(Deadline(5.0)):
        with context.until(Deadline(9.0)):
            inherited.append(copy_context())
            assert context.current() == Deadline(5.0)
        with context.until(Deadline(2.0)) as bound:
            assert context.current() == Deadline(2.0)
            bound.lift()
            assert context.current() == Deadline(5.0)
        assert inherited[0].run(context.current) == Deadline(5.0)
    assert inherited[0].run(context.current) == context.current() == NO_DEADLINE


def test_a_wsgi_application_is_bound_while_it_makes_its_answer(monkeypatch: pytest.MonkeyPatch):
    seen: list[Deadline] = []

    def app(_environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(context.current())
        start_response("200 OK", [])
        yield b"a"
        seen.append(context.current())

    def start_response(*_said: object) -> Any:
        """Nobody hears it."""

    def shown(*_connection: object) -> Shown:
        return WEB

    monkeypatch.setattr(wsgi, "_shown", shown)
    guarded = wsgi.Guarded(app, a_door(), Certificates())
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "orders"}
    body: Any = guarded({**environ, "HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS": "1500"}, start_response)
    assert b"".join(body) == b"a"
    body.close()
    assert seen == [Deadline(101.5), Deadline(101.5)]


async def test_half_a_body_is_not_taken_for_a_whole_one():
    words: list[Message] = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]
    read: list[bytes] = []

    def app(environ: dict[str, Any], _start_response: Any) -> Any:
        read.append(environ["wsgi.input"].read())
        return []

    async def hear() -> Message:
        return words.pop(0)

    asked = {**scope(), "query_string": b"", "http_version": "1.1"}
    with pytest.raises(ConnectionAbortedError, match="went away before the end"):
        await as_asgi(app)(asked, hear, send)
    assert read == []
    assert words == []


@pytest.mark.parametrize(("status", "is_told"), [(503, True), (200, False)])
async def test_a_failure_for_which_repeats_were_of_no_avail_tells_the_tier_above_not_to_repeat(
    status: int, is_told: bool
):
    """Three tiers of four tries each would be sixty-four calls of the last one."""
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await asyncio.create_task(asyncio.to_thread(context.spend))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def keep(message: Message) -> None:
        sent.append(message)

    await Guarded(app, a_door())(scope(), receive, keep)
    assert ((b"x-envoy-ratelimited", b"1") in sent[0]["headers"]) == is_told


async def test_what_was_spent_for_one_request_says_nothing_of_the_next():
    with context.until(NO_DEADLINE):
        context.spend()
        assert context.is_spent()
    assert not context.is_spent()
    with context.until(NO_DEADLINE):
        assert not context.is_spent()
