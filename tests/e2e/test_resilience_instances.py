"""Instances come, go, hang and flap under load. Items I1, I2, I8 and I10; a kill (I2) is among the changes."""

import os
import signal
import time

import pytest

from e2e import tiers
from e2e.calling import status_of
from e2e.load import CALL_TIMEOUT, Load
from e2e.mesh import Instance, Mesh, service
from e2e.waiting import until

IS_LONG = os.environ.get("MASCHE_LONG") == "1"
ROUNDS = 20 if IS_LONG else 1
MANY = 10 if IS_LONG else 5
RATE = 150
pytestmark = [pytest.mark.alone, pytest.mark.timeout(3000 if IS_LONG else 300)]


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    mesh.apply("".join(map(service, ("orders", "hanging", "burst", "flapping", "browned"))))
    found = mesh.run("caller")
    mesh.await_ready(found)
    return found


def endpoints(caller: Instance, name: str) -> int:
    return len(caller.admin.endpoints()[f"outbound/shop/{name}/80"])


def test_a_rolling_restart_costs_no_call(mesh: Mesh, caller: Instance) -> None:
    """I1: 4 replicas, each replaced while calls go on, on kept connections and on new ones."""
    living = [mesh.run("orders", name=f"orders-{number}") for number in range(4)]
    mesh.await_ready(*living)
    until(lambda: endpoints(caller, "orders") == 4, "the caller knows all four")
    url = caller.url("orders")
    with Load(url, rate=RATE) as kept, Load(url, rate=RATE / 3, is_fresh=True) as fresh:
        kept.lasts(0.5)
        for round_ in range(ROUNDS):
            replaced = living
            living = [mesh.run("orders", name=f"orders-{round_}-{number}") for number in range(4)]
            for old, new in zip(replaced, living, strict=True):
                mesh.await_ready(new)
                old.terminate()
            assert {old.wait() for old in replaced} <= {0, 143}
        until(lambda: set(kept.servers(time.monotonic() - 0.5)) == {new.name for new in living}, "the new ones answer")
        kept.lasts(0.5)
    kept.assert_none_failed(at_least=200)
    fresh.assert_none_failed(at_least=50)
    for each in living:
        each.terminate()


def test_a_proxy_that_hangs_is_cut_off_and_costs_at_most_what_waited_for_it(mesh: Mesh, caller: Instance) -> None:
    """I2: SIGSTOP. Nothing refuses, nothing closes; only time tells that it is gone."""
    living = [mesh.run("hanging", name=f"hanging-{number}") for number in range(4)]
    mesh.await_ready(*living)
    until(lambda: endpoints(caller, "hanging") == 4, "the caller knows all four")
    envoy = living[0].seat.envoy_pid
    with Load(caller.url("hanging"), rate=RATE) as load:
        until(lambda: load.servers()["hanging-0"], "it gets calls")
        os.kill(envoy, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            load.lasts(11)
            assert {each.workload for each in mesh.status().proxies if each.is_silent} == {living[0].seat.workload}
        finally:
            os.kill(envoy, signal.SIGCONT)
    failed = [call for call in load.calls if not call.is_good]
    assert failed, "the fault did not bite"
    last = max(each.at for each in failed) - stopped
    assert last <= 10, f"calls were still sent to it after {last:.1f} s"
    assert len(failed) <= RATE / 4 * CALL_TIMEOUT / 2, f"{len(failed)} calls waited for it"
    for each in living:
        each.terminate()


def test_from_none_to_many_and_back_no_call_waits_or_fails_without_need(mesh: Mesh, caller: Instance) -> None:
    """I8: without an instance a call is refused at once; with one or more none fails."""
    url = caller.url("burst")

    def is_refused_at_once() -> bool:
        began = time.monotonic()
        status = status_of(url)
        return status == 503 and time.monotonic() - began < (0.25 if IS_LONG else 2.5)

    assert is_refused_at_once()
    first = mesh.run("burst", name="burst-first")
    until(lambda: status_of(url) == 200, "it answers")
    with Load(url, rate=RATE) as load:
        others = [mesh.run("burst") for _ in range(MANY - 1)]
        mesh.await_ready(*others)
        until(lambda: len(load.servers(time.monotonic() - 1)) == MANY, "all of them answer")
        for each in others:
            each.terminate()
        assert {each.wait() for each in others} <= {0, 143}
        load.lasts(0.3)
    load.assert_none_failed(at_least=100)
    first.terminate()
    until(is_refused_at_once, "calls are refused at once")
    first.wait()
    assert is_refused_at_once()


def test_instances_that_flap_cost_hardly_a_call(mesh: Mesh, caller: Instance) -> None:
    """I10: a third of them fails every other second; what is idempotent is repeated elsewhere, within a budget."""
    mesh.apply(tiers.route("flapping", retry={"codes": [503], "attempts": 2}))
    steady = [tiers.start(mesh, "flapping", name=f"steady-{number}") for number in range(2)]
    flapping = tiers.start(mesh, "flapping", name="flapping-0", flaps=True)
    mesh.await_ready(*steady, flapping)
    until(lambda: endpoints(caller, "flapping") == 3, "the caller knows all three")
    with Load(caller.url("flapping"), rate=RATE) as load:
        load.lasts(60 if IS_LONG else 6)
    assert tiers.seen(flapping) > load.servers()["flapping-0"], "the fault did not bite"  # it is cut off soon
    good = sum(each.is_good for each in load.calls) / len(load.calls)
    assert good >= (0.999 if IS_LONG else 0.99), f"{good:.4%} of {len(load.calls)}"  # without repeats about 84 %


def test_an_instance_that_fails_everybody_costs_its_callers_few_calls_together_and_is_back_soon(
    mesh: Mesh, caller: Instance
) -> None:
    """It answers 503 at once, so nobody is slow, and nothing is repeated. Its own agent finds out, and tells them."""
    living = [tiers.start(mesh, "browned", name=f"browned-{number}") for number in range(5)]
    others = [mesh.run(f"caller-{number}") for number in range(2)]
    mesh.await_ready(*living, *others)
    callers, sick = (caller, *others), living[2].seat.workload
    until(lambda: all(endpoints(each, "browned") == 5 for each in callers), "all know all five")
    loads = [Load(each.url("browned"), rate=RATE / 3) for each in callers]
    with loads[0], loads[1], loads[2]:
        loads[0].lasts(2)  # until it was reported who calls
        tiers.answers(living[2], status=503)
        until(lambda: f"{sick} is taken off until it answers again" in told(mesh), "its agent told the callers")
        loads[0].lasts(4)
        tiers.answers(living[2], status=200)
        well_at = time.monotonic()
        until(lambda: all(each.servers(well_at)["browned-2"] for each in loads), "all call it again")
        late = time.monotonic() - well_at
        loads[0].lasts(0.5)
    failed = sum(len(each.failed()) for each in loads)
    assert 3 <= failed <= (15 if IS_LONG else 60), f"{failed} calls failed"
    assert late <= (1.5 if IS_LONG else 15), f"back after {late:.1f} s"


def told(mesh: Mesh) -> str:
    """What was said of instances that were taken off."""
    return "\n".join(each.message for each in mesh.client.events(limit=1000).events if each.kind == "ejected")
