"""How what was seen is divided into Reports, and how long an Envoy is waited for."""

from types import SimpleNamespace
from typing import Any

import pytest

from masche.agent import admin, report
from masche.agent.meter import Reading
from masche.agent.report import MOST_ENTRIES, SILENT_SECONDS, Reporter, parts
from masche.agent.sight import Sight
from masche.link import messages
from masche.link.messages import EndpointReport, Histogram, ProxyReport, Report
from masche.model.refs import PortRef

BUSY = Histogram(buckets={300 + index: 100_000 for index in range(60)}, sum_us=1 << 40)


def _proxy(name: str, endpoints: int) -> ProxyReport:
    seen = (
        EndpointReport(
            service=PortRef("shop", "orders", 80),
            endpoint=f"10.0.{index // 250}.{index % 250}:15006",
            requests=1_000_000,
            latency=BUSY,
            service_time=BUSY,
        )
        for index in range(endpoints)
    )
    return ProxyReport(proxy=name, endpoints=tuple(seen))


def test_no_report_is_longer_than_may_be_sent_and_none_of_it_is_lost() -> None:
    proxies = [_proxy(f"p{index}", 300) for index in range(10)]
    found = list(parts(proxies))
    assert [each for part in found for each in part] == proxies
    assert all(sum(len(each.endpoints) for each in part) <= MOST_ENTRIES for part in found)
    for part in found:
        messages.encode(Report(machine="m", epoch="e", sequence=1, proxies=tuple(part)))


def test_a_proxy_with_more_to_say_than_a_report_holds_says_it_in_several() -> None:
    proxy = _proxy("p1", 5 * MOST_ENTRIES // 2)
    found = list(parts([_proxy("p0", 1), proxy, _proxy("p2", 1)]))
    said = [each for part in found for piece in part if piece.proxy == "p1" for each in piece.endpoints]
    assert tuple(said) == proxy.endpoints
    assert {piece.proxy for part in found for piece in part} == {"p0", "p1", "p2"}
    for part in found:
        messages.encode(Report(machine="m", epoch="e", sequence=1, proxies=tuple(part)))


def test_a_machine_with_nothing_to_say_still_says_that() -> None:
    assert [list(part) for part in parts([])] == [[]]


async def test_who_did_not_answer_is_waited_for_only_briefly_until_it_does_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent, waited = {"b"}, dict[str, float]()

    async def look(proxy: Any, _: object, *, within: float) -> Sight:
        waited[proxy.proxy] = within
        reading = Reading(counters={}, latencies={}, gauges={"envoy_server_live": 1})
        return Sight(proxy=proxy, reading=None if proxy.proxy in silent else reading)

    monkeypatch.setattr(report, "look", look)
    proxies: list[Any] = [
        SimpleNamespace(proxy=name, certificates=tuple, exposed=(), workload=None) for name in ("a", "b", "c")
    ]
    uplink: Any = None
    reporter = Reporter(machine="m", uplink=uplink, version="", proxies=lambda: proxies, programs=tuple)
    reports = await reporter._read()  # pyright: ignore[reportPrivateUsage] - the loop around it only waits
    assert {each.proxy: each.is_live for each in reports[0].proxies} == {"a": True, "b": False, "c": True}
    assert set(waited.values()) == {admin.WITHIN}
    await reporter._read()  # pyright: ignore[reportPrivateUsage] - as above
    assert waited == {"a": admin.WITHIN, "b": SILENT_SECONDS, "c": admin.WITHIN}
    silent.clear()
    await reporter._read()  # pyright: ignore[reportPrivateUsage] - as above
    await reporter._read()  # pyright: ignore[reportPrivateUsage] - as above
    assert set(waited.values()) == {admin.WITHIN}
