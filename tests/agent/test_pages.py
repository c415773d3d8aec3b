import json
from collections.abc import Mapping

from masche.agent import meter, pages
from masche.agent.meter import UNMATCHED, Meter, Standing
from masche.agent.metrics import labelled
from masche.link.messages import EdgeReport
from masche.model.refs import Name, PortRef
from masche.telemetry.histogram import Histogram
from masche.wire import stats

ORDERS = PortRef("shop", "orders", 80)
WEB = Name("shop", "web-1")


OUT = f"reporter.source.source.spiffe://td/ns/shop/sa/web.destination.{ORDERS.path}"
DETOUR = "envoy://detour/10.0.0.1:15006@10.0.9.1:15008"


def _page(ok: int, failed: int = 0, *, fast: int = 0, slow: int = 0, denied: int = 0, more: str = "") -> pages.Page:
    edge = f'reporter="source",source="spiffe://td/ns/shop/sa/web",destination="{ORDERS.path}"'
    inbound = 'reporter="destination",source="spiffe://td/ns/shop/sa/front",destination="inbound/shop/web-1/8080"'
    text = f"""# TYPE envoy_mesh_requests_total counter
envoy_mesh_requests_total{{{edge},code="200",grpc="",flags="-"}} {ok}
envoy_mesh_requests_total{{{edge},code="503",grpc="",flags="UF"}} {failed}
envoy_mesh_requests_total{{reporter="source",source="",destination="passthrough",code="200",grpc="",flags=""}} 5
{_tries("10.0.0.1:15006", "200", "-", ok)}
{_tries("10.0.0.1:15006", "503", "-", failed)}
envoy_mesh_requests_total{{{inbound},code="403",grpc="",flags=""}} {denied}
envoy_mesh_denied_total{{source="spiffe://td/ns/shop/sa/front",destination="inbound/shop/web-1/8080",rule="-"}} {denied}
envoy_server_live{{}} 1
envoy_cluster_manager_warming_clusters{{}} 0
envoy_cluster_outlier_detection_ejections_active{{envoy_cluster_name="{ORDERS.path}"}} 1
envoy_cluster_upstream_cx_active{{envoy_cluster_name="{ORDERS.path}"}} 2
envoy_cluster_upstream_cx_active{{envoy_cluster_name="outbound/shop/idle/80"}} 0
{more}
"""
    buckets = {f"mesh.request_us.{OUT}": {(900, 10): fast, (90_000, 1_000): slow}}
    return pages.parse(text.encode(), _histograms(buckets))


def _tries(instance: str, code: str, flags: str, count: int) -> str:
    labels = f'destination="{ORDERS.path}",instance="{instance}",code="{code}",flags="{flags}"'
    return f"envoy_mesh_instance_requests_total{{{labels}}} {count}"


def _histograms(named: Mapping[str, Mapping[tuple[int, int], int]]) -> bytes:
    """As Envoy writes them, with what we do not read among it."""

    def one(name: str, buckets: Mapping[tuple[int, int], int]) -> dict[str, object]:
        totals = [{"lower_bound": low, "width": width, "count": n} for (low, width), n in buckets.items() if n]
        return {"name": name, "totals": totals, "intervals": [], "percentiles": [{"cumulative": 1.5, "interval": None}]}

    details = [one(name, buckets) for name, buckets in named.items()]
    return json.dumps({"stats": [{"histograms": {"supported_percentiles": [0, 25], "details": details}}]}).encode()


def _outbound(found: tuple[EdgeReport, ...]) -> EdgeReport:
    return next(one for one in found if one.direction == "outbound")


def test_a_reading_is_what_came_since_the_last_one() -> None:
    one = Meter()
    one.read(_page(10, 1, fast=10), process=7, is_inherited=False)
    reading = one.read(_page(15, 2, fast=10, slow=6), process=7, is_inherited=False)
    edge = _outbound(meter.edges(reading, WEB))
    assert (edge.service, edge.codes, edge.flags) == (ORDERS, {200: 5, 503: 1}, {"UF": 1})
    latency = Histogram(edge.latency.buckets, sum_us=edge.latency.sum_us)
    assert (latency.count, latency.mean) == (6, 90_500)
    assert 2000 <= latency.quantile(0.5) <= 100_000


def test_an_envoy_that_carries_nothing_is_quiet() -> None:
    one = Meter()
    one.read(_page(10, fast=10), process=7, is_inherited=False)
    quiet = [one.quiet]
    for total in (10, 10, 11, 11):
        one.read(_page(total, fast=total), process=7, is_inherited=False)
        quiet.append(one.quiet)
    assert quiet == [0, 1, 2, 0, 1]


def test_a_restarted_envoy_counts_from_nothing() -> None:
    one = Meter()
    one.read(_page(100, fast=100), process=7, is_inherited=False)
    reading = one.read(_page(120, fast=120), process=8, is_inherited=False)
    edge = _outbound(meter.edges(reading, WEB))
    assert edge.codes == {200: 120}
    assert sum(edge.latency.buckets.values()) == 120


def test_totals_that_shrank_count_from_nothing_even_without_a_new_process() -> None:
    one = Meter()
    one.read(_page(100, fast=100), process=7, is_inherited=False)
    edge = _outbound(meter.edges(one.read(_page(3, fast=3), process=7, is_inherited=False), WEB))
    assert edge.codes == {200: 3}
    assert sum(edge.latency.buckets.values()) == 3


def test_an_inherited_envoy_is_not_counted_twice() -> None:
    one = Meter()
    assert meter.edges(one.read(_page(100, fast=100), process=7, is_inherited=True), WEB) == ()
    edge = _outbound(meter.edges(one.read(_page(101, fast=101), process=7, is_inherited=True), WEB))
    assert edge.codes == {200: 1}


def test_a_denial_names_its_rule_or_that_there_was_none() -> None:
    found = meter.edges(Meter().read(_page(0, denied=4), process=7, is_inherited=False), WEB)
    denial = next(one for one in found if one.rule)
    assert (denial.direction, denial.peer, denial.rule) == ("inbound", "spiffe://td/ns/shop/sa/front", UNMATCHED)
    assert denial.codes == {403: 4}
    call = next(one for one in found if one.direction == "inbound" and not one.rule)
    assert call.codes == {403: 4}


def test_what_is_not_of_the_mesh_is_no_edge() -> None:
    found = meter.edges(Meter().read(_page(0), process=7, is_inherited=False), WEB)
    assert found == ()


def test_endpoints_are_counted_apart_and_an_ejected_one_is_named() -> None:
    reading = Meter().read(_page(10, 2), process=7, is_inherited=False)
    [called, cut] = meter.endpoints(reading, {(ORDERS, "10.0.0.2:15006", ""): Standing(is_ejected=True)})
    assert (called.endpoint, called.requests, called.errors, called.is_ejected) == ("10.0.0.1:15006", 12, 2, False)
    assert (cut.endpoint, cut.requests, cut.is_ejected) == ("10.0.0.2:15006", 0, True)
    assert (reading.is_live, reading.has_warming) == (True, False)


def test_only_clusters_in_use_are_worth_a_closer_look() -> None:
    assert Meter().read(_page(0), process=7, is_inherited=False).clusters == {ORDERS.path: 3}


def test_only_tries_that_were_given_up_without_an_answer_are_timeouts() -> None:
    tries = {("0", "UT"): 1, ("0", "-"): 2, ("0", "UF"): 4, ("0", "UC"): 8, ("504", "-"): 16, ("200", "-"): 32}
    lines = "\n".join(_tries("10.0.0.3:15006", code, flags, count) for (code, flags), count in tries.items())
    found = meter.endpoints(Meter().read(_page(0, more=lines), process=7, is_inherited=False), {})
    seen = next(each for each in found if each.endpoint == "10.0.0.3:15006")
    assert (seen.requests, seen.errors, seen.timeouts) == (63, 31, 3)


def test_an_instance_that_only_holds_requests_is_reported() -> None:
    reading = Meter().read(_page(0), process=7, is_inherited=False)
    [seen] = meter.endpoints(reading, {(ORDERS, "10.0.0.4:15006", ""): Standing(active=3)})
    assert (seen.endpoint, seen.active, seen.requests) == ("10.0.0.4:15006", 3, 0)


def test_a_detour_is_told_from_the_direct_way_to_the_same_instance() -> None:
    page = _page(5, more=_tries(DETOUR, "200", "-", 7))
    now = {(ORDERS, "10.0.0.1:15006", via): Standing(active=1, is_connected=True) for via in ("", "10.0.9.1:15008")}
    direct, detour = meter.endpoints(Meter().read(page, process=7, is_inherited=False), now, {"10.0.0.1:15006": 2_000})
    assert (direct.endpoint, direct.via, direct.requests, direct.rtt_us) == ("10.0.0.1:15006", "", 5, 2_000)
    assert (detour.endpoint, detour.via, detour.requests, detour.rtt_us) == ("10.0.0.1:15006", "10.0.9.1:15008", 7, 0)
    assert detour.active == 1


def test_round_trips_are_those_of_endpoints_with_a_connection() -> None:
    now = {
        (ORDERS, "10.0.0.5:5432", ""): Standing(is_connected=True),
        (ORDERS, "10.0.0.6:5432", ""): Standing(is_connected=False),
    }
    times = {"10.0.0.5:5432": 1_500, "10.0.0.6:5432": 9_000}
    [seen] = meter.endpoints(Meter().read(_page(0), process=7, is_inherited=False), now, times)
    assert (seen.service, seen.endpoint, seen.rtt_us) == (ORDERS, "10.0.0.5:5432", 1_500)


def test_the_tags_of_a_histogram_are_found_although_names_contain_dots_and_words_of_ours() -> None:
    peer = "spiffe://td/ns/shop/sa/a.destination.b"
    names = {
        f"mesh.request_us.reporter.destination.source.{peer}.destination.inbound/shop/web.destination.1/8080": {
            (1, 1): 1
        },
        f"mesh.instance_us.destination.{ORDERS.path}.instance.10.0.0.1:15006": {(1, 1): 1},
        f"mesh.instance_service_us.destination.{ORDERS.path}.instance.{DETOUR}": {(1, 1): 1},
        "mesh.request_us.reporter.source.source..destination.passthrough": {(1, 1): 1},
        "mesh.connection_ms.reporter.source.source..destination.passthrough": {(1, 1): 1},
        "mesh.request_us": {(1, 1): 1},
    }
    found = [dict(labels) for _, labels in pages.parse(b"", _histograms(names)).distributions]
    assert found == [
        {"destination": "inbound/shop/web.destination.1/8080", "reporter": "destination", "source": peer},
        {"destination": ORDERS.path, "instance": "10.0.0.1:15006"},
        {"destination": ORDERS.path, "instance": DETOUR},
        {"destination": "passthrough", "reporter": "source", "source": ""},
    ]


def test_labels_are_put_into_every_sample_and_comments_stay() -> None:
    page = '# TYPE a counter\na 1\nb{x="{ }"} 2\nc{} 3\n\nrubbish\n'
    assert labelled(page, {"workload": "w"}) == (
        '# TYPE a counter\na{workload="w"} 1\nb{workload="w",x="{ }"} 2\nc{workload="w"} 3\n\nrubbish\n'
    )


def test_what_one_envoy_saw_for_several_workloads_is_told_apart_by_its_tag() -> None:
    name = f"{stats.PREFIX}{stats.REQUESTS}"
    service = {"reporter": "source", "destination": "outbound/shop/orders/80", "code": "200", "flags": "-"}
    samples = [(name, {**service, "workload": f"shop/web-{index}"}, float(index)) for index in (1, 2)]
    samples.append((name, service, 9.0))
    of_web_2 = f"mesh.request_us.{OUT}.workload.shop/web-2"
    distributions = pages.parse(b"", _histograms({of_web_2: {(900, 10): 2}})).distributions
    reading = Meter().read(pages.Page(samples=samples, distributions=distributions), process=7, is_inherited=False)
    assert [sum(each.latency.buckets.values()) for each in meter.edges(reading, None)] == [0, 2]
    assert [(each.workload, each.codes) for each in meter.edges(reading, None)] == [
        (Name("shop", "web-1"), {200: 1}),
        (Name("shop", "web-2"), {200: 2}),
    ]


def test_who_is_on_the_same_node_is_named_by_the_endpoint_that_others_know() -> None:
    assert meter.way_to("outbound/shop/orders/80", "envoy://local/shop/orders-1a2b3c/8080/10.0.0.1:15006") == (
        PortRef("shop", "orders", 80),
        "10.0.0.1:15006",
        "",
    )


def test_the_time_of_an_instance_behind_the_same_envoy_is_all_its_own() -> None:
    inside, elsewhere = "envoy://local/shop/orders-1/15006/10.0.0.1:15006", "10.0.0.2:15006"
    series = {
        f"mesh.instance_us.destination.{ORDERS.path}.instance.{inside}": {(5_000, 100): 3},
        f"mesh.instance_us.destination.{ORDERS.path}.instance.{elsewhere}": {(9_000, 100): 2},
        f"mesh.instance_service_us.destination.{ORDERS.path}.instance.{elsewhere}": {(4_000, 100): 2},
    }
    page = pages.parse(b"", _histograms(series))
    near, far = meter.endpoints(Meter().read(page, process=7, is_inherited=False), {})
    assert (near.endpoint, near.service_time) == ("10.0.0.1:15006", near.latency)
    assert sum(near.service_time.buckets.values()) == 3
    assert 0 < far.service_time.sum_us < far.latency.sum_us
