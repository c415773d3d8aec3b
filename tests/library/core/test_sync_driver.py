"""Calls that block their thread: the same promises as on an event loop, with threads where there must be some."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from msgspec import structs

from library.core.scripted import (
    REPEATING,
    Blocking,
    BrokenError,
    ClientTimeoutError,
    Given,
    UnreachedError,
    asked,
    channel,
    mesh,
    orders,
    route,
    under_way,
)
from masche.library.core.exchange import Head, Target
from masche.library.core.facade import Facade
from masche.library.core.ports import NotReadyError
from masche.library.core.sync_driver import SyncDriver
from masche.model.calling import UNSAID, CircuitBreaker, Hedging
from masche.model.refs import PortRef
from masche.model.told import Destination
from masche.model.view import Cluster, Fault, Mirror, Protocol
from masche.traffic.request import Request

HEDGED = replace(UNSAID, hedging=Hedging(enabled=True, after=0.02, max_percent=100.0))
SHADOW = PortRef("shop", "shadow", 80)


def call(facade: Facade, exchange: Blocking, method: str = "GET") -> Given:
    return SyncDriver(lambda: facade).call(asked(method), exchange)


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.002)


def ok(_target: Target) -> Head:
    return Head(200, ())


def turns(*each: Callable[[Target], Head]) -> Callable[[Target], Head]:
    left, lock = list(each), threading.Lock()

    def answer(target: Target) -> Head:
        with lock:
            turn = left.pop(0) if len(left) > 1 else left[0]
        return turn(target)

    return answer


def unreached(_target: Target) -> Head:
    raise UnreachedError("connection refused")


def test_a_call_is_made_in_its_own_thread_and_settled_when_its_body_ends() -> None:
    threads: list[threading.Thread] = []

    def here(_target: Target) -> Head:
        threads.append(threading.current_thread())
        return Head(200, ())

    facade, counted = mesh()
    answer = call(facade, Blocking(here))
    assert threads == [threading.current_thread()]
    assert under_way(facade) == 1
    answer.close()
    assert under_way(facade) == 0
    assert [each.status for each in counted.calls] == [200]


def test_it_is_repeated_elsewhere() -> None:
    facade, _ = mesh()
    exchange = Blocking(turns(unreached, lambda _: Head(503, ()), ok))
    assert call(facade, exchange).status == 200
    assert len(exchange.attempts) == 3
    assert [raw.is_closed for raw in exchange.raws] == [True, False]


def test_the_clients_own_exceptions_come_out() -> None:
    facade, _ = mesh()
    with pytest.raises(UnreachedError):
        call(facade, Blocking(unreached))

    def late(_target: Target) -> Head:
        raise ClientTimeoutError

    with pytest.raises(ClientTimeoutError):
        call(facade, Blocking(late), "POST")
    assert under_way(facade) == 0


def test_without_knowledge_it_says_for_what_it_waited() -> None:
    facade, _ = mesh()
    request = structs.replace(asked(), request=Request(authority="unheard-of"))
    with pytest.raises(NotReadyError, match="not called in plaintext"):
        SyncDriver(lambda: facade).call(request, Blocking(ok))


def test_a_slow_call_is_hedged_and_the_late_answer_closed() -> None:
    may_end = threading.Event()

    def slow(_target: Target) -> Head:
        may_end.wait(5)
        return Head(200, ())

    facade, _ = mesh(orders(traffic=HEDGED))
    exchange = Blocking(turns(slow, ok))
    answer = call(facade, exchange)
    assert answer.status == 200
    answer.close()
    assert under_way(facade) == 0, "who lost is settled before it ends"
    may_end.set()
    until(lambda: len(exchange.raws) == 2 and exchange.raws[1].is_closed)
    assert not exchange.raws[0].is_closed


def test_hedged_calls_that_fail_raise_the_clients_exception() -> None:
    def broken(_target: Target) -> Head:
        raise BrokenError

    facade, _ = mesh(orders(route(), traffic=HEDGED))
    with pytest.raises(BrokenError):
        call(facade, Blocking(broken))
    assert under_way(facade) == 0


def test_a_hedged_call_that_nobody_answers_ends_in_time() -> None:
    may_end = threading.Event()

    def silent(_target: Target) -> Head:
        may_end.wait(5)
        return Head(200, ())

    facade, _ = mesh(orders(route(timeout=0.1, retry=REPEATING), traffic=HEDGED))
    exchange = Blocking(silent)
    with pytest.raises(ClientTimeoutError):
        call(facade, exchange)
    assert under_way(facade) == 0
    may_end.set()
    until(lambda: all(raw.is_closed for raw in exchange.raws) and len(exchange.raws) == len(exchange.attempts))


def test_above_the_limit_of_connections_threads_wait_in_turn() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_connections=1))
    facade, _ = mesh(orders(traffic=traffic))
    first = call(facade, Blocking(ok))
    answers: list[Given] = []
    waiting = threading.Thread(target=lambda: answers.append(call(facade, Blocking(ok))))
    waiting.start()
    until(lambda: channel(facade).gate.waiting == 1)
    first.close()
    waiting.join(5)
    assert [each.status for each in answers] == [200]
    answers[0].close()
    assert under_way(facade) == 0


def test_who_waited_in_vain_leaves_the_queue_and_is_counted() -> None:
    traffic = replace(UNSAID, breaker=CircuitBreaker(max_connections=1))
    facade, counted = mesh(orders(route(timeout=0.03), traffic=traffic))
    first = call(facade, Blocking(ok))
    with pytest.raises(ClientTimeoutError, match="connections of shop/orders:80 are in use"):
        call(facade, Blocking(ok))
    (late,) = counted.calls
    assert (late.cluster, late.status, late.flag) == ("outbound/shop/orders/80", 0, "UT")
    first.close()
    assert under_way(facade) == 0


def test_a_mirror_gets_its_copy_in_another_thread() -> None:
    more = Destination(
        name=SHADOW.path, cluster=Cluster(service=SHADOW, protocol=Protocol.HTTP, identities=("spiffe://a/b",))
    )
    facade, counted = mesh(orders(route(mirrors=(Mirror(cluster=SHADOW),)), more=(more,)))
    exchange = Blocking(ok)
    call(facade, exchange, "POST").close()
    until(lambda: any(raw.is_closed for raw in exchange.raws))
    until(lambda: channel(facade, SHADOW.path).gate.active == 0)
    assert len(counted.calls) == 1


def test_a_fault_is_made_here_too() -> None:
    facade, _ = mesh(orders(replace(route(), fault=Fault(status=418, abort_percent=100.0))))
    assert call(facade, Blocking(ok)).status == 418


def test_many_threads_settle_all_that_they_claim() -> None:
    def sometimes(target: Target) -> Head:
        match hash((target.request.target, threading.get_ident())) % 3:
            case 0:
                raise UnreachedError
            case 1:
                return Head(503, ())
            case _:
                return Head(200, ())

    facade, counted = mesh()
    driver = SyncDriver(lambda: facade)

    def work() -> None:
        for number in range(50):
            with suppress(UnreachedError):
                driver.call(asked("GET", f"/{number}"), Blocking(sometimes)).close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    until(lambda: under_way(facade) == 0)
    assert len(counted.calls) == 400
