from masche.agent import meter
from masche.agent.meter import UNMATCHED, Meter
from masche.agent.metrics import labelled
from masche.link.messages import EdgeReport
from masche.model.refs import Name, PortRef
from masche.telemetry.histogram import Histogram
from masche.telemetry.prometheus import Sample, parse

ORDERS = PortRef("shop", "orders", 80)
WEB = Name("shop", "web-1")


def _page(ok: int, failed: int = 0, *, fast: int = 0, slow: int = 0, denied: int = 0) -> list[Sample]:
    edge = f'reporter="source",source="spiffe://td/ns/shop/sa/web",destination="{ORDERS.path}"'
    inbound = 'reporter="destination",source="spiffe://td/ns/shop/sa/front",destination="inbound/shop/web-1/8080"'
    text = f"""# TYPE envoy_mesh_requests_total counter
envoy_mesh_requests_total{{{edge},code="200",grpc="",flags="-"}} {ok}
envoy_mesh_requests_total{{{edge},code="503",grpc="",flags="UF"}} {failed}
envoy_mesh_requests_total{{reporter="source",source="",destination="passthrough",code="200",grpc="",flags=""}} 5
envoy_mesh_instance_requests_total{{destination="{ORDERS.path}",instance="10.0.0.1:15006",code="200"}} {ok}
envoy_mesh_instance_requests_total{{destination="{ORDERS.path}",instance="10.0.0.1:15006",code="503"}} {failed}
envoy_mesh_request_us_bucket{{{edge},le="1000"}} {fast}
envoy_mesh_request_us_bucket{{{edge},le="2000"}} {fast}
envoy_mesh_request_us_bucket{{{edge},le="100000"}} {fast + slow}
envoy_mesh_request_us_bucket{{{edge},le="+Inf"}} {fast + slow}
envoy_mesh_request_us_sum{{{edge}}} {fast * 900 + slow * 90000}
envoy_mesh_request_us_count{{{edge}}} {fast + slow}
envoy_mesh_requests_total{{{inbound},code="403",grpc="",flags=""}} {denied}
envoy_mesh_denied_total{{source="spiffe://td/ns/shop/sa/front",destination="inbound/shop/web-1/8080",rule="-"}} {denied}
envoy_server_live{{}} 1
envoy_cluster_manager_warming_clusters{{}} 0
envoy_cluster_outlier_detection_ejections_active{{envoy_cluster_name="a"}} 1
"""
    return list(parse(text))


def _outbound(found: tuple[EdgeReport, ...]) -> EdgeReport:
    return next(one for one in found if one.direction == "outbound")


def test_a_reading_is_what_came_since_the_last_one() -> None:
    one = Meter()
    one.read(_page(10, 1, fast=10), process=7, is_inherited=False)
    reading = one.read(_page(15, 2, fast=10, slow=6), process=7, is_inherited=False)
    edge = _outbound(meter.edges(reading, WEB))
    assert (edge.service, edge.codes, edge.flags) == (ORDERS, {200: 5, 503: 1}, {"UF": 1})
    latency = Histogram(edge.latency.buckets, sum_us=edge.latency.sum_us)
    assert (latency.count, latency.mean) == (6, 90000)
    assert 2000 <= latency.quantile(0.5) <= 100_000


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
    [called, cut] = meter.endpoints(reading, frozenset({(ORDERS, "10.0.0.2:15006")}))
    assert (called.endpoint, called.requests, called.errors, called.is_ejected) == ("10.0.0.1:15006", 12, 2, False)
    assert (cut.endpoint, cut.requests, cut.is_ejected) == ("10.0.0.2:15006", 0, True)
    assert (reading.is_live, reading.has_warming, reading.has_ejected) == (True, False, True)


def test_labels_are_put_into_every_sample_and_comments_stay() -> None:
    page = '# TYPE a counter\na 1\nb{x="{ }"} 2\nc{} 3\n\nrubbish\n'
    assert labelled(page, {"workload": "w"}) == (
        '# TYPE a counter\na{workload="w"} 1\nb{workload="w",x="{ }"} 2\nc{workload="w"} 3\n\nrubbish\n'
    )
