"""Failures do not multiply: repeats, limits, ejections and times. Items I3, I4 and I5 of the reliability checklist."""

import json
import os
import socket
import statistics
import sys
import threading
import time
from urllib.parse import urlsplit

import grpc
import pytest

from e2e import tiers
from e2e.calling import status_of
from e2e.load import Load
from e2e.mesh import SERVERS, Instance, Mesh, service
from e2e.waiting import until
from masche.model.refs import Kind

IS_LONG = os.environ.get("MASCHE_LONG") == "1"
RATE = 120
FOUR = 4
pytestmark = [pytest.mark.alone, pytest.mark.timeout(600 if IS_LONG else 300)]

GREETER = """---
apiVersion: v1
kind: Service
metadata: {name: greeter, namespace: shop}
spec: {selector: {app: greeter}, ports: [{name: grpc, port: 80, targetPort: grpc, appProtocol: grpc}]}
---
"""


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    mesh.apply("".join(map(service, ("front", "middle", "back", "narrow", "sick", "slow"))) + GREETER)
    found = mesh.run("caller")
    mesh.await_ready(found)
    return found


# -- I3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(mesh: Mesh, caller: Instance) -> dict[str, Instance]:
    """front -> middle -> back; each asks the next with up to three repeats, of at most 20 % of the open calls."""
    names = ("front", "middle", "back")
    mesh.apply(
        "".join(
            tiers.route(name, retry={"codes": [502, 503, 504], "attempts": 3, "backoff": "25ms"})
            + tiers.policy(name, retryBudget={"percent": 20, "minConcurrent": 1}, timeouts={"request": "2s"})
            for name in names
        )
    )
    found = {
        "back": tiers.start(mesh, "back"),
        "middle": tiers.start(mesh, "middle", next_="back"),
        "front": tiers.start(mesh, "front", next_="middle"),
    }
    mesh.await_ready(*found.values())
    until(lambda: caller.reaches("front"), "the whole chain answers")
    return found


def test_one_failed_call_is_repeated(caller: Instance, chain: dict[str, Instance]) -> None:
    """The control run: without a storm there are repeats."""
    before = tiers.requests(chain["back"])
    tiers.answers(chain["back"], status=503)
    assert status_of(caller.url("front")) == 503
    tiers.answers(chain["back"])
    assert tiers.requests(chain["back"]) - before > 1


@pytest.mark.parametrize("ms", [pytest.param(50, marks=pytest.mark.long), 200], ids=["soon", "late"])
def test_a_backend_that_fails_every_call_is_not_stormed_and_recovers(
    caller: Instance, chain: dict[str, Instance], ms: int
) -> None:
    """I3: three hops with three repeats each would be 64 times the load."""
    with Load(caller.url("front"), rate=RATE) as load:
        load.lasts(1)
        tiers.answers(chain["back"], status=503, ms=ms)
        until(load.failed, "the fault bites")
        began, before, offered = time.monotonic(), tiers.requests(chain["back"]), load.made()
        load.lasts(30 if IS_LONG else 4)
        attempts, offered = tiers.requests(chain["back"]) - before, load.made() - offered
        tiers.answers(chain["back"])
        mended = time.monotonic()
        until(lambda: load.made(mended + 0.1) and not load.failed(time.monotonic() - 0.5), "it recovers", within=10)
        load.lasts(1)
    assert len(load.failed(began)) > offered * 0.5, "the fault did not bite"
    assert attempts > offered * 0.9, "most calls never came so far"
    assert attempts <= 1.25 * offered, f"{attempts} attempts for {offered} calls"
    assert not load.failed(mended + 10)


# -- I4 --------------------------------------------------------------------------------------------------------------


class Burst:
    """Calls that all begin at once, and what came of each: its status and its seconds."""

    def __init__(self, url: str, count: int) -> None:
        self.answers: list[tuple[int, float]] = []
        threads = [threading.Thread(target=self._call, args=(url,)) for _ in range(count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _call(self, url: str) -> None:
        began = time.monotonic()
        status = status_of(url, within=20)
        self.answers.append((status, time.monotonic() - began))

    def of(self, status: int) -> list[float]:
        return [seconds for each, seconds in self.answers if each == status]


def test_limits_of_requests_and_of_waiting_requests_hold_exactly(mesh: Mesh, caller: Instance) -> None:
    """I4: what is above a limit is refused at once, and never reaches the instance."""
    mesh.apply(
        tiers.route("narrow", retry={"attempts": 0})
        + tiers.policy("narrow", circuitBreaker={"maxRequests": 4, "maxPending": 4})
    )
    narrow = tiers.start(mesh, "narrow")
    mesh.await_ready(narrow)
    until(lambda: caller.reaches("narrow"), "it answers")
    tiers.answers(narrow, ms=1500)
    tiers.seen(narrow, "peak")
    burst = Burst(caller.url("narrow"), 24)
    assert tiers.seen(narrow, "peak") == 4
    assert len(burst.of(200)) == 4
    assert len(burst.of(503)) == 20
    assert statistics.median(burst.of(503)) < 1.0, "a call that was refused had to wait"
    tiers.answers(narrow)
    assert caller.reaches("narrow"), "the limit is for open calls only"


def test_never_more_than_the_share_is_ejected_and_calls_still_go_somewhere(mesh: Mesh, caller: Instance) -> None:
    """I4: with every instance failing half of them stay in, and a call is answered by one, not for want of one."""
    mesh.apply(
        tiers.route("sick", retry={"attempts": 0})
        + tiers.policy("sick", outlierEjection={"consecutiveErrors": 3, "maxEjectedPercent": 50, "baseEjection": "1s"})
    )
    living = [tiers.start(mesh, "sick", name=f"sick-{number}") for number in range(FOUR)]
    mesh.await_ready(*living)
    prefix = "cluster.outbound/shop/sick/80"
    until(lambda: len(caller.admin.endpoints()["outbound/shop/sick/80"]) == FOUR, "the caller knows all of them")
    tiers.answers(*living, status=503)
    most = 0
    with Load(caller.url("sick"), rate=RATE) as load:
        began = time.monotonic()
        while time.monotonic() < began + (30 if IS_LONG else 4):
            stats = caller.admin.stats(f"{prefix}.outlier_detection.ejections_active")
            most = max(most, *stats.values())
            time.sleep(0.02)
        tiers.answers(*living)
        mended = time.monotonic()
        until(lambda: len(load.servers(time.monotonic() - 1)) == FOUR, "all of them answer again", within=20)
        load.lasts(0.5)
    assert 1 <= most <= FOUR // 2
    failed = [each for each in load.failed(began) if each.at < mended]
    assert {each.server for each in failed} == {each.name for each in living}
    assert not load.failed(mended + 0.5)


# -- I5 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(mesh: Mesh, caller: Instance) -> Instance:
    found = tiers.start(mesh, "slow")
    mesh.await_ready(found)
    until(lambda: caller.reaches("slow"), "it answers")
    return found


def test_a_try_ends_with_its_own_time_and_all_tries_with_that_of_the_call(
    mesh: Mesh, caller: Instance, slow: Instance
) -> None:
    """I5: with 0.2 s for each try and 0.7 s for all of them there are several, and none goes on after the last."""
    limits = {"request": "700ms", "backendRequest": "200ms"}
    mesh.apply(tiers.route("slow", timeouts=limits, retry={"codes": [504], "attempts": 5, "backoff": "10ms"}))
    tiers.answers(slow, ms=3000)
    before, began = tiers.requests(slow), time.monotonic()
    assert status_of(caller.url("slow")) == 504
    assert 0.4 < time.monotonic() - began < (1.1 if IS_LONG else 3), "it waited for an answer"
    assert 2 <= tiers.requests(slow) - before <= 4
    until(lambda: not tiers.seen(slow, "active"), "no try goes on", within=1 if IS_LONG else 2.5)
    tiers.answers(slow)
    mesh.delete(Kind.HTTP_ROUTE, "slow")


def test_a_caller_that_gives_up_is_noticed_by_the_instance_within_a_tenth_of_a_second(
    caller: Instance, slow: Instance
) -> None:
    """I5, through two proxies; the median of five, as the machine has other things to do, and in the short form less
    strictly.
    """
    tiers.answers(slow, ms=20_000)
    parts = urlsplit(caller.url("slow"))
    took: list[float] = []
    for _ in range(5):
        given_up = tiers.seen(slow, "cancelled")
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: slow\r\n\r\n")
            until(lambda: tiers.seen(slow, "active"), "the call has reached it")
        began = time.monotonic()
        while tiers.seen(slow, "cancelled") == given_up:
            assert time.monotonic() < began + 10, "it never heard"
        took.append(time.monotonic() - began)
    tiers.answers(slow)
    assert statistics.median(took) < (0.1 if IS_LONG else 1.0), took


def test_a_deadline_of_grpc_goes_on_to_the_instance_and_ends_the_call_there(mesh: Mesh, caller: Instance) -> None:
    """I5: what is left of it, and that it is over."""
    greeter = mesh.run("greeter", [sys.executable, str(SERVERS / "greeter.py")], protocol="grpc")
    mesh.await_ready(greeter)
    address = urlsplit(caller.url("greeter")).netloc
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:

        def ask(method: str, within: float) -> bytes:
            return channel.unary_unary(f"/tests.Greeter/{method}")(b"", timeout=within)

        until(lambda: ask("Describe", 5), "it answers")
        assert 0 < json.loads(ask("Describe", 4))["left"] < 4.1
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as ended:
            ask("Hang", 0.5)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < (1 if IS_LONG else 5)
        assert ask("WasCancelled", 20) == b"yes"
