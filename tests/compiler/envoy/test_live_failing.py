"""A callee that fails as a whole is not stormed, and none of its instances is cut off, by one real Envoy."""

import re
from contextlib import ExitStack
from dataclasses import replace
from itertools import cycle, repeat
from pathlib import Path

import pytest
from applications import http_echo
from envoy_rig import Authority, Envoy, free_port, remove, secrets, short_folder, wait_until
from test_live_calls import request
from views import at, cluster, identity, outbound, port, route, seat, view

from masche.agent.admin import good_answers
from masche.compiler.envoy import clusters, failing
from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.shared import blobs
from masche.model.calling import Algorithm, OutlierEjection, SteeringMode, Traffic
from masche.model.vantage import LocalPort
from masche.model.view import Backend, Forward, Retry

ROOT = Authority.named("root")
A, OTHER = port("a"), port("other")
THREE = 3
REPEATED = Forward(backends=(Backend(cluster=A),), retry=Retry(attempts=3, codes=(503,), backoff=0.001))
USUAL = Traffic(algorithm=Algorithm.ROUND_ROBIN, outlier=OutlierEjection(base_ejection=60.0))
"""Who is cut off stays so for the rest of a test; chance does not let one fail five times before another is called."""

A_FEW = 15
"""Failures that close the throttle (``traffic.budget``) for a caller of many calls, but not so many that it counts
an eighth of a second's."""

MANY = 400
"""Calls after which nobody takes the caller for one that tries a route out."""


class Service:
    """One Envoy with the local URL of a service of three instances without proxies; anew for each test."""

    def __init__(self, stack: ExitStack) -> None:
        folder = short_folder()
        stack.callback(remove, folder)
        self.envoy = Envoy(folder)
        stack.callback(self.envoy.close)
        self.instances = [stack.enter_context(http_echo(f"a{number}")) for number in range(THREE)]
        self.port = free_port()
        seen = view(
            outbound=(outbound(A, route("r", action=REPEATED)),),
            clusters=(cluster(A, has_plaintext=True, is_repeated=True, traffic=USUAL),),
        )
        sat = seat("web", local_ports=(LocalPort(service=A, port=self.port),))
        found = at(A, *(each.server_port for each in self.instances), is_mtls=False)
        self.envoy.put((*blobs(seen), *listeners(seen, sat), found, *secrets(ROOT, identity("web"))))
        self.calls(60)

    def become(self, *statuses) -> None:
        """What each instance answers from now on, in turn."""
        for each, answers in zip(self.instances, statuses, strict=True):
            each.statuses = answers

    def calls(self, count: int) -> list[tuple[int, dict, dict]]:
        return [request(self.port, "GET", "/") for _ in range(count)]

    def seen(self) -> list[int]:
        return [len(each.seen) for each in self.instances]

    def stat(self, name: str) -> int:
        text = self.envoy.admin(f"/stats?filter={re.escape(name)}$")
        return sum(int(line.rpartition(" ")[2]) for line in text.splitlines() if line)


@pytest.fixture
def service():
    with ExitStack() as stack:
        yield Service(stack)


def test_an_outage_is_repeated_a_few_times_and_then_no_more_and_nobody_is_cut_off(service) -> None:
    service.calls(MANY)
    before = sum(service.seen())
    service.become(*[repeat(503)] * THREE)
    answers = service.calls(60)
    assert {status for status, _, _ in answers} == {503}
    assert 0 < sum(service.seen()) - before - 60 <= A_FEW
    assert answers[-1][2]["x-envoy-ratelimited"] == "1", "callers are told not to repeat it, either"
    assert answers[-1][1]["name"] in {"a0", "a1", "a2"}, "it is the instance's own answer"
    assert service.stat("ejections_active") == 0
    service.become(*[repeat(200)] * THREE)
    assert {status for status, _, _ in service.calls(100)} == {200}
    service.become(*[cycle([503, *[200] * 9])] * THREE)
    assert {status for status, _, _ in service.calls(100)} == {200}, "it repeats again"
    assert service.stat("lua.errors") == 0


def test_who_tries_a_route_out_sees_all_the_repeats_that_it_asks_for(service) -> None:
    """As the Gateway API's own suite does (HTTPRouteRetry): one call after the other whose first tries all fail."""
    service.become(*[cycle([503])] * THREE)
    before = sum(service.seen())
    assert {status for status, _, _ in service.calls(15)} == {503}
    assert sum(service.seen()) - before == 15 * 4


def test_instances_that_are_overloaded_alike_stay_in(service) -> None:
    service.become(*[cycle([503] * 8 + [200] * 8)] * THREE)
    service.calls(300)
    assert service.stat("ejections_active") == 0
    assert min(service.seen()) > 60


def test_who_refuses_more_than_the_others_stays_in_while_it_answers_as_often_as_ever(service) -> None:
    """It is chosen more, for instance, because it refuses quickly."""
    some = [200] * 7 + [503]
    service.become(repeat(200), cycle(some), cycle(some))
    service.calls(90)
    service.become(cycle([503] * 6 + [200] * 2), cycle(some), cycle(some))
    service.calls(150)
    assert service.stat("ejections_active") == 0


@pytest.mark.long
def test_who_answers_nothing_well_for_ten_seconds_is_cut_off_though_the_others_fail_alike(service) -> None:
    """There may be others in another zone, which are asked when enough of these are off."""
    service.become(*[repeat(503)] * THREE)
    service.calls(60)
    assert service.stat("ejections_active") == 0

    def is_cut_off() -> bool:
        service.calls(5)
        return service.stat("ejections_active") == 1

    wait_until(is_cut_off, "Envoy to cut off its share", deadline=30)


def test_who_fails_alone_is_cut_off_and_its_calls_are_repeated_elsewhere(service) -> None:
    service.become(repeat(503), repeat(200), repeat(200))
    assert {status for status, _, _ in service.calls(60)} == {200}
    wait_until(lambda: service.stat("ejections_active") == 1, "Envoy to cut it off")
    left = service.seen()[0]
    service.calls(30)
    assert service.seen()[0] == left


async def test_its_envoy_says_how_many_calls_were_answered_well(service) -> None:
    """By that an agent tells who is overloaded from who is broken."""
    name, _, number = A.path.rpartition("/")

    async def answered() -> int:
        return await good_answers(Path(service.envoy.folder) / "admin.sock", name, int(number))

    before = await answered()
    assert before >= 60
    service.become(repeat(503), repeat(503), repeat(404))
    known = service.instances[2].seen
    already = len(known)
    service.calls(20)
    assert await answered() == before + len(known) - already
    assert await good_answers(Path(service.envoy.folder) / "nobody", name, int(number)) == 0


def test_what_is_said_between_the_callee_and_the_router_is_seen_by_nobody(service) -> None:
    well = service.calls(1)[0]
    service.become(*[repeat(503)] * THREE)
    ill = service.calls(1)[0]
    assert (well[0], ill[0]) == (200, 503)
    assert all(failing.INSTANCE not in each for _, body, headers in (well, ill) for each in (headers, body["headers"]))


def test_where_nobody_steers_envoy_judges_alone() -> None:
    """Only it can have calls leave a zone whose instances fail alike."""
    steered, free = (
        clusters.cluster(cluster(A, is_repeated=True, traffic=replace(USUAL, steering=each))).frame
        for each in (SteeringMode.ON, SteeringMode.OFF)
    )
    assert [each.count(failing.INSTANCE.encode()) for each in (steered, free)] == [4, 3], "its mark is not looked at"


def test_only_a_callee_whose_answers_are_repeated_is_looked_at() -> None:
    plain, looked_at = (clusters.cluster(cluster(A, is_repeated=each)).frame for each in (False, True))
    assert (failing.INSTANCE.encode() in plain, failing.INSTANCE.encode() in looked_at) == (False, True)
