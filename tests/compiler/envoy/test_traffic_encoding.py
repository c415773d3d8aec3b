"""How a TrafficPolicy is written down for Envoy: limits, times and who is treated how."""

from typing import Any

import pytest
from views import cluster, outbound, port, route

from masche.compiler.envoy.clusters import CLUSTER
from masche.compiler.envoy.clusters import cluster as encoded
from masche.compiler.envoy.concurrency import filters
from masche.compiler.envoy.route_tables import proxy_table, service_table
from masche.model.calling import (
    AdaptiveConcurrency,
    Algorithm,
    CircuitBreaker,
    HashOn,
    OutlierEjection,
    RetryBudget,
    Traffic,
)
from masche.model.view import Backend, Forward, Protocol, RequestMatch, Retry
from masche.wire import framing
from masche.wire.messages import decode, encode

ORDERS = port("orders")
TABLE = "envoy.config.route.v3.RouteConfiguration"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def body(**traffic: Any) -> Any:
    return decode(CLUSTER, framing.message_of(encoded(cluster(ORDERS, traffic=Traffic(**traffic)))))


def actions(method: str = "", **forward: Any) -> list[tuple[str, Any]]:
    """What each of Envoy's routes takes, and its action."""
    action = Forward(backends=(Backend(cluster=ORDERS),), **{"retry": Retry(), **forward})
    told = route("r", match=RequestMatch(method=method), action=action)
    table: Any = decode(TABLE, framing.message_of(service_table(outbound(ORDERS, told))))
    return [(_taken(each["match"]), each["route"]) for each in table["virtual_hosts"][0]["routes"]]


def _taken(match: Any) -> str:
    headers = {each["name"]: each.get("string_match", {}) for each in match.get("headers", ())}
    if "grpc" in match:
        return "grpc"
    if "upgrade" in headers:
        return "upgrades"
    return "idempotent" if "safe_regex" in headers.get(":method", {}) else "all"


def test_repeats_have_one_budget_and_a_fixed_number_stands_in_its_place():
    def budget(**traffic: Any) -> Any:
        (threshold,) = body(**traffic)["circuit_breakers"]["thresholds"]
        return threshold["retry_budget"]

    assert budget() == {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 5}
    assert budget(budget=RetryBudget(percent=3, min_concurrent=1))["budget_percent"] == {"value": 3.0}
    assert budget(breaker=CircuitBreaker(max_retries=7)) == {"budget_percent": {}, "min_retry_concurrency": 7}
    assert budget(breaker=CircuitBreaker(max_retries=0)) == {"budget_percent": {}, "min_retry_concurrency": 0}


def test_instances_are_cut_off_for_what_the_policy_says_and_for_nothing_else():
    assert "outlier_detection" not in body(outlier=OutlierEjection(consecutive_errors=0))
    share = body(outlier=OutlierEjection(consecutive_errors=0, error_percent=40))["outlier_detection"]
    assert (share["failure_percentage_threshold"], share["enforcing_failure_percentage"]) == (40, 100)
    assert (share["enforcing_consecutive_5xx"], share["enforcing_consecutive_gateway_failure"]) == (0, 0)
    row = body(outlier=OutlierEjection(consecutive_errors=2, base_ejection=3))["outlier_detection"]
    assert (row["consecutive_5xx"], row["enforcing_failure_percentage"]) == (2, 0)
    assert (row["base_ejection_time"], row["max_ejection_time"]) == ("3s", "30s")


def test_zones_are_weighed_whatever_the_algorithm():
    for algorithm in Algorithm:
        assert body(algorithm=algorithm)["common_lb_config"]["locality_weighted_lb_config"] == {}


def test_times_of_connections_are_off_at_zero():
    options: Any = body(idle_timeout=0.0, keepalive=0.0, max_connection_age=0.0)
    told = options["typed_extension_protocol_options"][HTTP_OPTIONS]
    assert told["common_http_protocol_options"] == {"idle_timeout": "0s", "max_headers_count": 200}
    assert "connection_keepalive" not in told["explicit_http_config"]["http2_protocol_options"]
    assert "upstream_connection_options" not in options
    often = body(keepalive=1.5)
    assert often["upstream_connection_options"]["tcp_keepalive"]["keepalive_time"] == 2


def test_an_address_is_hashed_by_the_workload_first():
    told: Any = body(algorithm=Algorithm.MAGLEV, hash_on=HashOn.SOURCE_IP)
    first, second = told["typed_extension_protocol_options"][HTTP_OPTIONS]["hash_policy"]
    assert (first["filter_state"], first["terminal"]) == ({"key": "masche.caller"}, True)
    assert second == {"connection_properties": {"source_ip": True}}


def test_idempotent_requests_alone_are_hedged_and_the_whole_has_an_end():
    found = dict(actions(per_try_timeout=15.0, stream_timeout=15.0, hedge_after=0.1))
    assert found["idempotent"]["hedge_policy"] == {"hedge_on_per_try_timeout": True}
    assert found["idempotent"]["retry_policy"]["per_try_timeout"] == "0.100s"
    assert found["idempotent"]["timeout"] == "15s"
    assert "hedge_policy" not in found["all"]
    assert (found["all"]["timeout"], found["all"]["retry_policy"]["per_try_timeout"]) == ("0s", "15s")


@pytest.mark.parametrize("more", [{"timeout": 0.1}, {"per_try_timeout": 0.05, "stream_timeout": 0.05}, {"retry": None}])
def test_nothing_is_hedged_that_ends_sooner_or_must_not_be_repeated(more: dict[str, Any]):
    assert all("hedge_policy" not in action for _, action in actions(hedge_after=0.1, **more))


def test_calls_of_grpc_may_begin_to_answer_when_they_like():
    found = actions(per_try_timeout=15.0)
    assert [taken for taken, _ in found] == ["idempotent", "grpc", "all"]
    assert "per_try_timeout" not in dict(found)["grpc"]["retry_policy"]
    assert [taken for taken, _ in actions(per_try_timeout=15.0, method="GET")] == ["all"]
    assert [taken for taken, _ in actions(per_try_timeout=15.0, stream_timeout=15.0)] == ["idempotent", "all"]


def test_streams_are_silent_for_as_long_as_they_like_where_requests_are_not():
    found = actions(idle_timeout=300.0)
    assert [taken for taken, _ in found] == ["upgrades", "idempotent", "grpc", "all"]
    assert {taken: action["idle_timeout"] for taken, action in found} == {
        "upgrades": "0s", "grpc": "0s", "idempotent": "300s", "all": "300s"
    }  # fmt: skip


def test_nothing_that_only_passes_through_the_proxy_ends_because_it_is_silent():
    outbounds = (outbound(ORDERS), outbound(port("ledger"), protocol=Protocol.TCP))
    table: Any = decode(TABLE, framing.message_of(proxy_table(outbounds, is_registry_only=False)))
    found = {
        (host["name"], "connect_matcher" in each["match"]): each["route"]["idle_timeout"]
        for host in table["virtual_hosts"]
        for each in host["routes"]
        if "route" in each
    }
    assert found == {
        ("outbound/shop/orders/80", True): "0s",
        ("outbound/shop/orders/80", False): "0s",
        ("outbound/shop/ledger/80", True): "0s",
        ("passthrough", False): "0s",
    }


def test_the_unloaded_latency_is_written_or_measured():
    def measured(latency: float) -> Any:
        (made,) = filters(AdaptiveConcurrency(enabled=True, base_latency=latency, max_concurrency=2))
        told: Any = decode("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", _encoded(made))
        return told["typed_config"]["gradient_controller_config"]

    assert "fixed_value" in measured(0.005)["min_rtt_calc_params"]
    assert "interval" not in measured(0.005)["min_rtt_calc_params"]
    assert measured(0.0)["min_rtt_calc_params"]["interval"] == "60s"
    assert measured(0.0)["concurrency_limit_params"]["min_concurrency_limit"] == 2
    assert filters(AdaptiveConcurrency()) == ()


def _encoded(filter_body: Any) -> bytes:
    return encode("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", filter_body)
