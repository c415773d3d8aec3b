"""Calls on an event loop: what becomes of them, and that nothing of them stays under way."""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from library.core.scripted import (
    ORDERS,
    REPEATING,
    BrokenError,
    ClientTimeoutError,
    Given,
    Said,
    Scripted,
    UnreachedError,
    asked,
    broken,
    channel,
    mesh,
    ok,
    orders,
    route,
    saying,
    silent,
    taking_turns,
    under_way,
    unreached,
)
from masche.library.core import context, trace
from masche.library.core.async_driver import AsyncDriver
from masche.library.core.exchange import Head, Target
from masche.library.core.facade import Facade
from masche.library.core.ports import NotReadyError
from masche.model.calling import UNSAID, Algorithm, CircuitBreaker, Hedging, Traffic
from masche.model.refs import PortRef
from masche.model.told import Destination
from masche.model.view import Cluster, Cors, Fault, HeaderChange, Mirror, Protocol, RequestMatch, Retry
from masche.traffic.deadline import Deadline
from masche.traffic.outcome import Outcome
from masche.traffic.request import Request


async def call(
    facade: Facade, exchange: Scripted, method: str = "GET", target: str = "/", *headers: tuple[str, str], **how: bool
) -> Given:
    return await AsyncDriver(lambda: facade).call(asked(method, target, *headers, **how), exchange)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.002)


async def test_a_call_goes_to_an_instance_and_is_settled_when_its_body_ends() -> None:
    facade, counted = mesh()
    exchange = Scripted(ok)
    answer = await call(facade, exchange)
    assert answer.status == 200
    [target] = exchange.attempts
    assert target.endpoint in {"10.0.0.1:80", "10.0.0.2:80"}
    assert (target.is_tls, target.identities) == (True, ("spiffe://mesh.local/ns/shop/sa/orders",))
    assert under_way(facade) == 1, "the request is active while its body is"
    assert counted.calls == []
    answer.close()
    assert under_way(facade) == 0
    [called] = counted.calls
    assert (called.cluster, called.rule, called.status, called.bytes_received) == (ORDERS.path, "shop/orders", 200, 5)
    [tried] = counted.attempts
    assert (tried.address, tried.outcome) == (target.endpoint, Outcome.SUCCESS)


async def test_an_answer_that_is_forgotten_ends() -> None:
    facade, counted = mesh()
    await call(facade, Scripted(ok))
    gc.collect()
    assert under_way(facade) == 0
    assert len(counted.calls) == 1


async def test_what_could_not_be_connected_to_is_tried_elsewhere_whatever_the_method() -> None:
    facade, _ = mesh()
    exchange = Scripted(taking_turns(unreached, ok))
    answer = await call(facade, exchange, "POST")
    assert answer.status == 200
    first, second = exchange.attempts
    assert first.endpoint != second.endpoint


async def test_an_answer_that_is_listed_is_repeated_and_the_bad_one_is_closed() -> None:
    facade, counted = mesh()
    exchange = Scripted(taking_turns(saying(503), ok))
    assert (await call(facade, exchange)).status == 200
    assert [raw.is_closed for raw in exchange.raws] == [True, False]
    assert [each.outcome for each in counted.attempts] == [Outcome.REFUSED, Outcome.SUCCESS]


async def test_an_answer_below_500_that_a_route_lists_is_repeated_and_speaks_for_its_instance() -> None:
    facade, counted = mesh(orders(route(retry=replace(REPEATING, codes=(409,)))))
    exchange = Scripted(taking_turns(saying(409), ok))
    assert (await call(facade, exchange)).status == 200
    assert [raw.is_closed for raw in exchange.raws] == [True, False]
    assert [each.outcome for each in counted.attempts] == [Outcome.SUCCESS, Outcome.SUCCESS]


async def test_a_post_that_was_answered_is_not_repeated() -> None:
    facade, _ = mesh()
    exchange = Scripted(saying(503))
    assert (await call(facade, exchange, "POST")).status == 503
    assert len(exchange.attempts) == 1


async def test_a_body_that_was_read_is_not_sent_again() -> None:
    facade, _ = mesh()
    exchange = Scripted(saying(503, ("x-masche-unreached", "1")), is_spent=True)
    assert (await call(facade, exchange, "PUT", can_repeat=False)).status == 503
    assert len(exchange.attempts) == 1


async def test_what_its_own_proxy_never_passed_on_is_repeated_even_if_it_is_a_post() -> None:
    facade, _ = mesh()
    exchange = Scripted(taking_turns(saying(503, ("x-masche-unreached", "1")), ok))
    assert (await call(facade, exchange, "POST")).status == 200


async def test_the_clients_own_exception_comes_out_when_nobody_can_be_reached() -> None:
    facade, counted = mesh()
    with pytest.raises(UnreachedError):
        await call(facade, Scripted(unreached))
    assert under_way(facade) == 0
    assert [(each.status, each.flag) for each in counted.calls] == [(0, "UF")]


async def test_a_broken_connection_of_a_post_is_the_clients_own_exception() -> None:
    facade, _ = mesh()
    exchange = Scripted(broken)
    with pytest.raises(BrokenError):
        await call(facade, exchange, "POST")
    assert len(exchange.attempts) == 1


async def test_what_is_wrong_with_the_request_itself_is_held_against_nobody() -> None:
    async def wrong(_target: Target) -> Head:
        raise ValueError("no such thing")

    facade, counted = mesh()
    with pytest.raises(ValueError, match="no such thing"):
        await call(facade, Scripted(wrong))
    assert counted.attempts == []
    assert under_way(facade) == 0


async def test_silence_ends_with_the_route_as_the_clients_timeout() -> None:
    facade, counted = mesh(orders(route(timeout=0.05)))
    exchange = Scripted(silent)
    with pytest.raises(ClientTimeoutError, match="upstream request timeout"):
        await call(facade, exchange)
    assert exchange.under_way == 0
    assert under_way(facade) == 0
    assert [each.flag for each in counted.calls] == ["UT"]
    assert [each.outcome for each in counted.attempts] == [Outcome.TIMEOUT]


async def test_a_try_that_is_silent_is_repeated_elsewhere() -> None:
    facade, _ = mesh(orders(route(timeout=2.0, per_try_timeout=0.03, retry=REPEATING)))
    exchange = Scripted(taking_turns(silent, ok))
    assert (await call(facade, exchange)).status == 200
    assert len({each.endpoint for each in exchange.attempts}) == 2


async def test_a_call_ends_with_the_request_that_led_to_it() -> None:
    facade, _ = mesh()
    with context.until(Deadline(facade.now() + 0.03)), pytest.raises(ClientTimeoutError):
        await call(facade, Scripted(silent))


async def test_what_is_left_of_the_time_is_told_to_the_callee() -> None:
    facade, _ = mesh(orders(route(timeout=2.0)))
    exchange = Scripted(ok)
    await call(facade, exchange)
    headers = dict(exchange.attempts[0].headers)
    assert 1000 < int(headers["x-envoy-expected-rq-timeout-ms"]) <= 2000


async def test_a_call_looks_as_if_a_sidecar_had_sent_it() -> None:
    facade, _ = mesh(orders(route()))
    exchange = Scripted(ok)
    await call(facade, exchange, "GET", "/a/../b//c?d=%2F", ("accept", "*/*"), ("x-envoy-max-retries", "9"))
    request = exchange.attempts[0].request
    headers = dict(request.headers)
    assert request.target == "/b/c?d=%2F"
    assert request.authority == "orders"
    assert len(headers["x-request-id"]) == 36
    assert headers["traceparent"].startswith("00-")
    assert headers["x-forwarded-proto"] == "http"
    assert "x-envoy-max-retries" not in headers


async def test_a_call_goes_on_in_the_trace_of_the_request_that_led_to_it() -> None:
    facade, _ = mesh()
    exchange = Scripted(ok)
    led = trace.Trace(f"00-{'a' * 32}-{'b' * 16}-01", "vendor=1", "the-id")
    with trace.within(led):
        await call(facade, exchange)
    headers = dict(exchange.attempts[0].headers)
    assert (headers["traceparent"], headers["tracestate"], headers["x-request-id"]) == (
        led.parent,
        "vendor=1",
        "the-id",
    )


@pytest.mark.parametrize(
    ("headers", "target", "status"),
    [((("x_token", "1"),), "/", 400), ((), "/a%2Fb", 400)],
)
async def test_what_a_proxy_would_not_pass_is_not_sent(
    headers: tuple[tuple[str, str], ...], target: str, status: int
) -> None:
    facade, _ = mesh()
    exchange = Scripted(ok)
    assert (await call(facade, exchange, "GET", target, *headers)).status == status
    assert exchange.attempts == []


async def test_without_a_route_the_answer_is_404_and_says_so() -> None:
    facade, counted = mesh(orders(route(match=RequestMatch(path="/only"))))
    answer = await call(facade, Scripted(ok), "GET", "/other")
    assert answer.status == 404
    assert answer.body == b"no route of orders matches GET /other\n"
    assert answer.headers["x-masche-answer"] == "NR no route of orders matches GET /other"
    assert [(each.status, each.flag) for each in counted.calls] == [(404, "NR")]


async def test_without_an_instance_the_answer_is_envoys_503() -> None:
    facade, counted = mesh(orders(instances=0))
    answer = await call(facade, Scripted(ok))
    assert (answer.status, answer.body) == (503, b"no healthy upstream\n")
    assert [(each.status, each.flag) for each in counted.calls] == [(503, "UH")]
    assert under_way(facade) == 0


async def test_a_grpc_call_is_refused_in_its_own_words() -> None:
    facade, _ = mesh(orders(instances=0))
    answer = await call(facade, Scripted(ok), "POST", "/shop.Orders/Get", ("content-type", "application/grpc"))
    assert (answer.status, answer.headers["grpc-status"]) == (200, "14")
    assert answer.headers["grpc-message"] == "no healthy upstream"


async def test_above_the_limit_of_requests_the_answer_is_envoys_overflow() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_requests=1))
    facade, counted = mesh(orders(traffic=traffic))
    first = await call(facade, Scripted(ok))
    second = await call(facade, Scripted(ok))
    assert second.status == 503
    assert second.body.startswith(b"upstream connect error or disconnect/reset before headers. reset reason: overflow")
    assert second.headers["x-envoy-ratelimited"] == "1"
    assert [each.flag for each in counted.calls] == ["UO"]
    first.close()
    assert (await call(facade, Scripted(ok))).status == 200


async def test_above_the_limit_of_connections_calls_wait_in_turn() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_connections=1, max_pending=1))
    facade, _ = mesh(orders(traffic=traffic))
    first = await call(facade, Scripted(ok))
    waiting = asyncio.create_task(call(facade, Scripted(ok)))
    await until(lambda: channel(facade).gate.waiting == 1)
    assert (await call(facade, Scripted(ok))).status == 503, "one may wait, not two"
    first.close()
    second = await waiting
    assert second.status == 200
    second.close()
    assert under_way(facade) == 0


async def test_a_call_that_waited_in_vain_leaves_the_queue_and_is_counted() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_connections=1))
    facade, counted = mesh(orders(route(timeout=0.03), traffic=traffic))
    first = await call(facade, Scripted(ok))
    with pytest.raises(ClientTimeoutError, match="all 1 connections of shop/orders:80 are in use"):
        await call(facade, Scripted(ok))
    (late,) = counted.calls
    assert (late.cluster, late.status, late.flag) == (ORDERS.path, 0, "UT")
    assert late.seconds >= 0.03
    first.close()
    assert under_way(facade) == 0


async def test_a_call_that_was_given_up_in_the_queue_is_counted_as_its_callers_doing() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_connections=1))
    facade, counted = mesh(orders(route(), traffic=traffic))
    first = await call(facade, Scripted(ok))
    waiting = asyncio.create_task(call(facade, Scripted(ok)))
    await until(lambda: channel(facade).gate.waiting == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert [(each.status, each.flag) for each in counted.calls] == [(0, "DC")]
    first.close()
    assert under_way(facade) == 0


async def test_no_more_repeats_are_under_way_than_the_policy_allows() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_retries=0))
    facade, _ = mesh(orders(route(retry=REPEATING), traffic=traffic))
    exchange = Scripted(saying(503))
    answer = await call(facade, exchange)
    assert (answer.status, len(exchange.attempts)) == (503, 1)
    assert answer.headers["x-envoy-ratelimited"] == "1", "and nobody above should repeat it either"


async def test_repeats_that_have_ended_make_room_for_others() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_retries=1))
    facade, _ = mesh(orders(route(retry=replace(REPEATING, attempts=2)), traffic=traffic))
    for _ in range(3):
        exchange = Scripted(taking_turns(unreached, unreached, ok))
        assert (await call(facade, exchange)).status == 200
        assert len(exchange.attempts) == 3
    repeats = channel(facade).repeats
    assert repeats is not None
    assert repeats.under_way == 0


async def test_strangers_and_this_host_go_out_untouched() -> None:
    facade, counted = mesh()
    exchange = Scripted(ok)
    driver = AsyncDriver(lambda: facade)
    for authority in ("elsewhere", "localhost:8000", "127.0.0.1", "[::1]:80"):
        request = Request(authority=authority, headers=(("x_odd", "1"),))
        answer = await driver.call(structs.replace(asked(), request=request), exchange)
        assert answer.headers == {"x_odd": "1"}
    assert (exchange.outsides, exchange.attempts, counted.calls) == (4, [], [])


async def test_this_host_is_called_without_any_mesh() -> None:
    def none() -> Facade:
        raise AssertionError("nobody needs the mesh for this")

    request = structs.replace(asked(), request=Request(authority="localhost"))
    assert (await AsyncDriver(none).call(request, Scripted(ok))).body == b"outside"


async def test_https_to_a_service_of_the_mesh_is_explained() -> None:
    facade, _ = mesh()
    request = structs.replace(asked(), request=Request(authority="orders", scheme="https"))
    answer = await AsyncDriver(lambda: facade).call(request, Scripted(ok))
    assert answer.status == 400
    assert b"write http://" in answer.body


async def test_as_long_as_nothing_is_known_a_call_waits_and_then_says_for_what() -> None:
    facade, _ = mesh()
    request = structs.replace(asked(), request=Request(authority="unheard-of"))
    with pytest.raises(
        NotReadyError, match=r"unheard-of after 0\.05 s of waiting for the control plane at 10\.0\.0\.1"
    ):
        await AsyncDriver(lambda: facade).call(request, Scripted(ok))


async def test_a_call_goes_on_as_soon_as_something_is_known() -> None:
    facade, _ = mesh(patience=5.0)
    said = facade.knowledge
    assert isinstance(said, Said)
    request = structs.replace(asked(), request=Request(authority="soon"))
    waiting = asyncio.create_task(AsyncDriver(lambda: facade).call(request, Scripted(ok)))
    await asyncio.sleep(0)
    said.wanted.set_result(orders())
    assert (await waiting).status == 200


HEDGED = replace(UNSAID, hedging=Hedging(enabled=True, after=0.02, max_percent=100.0))


async def test_a_slow_call_is_hedged_and_the_loser_is_cancelled() -> None:
    facade, counted = mesh(orders(traffic=HEDGED))
    await call(facade, Scripted(ok))
    exchange = Scripted(taking_turns(silent, ok))
    answer = await call(facade, exchange)
    assert answer.status == 200
    answer.close()
    await until(lambda: exchange.under_way == 0)
    assert len(exchange.attempts) == 2
    gc.collect()
    assert under_way(facade) == 0
    assert len(counted.calls) == 2


async def test_an_answer_that_comes_although_it_has_lost_is_closed() -> None:
    async def stubborn(_target: Target) -> Head:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Head(200, ())
        raise AssertionError

    facade, _ = mesh(orders(traffic=HEDGED))
    (await call(facade, Scripted(ok))).close()
    exchange = Scripted(taking_turns(stubborn, ok))
    answer = await call(facade, exchange)
    await until(lambda: len(exchange.raws) == 2 and any(raw.is_closed for raw in exchange.raws))
    assert answer.raw is not None
    assert not answer.raw.is_closed


async def test_hedged_calls_that_all_fail_raise_the_clients_exception() -> None:
    facade, _ = mesh(orders(route(retry=Retry(attempts=0)), traffic=HEDGED))
    with pytest.raises(BrokenError):
        await call(facade, Scripted(broken))
    assert under_way(facade) == 0


@pytest.mark.parametrize("traffic", [UNSAID, HEDGED], ids=["plain", "hedged"])
@pytest.mark.parametrize("turns", range(40))
async def test_a_call_that_is_cancelled_at_any_await_settles_all_that_it_claimed(turns: int, traffic: Traffic) -> None:
    async def slow(_target: Target) -> Head:
        for _ in range(3):
            await asyncio.sleep(0)
        return Head(200, ())

    facade, _ = mesh(orders(traffic=traffic))
    (await call(facade, Scripted(ok))).close()
    exchange = Scripted(taking_turns(saying(503), unreached, slow))
    driver = AsyncDriver(lambda: facade)
    task = asyncio.create_task(driver.call(asked(), exchange))
    for _ in range(turns):
        await asyncio.sleep(0)
    was_done = task.done()
    task.cancel()
    await asyncio.wait([task])
    if was_done:
        task.result().close()
    await driver.close()
    gc.collect()
    assert exchange.under_way == 0
    assert under_way(facade) == 0
    assert all(raw.is_closed for raw in exchange.raws) or was_done


async def test_a_mirror_gets_a_copy_that_counts_for_nothing() -> None:
    shadow = PortRef("shop", "shadow", 80)
    more = Destination(
        name=shadow.path, cluster=Cluster(service=shadow, protocol=Protocol.HTTP, identities=("spiffe://a/b",))
    )
    facade, counted = mesh(orders(route(mirrors=(Mirror(cluster=shadow),)), more=(more,)))
    exchange = Scripted(ok)
    driver = AsyncDriver(lambda: facade)
    answer = await driver.call(asked("POST"), exchange)
    await until(lambda: len(exchange.attempts) == 2)
    assert {each.cluster for each in exchange.attempts} == {ORDERS.path, shadow.path}
    answer.close()
    await until(lambda: channel(facade, shadow.path).gate.active == 0)
    assert len(counted.calls) == len(counted.attempts) == 1
    assert [raw.is_closed for raw in exchange.raws if raw.target.cluster == shadow.path] == [True]
    await driver.close()


async def test_a_silent_mirror_ends_with_the_client() -> None:
    shadow = PortRef("shop", "shadow", 80)
    more = Destination(
        name=shadow.path, cluster=Cluster(service=shadow, protocol=Protocol.HTTP, identities=("spiffe://a/b",))
    )

    async def script(target: Target) -> Head:
        return await (silent if target.cluster == shadow.path else ok)(target)

    facade, _ = mesh(orders(route(mirrors=(Mirror(cluster=shadow),)), more=(more,)))
    exchange = Scripted(script)
    driver = AsyncDriver(lambda: facade)
    for _ in range(facade.options.max_beside + 5):
        (await driver.call(asked(), exchange)).close()
    await until(lambda: exchange.under_way > 0)
    assert exchange.under_way <= facade.options.max_beside
    await driver.close()
    assert exchange.under_way == 0
    assert channel(facade, shadow.path).gate.active == 0


async def test_an_ejected_instance_gets_copies_until_it_is_well_again() -> None:
    bad = "10.0.0.1:80"
    ill = {bad}

    async def script(target: Target) -> Head:
        return Head(500 if target.endpoint in ill else 200, ())

    facade, _ = mesh(orders(route(), traffic=replace(UNSAID, algorithm=Algorithm.ROUND_ROBIN)))
    driver = AsyncDriver(lambda: facade)
    exchange = Scripted(script)
    while "1 admitted, 1 ejected until" not in repr(channel(facade)) if exchange.attempts else True:
        (await driver.call(asked(), exchange)).close()
        assert len(exchange.attempts) < 1000
    assert repr(channel(facade)).startswith("<Channel shop/orders:80: 1 admitted, 1 ejected until ")
    ill.clear()
    async with asyncio.timeout(5):
        while "2 admitted" not in repr(channel(facade)):
            answer = await driver.call(asked(), exchange)
            assert answer.status == 200, "nobody pays for finding out"
            answer.close()
            await asyncio.sleep(0.002)
    assert any(each.is_copy and each.endpoint == bad for each in exchange.attempts)
    await driver.close()
    assert under_way(facade) == 0


async def test_a_fault_delays_or_refuses() -> None:
    fault = Fault(delay=0.03, delay_percent=100.0, status=418, abort_percent=100.0)
    made = route()
    facade, _ = mesh(orders(replace(made, fault=fault)))
    began = facade.now()
    answer = await call(facade, Scripted(ok))
    assert answer.status == 418
    assert answer.headers["x-masche-answer"] == "FI fault filter abort"
    assert facade.now() - began >= 0.03


async def test_words_between_proxies_do_not_reach_the_application() -> None:
    changes = HeaderChange(set=(("x-mine", "1"),), remove=("x-theirs",))
    facade, counted = mesh(orders(replace(route(), response_headers=changes)))
    exchange = Scripted(saying(200, ("x-masche-service-us", "1500"), ("x-theirs", "1"), ("x-masche-unreached", "1")))
    answer = await call(facade, exchange)
    assert answer.headers == {"x-mine": "1"}
    assert [each.service_seconds for each in counted.attempts] == [0.0015]


async def test_a_preflight_is_answered_here() -> None:
    facade, _ = mesh(orders(replace(route(), cors=Cors(allow_origins=("https://*.shop",), allow_methods=("GET",)))))
    exchange = Scripted(ok)
    wanted = (("origin", "https://a.shop"), ("access-control-request-method", "GET"))
    answer = await call(facade, exchange, "OPTIONS", "/", *wanted)
    assert answer.headers["access-control-allow-origin"] == "https://a.shop"
    assert exchange.attempts == []
