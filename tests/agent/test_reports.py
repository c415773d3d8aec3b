"""How what was seen is divided into Reports."""

from masche.agent.report import MOST_ENTRIES, parts
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
