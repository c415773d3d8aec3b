"""What a door remembers: the limit of requests at a time, each request counted once, and who is fit to be called."""

import asyncio
import logging
from dataclasses import replace
from random import Random

import pytest

from masche.library import peer
from masche.library.core import trace
from masche.library.inbound.asgi import Guarded, Message, Receive, Scope, Send
from masche.library.inbound.deciding import Answer, Shown
from masche.library.inbound.door import Door, Passage
from masche.library.inbound.health import asking
from masche.library.peer import Peer
from masche.model.view import AdaptiveConcurrency, Inbound, InboundPort, MtlsMode, Protocol
from masche.testing.static_reception import Counted, StaticReception
from masche.traffic.request import Connection, Request

PORT = 8080
WEB = Shown(peer="spiffe://mesh.local/ns/shop/sa/web", certificate="ab", local="spiffe://mesh.local/ns/shop/sa/orders")
ASKED = Request(target="/a?b", authority="orders", connection=Connection(source_ip="10.0.0.1", port=PORT))


def told(most: int = 0, **more: MtlsMode) -> Inbound:
    limit = AdaptiveConcurrency(enabled=bool(most), max_concurrency=most or 1)
    return Inbound(ports=(InboundPort(target="http", protocol=Protocol.HTTP, concurrency=limit),), **more)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def a_door(reception: StaticReception, counted: Counted, clock: Clock | None = None) -> Door:
    return Door(
        PORT,
        name="http",
        workload=lambda: "shop/orders-1",
        reception=reception,
        counter=counted,
        now=clock or Clock(),
        rng=Random(1),
        new_id=lambda: "new",
    )


def test_above_the_limit_requests_are_refused_and_callers_told_that_nothing_arrived():
    reception, counted = StaticReception(told={PORT: told(2)}), Counted()
    door = a_door(reception, counted)
    inside = [door.enter(ASKED, WEB) for _ in range(2)]
    assert all(isinstance(each, Passage) for each in inside)
    refused = door.enter(ASKED, WEB)
    assert isinstance(refused, Answer)
    assert (refused.status, refused.body, dict(refused.headers)["x-masche-unreached"]) == (
        503,
        b"reached concurrency limit",
        "1",
    )
    [first, _] = inside
    assert isinstance(first, Passage)
    first.begin(200, ())
    first.end()
    first.end()
    assert isinstance(door.enter(ASKED, WEB), Passage)
    assert counted.statuses() == [503, 200]


def test_another_limit_holds_from_the_next_request_on_and_the_old_ones_keep_their_places():
    reception, counted = StaticReception(told={PORT: told(1)}), Counted()
    door = a_door(reception, counted)
    old = door.enter(ASKED, WEB)
    assert isinstance(old, Passage)
    reception.told = {PORT: told(2)}
    assert [isinstance(door.enter(ASKED, WEB), Passage) for _ in range(3)] == [True, True, False]
    old.end()
    assert isinstance(door.enter(ASKED, WEB), Answer)
    reception.told = {PORT: told()}
    assert isinstance(door.enter(ASKED, WEB), Passage)


def test_the_service_time_is_for_callers_that_proved_who_they_are():
    clock, counted = Clock(), Counted()
    door = a_door(StaticReception(told={PORT: told(mtls=MtlsMode.PERMISSIVE)}), counted, clock)
    for shown, said in ((WEB, "250"), (None, None)):
        passage = door.enter(ASKED, shown)
        assert isinstance(passage, Passage)
        clock.now += 0.000_25
        headers = dict(passage.begin(200, (("x-masche-service-us", "9"), ("X-Masche-Denied", "me"), ("a", "b"))))
        assert headers == {"a": "b", **({"x-masche-service-us": said} if said else {})}
        clock.now += 1.0
        passage.end(sent=3, received=4)
    assert [round(each.seconds, 5) for each in counted.requests] == [1.00025, 1.00025]
    assert (counted.requests[0].peer, counted.requests[1].peer) == (WEB.peer, "")
    assert (counted.requests[0].bytes_sent, counted.requests[0].bytes_received) == (3, 4)


def test_who_asks_and_proved_who_it_is_is_told_how_many_other_requests_there_are():
    door = a_door(StaticReception(told={PORT: told(mtls=MtlsMode.PERMISSIVE)}), Counted())
    asking_for_load = replace(ASKED, headers=(("endpoint-load-metrics-format", "text"),))
    passages = [
        door.enter(each, shown) for each, shown in ((asking_for_load, WEB), (ASKED, WEB), (asking_for_load, None))
    ]
    assert door.under_way == 3
    for passage, said in zip(passages, ("TEXT named_metrics.in_flight=2", None, None), strict=True):
        assert isinstance(passage, Passage)
        assert dict(passage.begin(200, ())).get("endpoint-load-metrics") == said
    for passage in passages:
        assert isinstance(passage, Passage)
        passage.end()
        passage.end()
    assert door.under_way == 0


def test_what_is_refused_is_not_under_way():
    door = a_door(StaticReception(told={PORT: told(1)}), Counted())
    inside = door.enter(ASKED, WEB)
    assert isinstance(inside, Passage)
    assert isinstance(door.enter(ASKED, WEB), Answer)
    assert isinstance(door.enter(ASKED, None), Answer)
    assert door.under_way == 1


def test_a_plaintext_connection_that_is_left_over_is_refused_under_strict(caplog: pytest.LogCaptureFixture):
    counted = Counted()
    door = a_door(StaticReception(told={PORT: told()}), counted)
    with caplog.at_level(logging.WARNING):
        refused = door.enter(ASKED, None)
    assert isinstance(refused, Answer)
    assert (refused.status, refused.ends) == (403, True)
    assert "takes mutual TLS alone (STRICT)" in caplog.text


def test_a_port_of_its_own_mode_is_taken_as_it_says():
    inbound = replace(told(), port_mtls=((PORT, MtlsMode.DISABLE),))
    door = a_door(StaticReception(told={PORT: inbound}), Counted())
    assert door.mode() is MtlsMode.DISABLE
    assert isinstance(door.enter(ASKED, None), Passage)
    assert "DISABLE" in repr(door)


def test_nobody_comes_in_before_somebody_said_who_may(caplog: pytest.LogCaptureFixture):
    counted, reception = Counted(), StaticReception()
    door = a_door(reception, counted)
    refused = door.enter(ASKED, WEB)
    assert isinstance(refused, Answer)
    assert refused.body == b"not ready: waiting for the control plane at 127.0.0.1:15012"
    grpc = door.enter(replace(ASKED, headers=(("content-type", "application/grpc"),)), WEB)
    assert isinstance(grpc, Answer)
    assert (grpc.status, dict(grpc.headers)["grpc-status"]) == (200, "14")
    stranger = door.enter(ASKED, None)
    assert isinstance(stranger, Answer)
    assert (stranger.body, "127.0.0.1:15012" in stranger.why) == (b"not ready", True)
    assert "127.0.0.1:15012" in caplog.text
    reception.waits_for = "an answer\nof \u00fcs: 100%"
    strange = door.enter(replace(ASKED, headers=(("content-type", "application/grpc"),)), WEB)
    assert isinstance(strange, Answer)
    assert dict(strange.headers)["grpc-message"] == "not ready: waiting for an answer%0Aof %C3%BCs: 100%25"
    assert door.mode() is None


async def a_web_application(scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200 if scope["path"] == "/healthz" else 500})
    await send({"type": "http.response.body"})


class Certified:
    spiffe_id = ""


async def test_a_server_is_fit_once_it_is_certified_told_and_well():
    reception, identity = StaticReception(), Certified()
    loop = asyncio.get_running_loop()

    async def is_fit(path: str) -> str:
        ask = asking(a_web_application, path, port=PORT, reception=reception, identity=identity, loop=loop)
        return await ask()

    assert await is_fit("") == "waiting for the control plane at 127.0.0.1:15012"
    reception.told = {PORT: told()}
    assert await is_fit("") == "waiting for the control plane"
    identity.spiffe_id = WEB.local
    assert await is_fit("") == ""
    assert await is_fit("/healthz") == ""
    assert await is_fit("/") == "GET /: status 500"


async def test_an_application_that_raises_when_it_is_asked_is_not_fit():
    async def broken(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("no database")

    identity = Certified()
    identity.spiffe_id = WEB.local
    reception = StaticReception(told={PORT: told()})
    loop = asyncio.get_running_loop()
    ask = asking(broken, "/healthz", port=PORT, reception=reception, identity=identity, loop=loop)
    assert await ask() == "GET /healthz: RuntimeError: no database"


async def test_whoever_is_told_to_go_is_counted_without_an_answer():
    counted = Counted()

    async def waiting(scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()

    async def gone() -> Message:
        raise asyncio.CancelledError

    guarded = Guarded(waiting, a_door(StaticReception(told={PORT: told(mtls=MtlsMode.DISABLE)}), counted))
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"orders")]}
    with pytest.raises(asyncio.CancelledError):
        await guarded(scope, gone, _unused)
    assert counted.statuses() == [0]


async def test_a_request_on_which_nothing_moves_ends_in_time_and_one_on_which_something_does_goes_on():
    counted = Counted()
    port = InboundPort(target=PORT, protocol=Protocol.HTTP, idle_timeout=0.1, stream_idle_timeout=0.0)
    reception = StaticReception(told={PORT: Inbound(mtls=MtlsMode.DISABLE, ports=(port,))})
    said: list[Message] = []

    async def silent(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        await asyncio.Event().wait()

    async def busy(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for _ in range(5):
            await asyncio.sleep(0.04)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        said.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"orders")]}
    await Guarded(silent, a_door(reception, counted))(scope, receive, send)
    assert (said[0]["status"], said[1]["body"]) == (504, b"stream timeout")
    await Guarded(busy, a_door(reception, counted))(scope, receive, send)
    assert [(each.status, each.flag, each.bytes_sent) for each in counted.requests] == [(504, "SI", 0), (200, "", 5)]


async def _unused(_message: Message) -> None:
    raise AssertionError("nobody answers")


async def test_a_websocket_that_is_refused_on_a_server_without_responses_is_closed():
    said: list[str] = []
    guarded = Guarded(a_web_application, a_door(StaticReception(), Counted()))

    async def connecting() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        said.append(message["type"])

    await guarded({"type": "websocket", "path": "/", "headers": [(b"host", b"orders")]}, connecting, send)
    assert said == ["websocket.close"]


def test_a_peer_is_read_from_its_identity_and_is_of_its_request_alone():
    web = Peer.of(WEB.peer)
    assert (web.trust_domain, web.namespace, web.service_account) == ("mesh.local", "shop", "web")
    assert (web.principal, str(web)) == ("mesh.local/ns/shop/sa/web", WEB.peer)
    with peer.calling(web):
        assert peer.current() == web
        with peer.calling(None):
            assert peer.current() is None
    assert peer.current() is None
    assert Peer.of("spiffe://mesh.local/gateway/east").namespace == ""


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("headers", "parent"),
    [
        ((("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")), PARENT),
        ((("traceparent", PARENT), ("traceparent", PARENT)), None),
        ((("traceparent", PARENT + "-more"),), None),
        ((("traceparent", "cc" + PARENT[2:] + "-more"),), "cc" + PARENT[2:] + "-more"),
        ((("traceparent", PARENT.replace("00-", "ff-", 1)),), None),
        ((("traceparent", f"00-{'0' * 32}-b7ad6b7169203331-01"),), None),
        ((("traceparent", PARENT.upper()),), None),
        ((), None),
    ],
)
def test_a_trace_is_continued_only_if_it_is_valid(headers: tuple[tuple[str, str], ...], parent: str | None):
    found = trace.of(headers)
    assert (found.parent if found else None) == parent
    if found and len(headers) == 3:
        assert found.headers == (("traceparent", PARENT), ("tracestate", "a=1,b=2"))


def test_a_trace_that_begins_here_is_valid():
    begun = trace.begun(Random(3))
    assert trace.of(begun.headers) == begun
