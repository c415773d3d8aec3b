"""Routes under load do what they say, exactly where they must. Items I6, I7 and I9 of the reliability checklist."""

import math
import os
import statistics
import time

import pytest

from e2e import tiers
from e2e.load import Load
from e2e.mesh import Instance, Mesh, service
from e2e.waiting import until

IS_LONG = os.environ.get("MASCHE_LONG") == "1"
CALLS = 20_000 if IS_LONG else 2_000
RATE = 400
pytestmark = [pytest.mark.alone, pytest.mark.timeout(600 if IS_LONG else 300)]


FAR = ["--zone", "b"]
"""For all but the caller, so that its zone has room for what it calls; left unsaid it would be that of the machine."""


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    versions = "".join(service(f"canary-{each}", app="canary", labels=f"version: {each}") for each in ("v1", "v2"))
    mesh.apply(versions + service("canary") + "".join(map(service, ("primary", "shadow", "zoned"))))
    found = mesh.run("caller", options=["--zone", "a"])
    mesh.await_ready(found)
    return found


# -- I6 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(mesh: Mesh, caller: Instance) -> tuple[Instance, Instance]:
    v1, v2 = (mesh.run("canary", name=each, options=["--label", f"version={each}", *FAR]) for each in ("v1", "v2"))
    mesh.await_ready(v1, v2)
    for each in ("canary-v1", "canary-v2"):
        until(lambda each=each: caller.reaches(each), f"{each} answers")
    return v1, v2


def canary(share: int) -> str:
    """YAML of a route that sends so many percent to the new version."""
    backends = [{"name": f"canary-{name}", "port": 80, "weight": weight} for name, weight in _weights(share)]
    return tiers.route("canary", backendRefs=backends)


def _weights(share: int) -> list[tuple[str, int]]:
    return [("v1", 100 - share), ("v2", share)]


def after(load: Load, calls: int) -> float:
    """Now, once so many more calls were made."""
    began = time.monotonic()
    until(lambda: load.made(began) >= calls, f"{calls} calls were made", within=calls / RATE * 10 + 30)
    return began


@pytest.mark.parametrize("share", [10, pytest.param(50, marks=pytest.mark.long)])
def test_a_canary_gets_its_share(mesh: Mesh, caller: Instance, versions: tuple[Instance, Instance], share: int) -> None:
    """I6: within four standard deviations of the binomial distribution."""
    mesh.apply(canary(share))
    with Load(caller.url("canary"), rate=RATE) as load:
        after(load, CALLS)
    load.assert_none_failed(at_least=CALLS)
    made, p = len(load.calls), share / 100
    assert abs(load.servers()["v2"] - p * made) <= 4 * math.sqrt(made * p * (1 - p)), load.servers()


def test_a_canary_of_nothing_gets_nothing_and_shifts_cost_no_call(
    mesh: Mesh, caller: Instance, versions: tuple[Instance, Instance]
) -> None:
    """I6: 0 % is exactly 0 from the moment in which it is live, and so is 100 % for the old version."""
    mesh.apply(canary(0))
    with Load(caller.url("canary"), rate=RATE / 2) as load:
        began = after(load, CALLS // 6)
        assert set(load.servers(began)) == {"v1"}
        for share in (10, 50, 90, 100):
            mesh.apply(canary(share))
        began = after(load, CALLS // 6)
        assert set(load.servers(began)) == {"v2"}
        mesh.apply(canary(0))
        began = after(load, CALLS // 6)
        assert set(load.servers(began)) == {"v1"}
    load.assert_none_failed(at_least=CALLS // 2)


# -- I9 ---------------------------------------------------------------------------------------------------------------


def latencies(load: Load, since: float) -> list[float]:
    return [each.seconds for each in load.calls if each.at >= since]


def test_a_mirror_never_touches_what_it_mirrors(mesh: Mesh, caller: Instance) -> None:
    """I9: one that is well, one that is slow, one that fails and one that is not there cost neither a call nor time."""
    primary, shadow = (tiers.start(mesh, each, options=FAR) for each in ("primary", "shadow"))
    mesh.await_ready(primary, shadow)
    until(lambda: caller.reaches("primary") and caller.reaches("shadow"), "both answer")
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow", "port": 80}}}
    with Load(caller.url("primary"), rate=100) as load:
        began = time.monotonic()
        load.lasts(1)
        plain = latencies(load, began)
        mesh.apply(tiers.route("primary", filters=[mirror]))
        for status, ms in ((200, 0), (200, 3000), (503, 0)):
            tiers.answers(shadow, status=status, ms=ms)
            copied, began = tiers.requests(shadow), time.monotonic()
            load.lasts(1)
            assert tiers.requests(shadow) - copied > 40, "nothing was mirrored"
            assert_as_fast(plain, latencies(load, began))
        shadow.process.kill()
        shadow.wait()
        until(lambda: not caller.reaches("shadow"), "the mirror is dead")
        began = time.monotonic()
        load.lasts(1)
        assert_as_fast(plain, latencies(load, began))
    load.assert_none_failed(at_least=300)
    assert set(load.servers()) == {primary.name}


def assert_as_fast(plain: list[float], mirrored: list[float]) -> None:
    """The medians, which noise of the machine moves little: a mirror that is waited for would add seconds."""
    assert statistics.median(mirrored) < statistics.median(plain) + (0.02 if IS_LONG else 0.5)
    assert max(mirrored) < max(plain) + (1.0 if IS_LONG else 2.5)


# -- I7 ---------------------------------------------------------------------------------------------------------------


def test_calls_leave_a_zone_whose_instances_fail_and_come_back(mesh: Mesh, caller: Instance) -> None:
    """I7: the own zone while it is well, the other while it is not; and then the own one again.

    All of it by what the proxy has, as it would be without a control plane: nothing is steered.
    """
    near = [tiers.start(mesh, "zoned", name=f"near-{number}", options=["--zone", "a"]) for number in range(2)]
    far = [tiers.start(mesh, "zoned", name=f"far-{number}", options=["--zone", "b"]) for number in range(2)]
    mesh.apply(
        tiers.route("zoned", retry={"codes": [503], "attempts": 2})
        + tiers.policy("zoned", outlierEjection={"baseEjection": "1s"}, steering="Off")
    )
    other = mesh.run("caller", name="caller-b", options=["--zone", "b"])
    mesh.await_ready(*near, *far, other)
    until(lambda: len(caller.admin.endpoints()["outbound/shop/zoned/80"]) == 4, "the caller knows all four")
    with Load(caller.url("zoned"), rate=100) as load:

        def share_of_near(seconds: float) -> float:
            found = load.servers(time.monotonic() - seconds)
            return sum(found[each.name] for each in near) / max(1, found.total())

        def stays_near() -> bool:
            """Of the few calls that a busy machine made in a second those to one zone may have been most by chance."""
            return load.servers(time.monotonic() - 1).total() > 50 and share_of_near(1) > 0.8

        load.lasts(1)
        until(stays_near, "calls stay in the zone")
        tiers.answers(*near, status=503)
        broken = time.monotonic()
        until(lambda: load.made(broken) > 50 and share_of_near(0.5) == 0, "calls leave the zone")
        until(lambda: not load.failed(time.monotonic() - 0.5), "no call fails any more")
        load.lasts(1)
        tiers.answers(*near)
        until(stays_near, "calls are back in the zone")
        began = time.monotonic()
        load.lasts(2)
        assert share_of_near(time.monotonic() - began) > 0.8, "they do not stay there"
    allowed = (0.02 if IS_LONG else 0.1) * len(load.calls)
    assert len(load.failed()) <= allowed, f"{len(load.failed())} of {len(load.calls)} calls failed"
