"""Whatever a View says, Envoy accepts what is made of it, and every listener has the edge settings."""

from dataclasses import replace
from typing import Any

import pytest
from envoy_rig import Authority, free_port, secrets
from generated import ENDPOINTS, gateways, sidecars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from views import identity

from masche.compiler.envoy import edge, endpoints
from masche.compiler.envoy.conditions import permission, principal
from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.shared import blobs
from masche.model.view import Attribute, Condition, Endpoints, Health
from masche.wire import framing, types
from masche.wire.messages import decode, encode

LISTENER = "envoy.config.listener.v3.Listener"
ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRETS = secrets(Authority.named("root"), identity("web"))


def complete(view, seat):
    """All Blobs of one proxy, with an EDS answer for each cluster that wants one."""
    made = (*blobs(view), *listeners(view, seat))
    assigned = [endpoints.blob(Endpoints(service=each.service)) for each in view.clusters]
    return (*made, *assigned, *SECRETS)


def _with_proxy_port(seat):
    return replace(seat, proxy_port=free_port()) if seat.proxy_port else seat


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(sidecars(), gateways()))
def test_envoy_accepts_whatever_a_view_says(envoy, made) -> None:
    view, seat = made
    envoy.put(complete(view, _with_proxy_port(seat)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(sidecars(), gateways()))
def test_every_listener_has_every_edge_setting(made) -> None:
    view, seat = made
    for blob in listeners(view, seat):
        if blob.type_url == types.LISTENER:
            _audit(decode(LISTENER, framing.message_of(blob)))


def _audit(listener: dict[str, Any]) -> None:
    assert listener["per_connection_buffer_limit_bytes"] == edge.BUFFER_BYTES
    if "internal_listener" not in listener:
        assert listener["listener_filters_timeout"] == "0.500s"
        assert "tcp_keepalive" in listener
    for chain in listener["filter_chains"]:
        for each in chain["filters"]:
            if each["name"] == "envoy.filters.network.http_connection_manager":
                _audit_manager(listener["name"], each["typed_config"])
        context = chain.get("transport_socket", {}).get("typed_config", {}).get("common_tls_context")
        if context:
            assert context["tls_params"]["tls_minimum_protocol_version"] in {"TLSv1_2", "TLSv1_3"}


def _audit_manager(name: str, manager: dict[str, Any]) -> None:
    assert manager["use_remote_address"] is True
    assert manager["internal_address_config"]["cidr_ranges"]
    assert manager["normalize_path"] is True
    assert manager["merge_slashes"] is True
    assert manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert manager["max_request_headers_kb"] <= 60
    assert manager["request_headers_timeout"] == "10s"
    assert manager["stream_idle_timeout"] == "300s"
    common = manager["common_http_protocol_options"]
    assert common["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert common["max_headers_count"] == 100
    assert {"idle_timeout", "max_connection_duration", "max_requests_per_connection"} <= common.keys()
    http2 = manager["http2_protocol_options"]
    assert http2["max_concurrent_streams"] == 100
    assert http2["initial_stream_window_size"] == 64 * 1024
    assert http2["initial_connection_window_size"] == 1024 * 1024
    accepts_connect = any(each["upgrade_type"] == "CONNECT" for each in manager["upgrade_configs"])
    assert accepts_connect == (name == "proxy")


@settings(max_examples=100, deadline=None)
@given(ENDPOINTS)
def test_endpoints_written_by_hand_are_what_the_general_encoder_gives(made) -> None:
    blob = endpoints.blob(made)
    message = framing.message_of(blob)
    seen = decode(ASSIGNMENT, message)
    assert encode(ASSIGNMENT, seen) == message
    assert seen["cluster_name"] == made.service.path == blob.name
    names = {Health.HEALTHY: "HEALTHY", Health.UNHEALTHY: "UNHEALTHY", Health.DRAINING: "DRAINING"}
    for locality, written in zip(made.localities, seen.get("endpoints", ()), strict=True):
        assert written.get("locality", {}).get("zone", "") == locality.zone
        for instance, found in zip(locality.endpoints, written.get("lb_endpoints", ()), strict=True):
            socket = found["endpoint"]["address"]["socket_address"]
            assert (socket["address"], socket["port_value"]) == (instance.address, instance.port)
            assert (found["health_status"], found["load_balancing_weight"]) == (names[instance.health], instance.weight)
            assert ("metadata" in found) is not instance.is_mtls
    priorities = sorted({each.get("priority", 0) for each in seen.get("endpoints", ())})
    assert priorities == list(range(len(priorities)))


def test_equal_views_give_the_same_bytes() -> None:
    made = sidecars().map(lambda each: complete(*each))

    @settings(max_examples=10, deadline=None)
    @given(made)
    def check(first) -> None:
        assert all(blob.version == framing.version_of(_any(blob)) for blob in first)

    check()


def _any(blob) -> bytes:
    outer = next(framing.fields(framing.sotw_frame(blob)))
    return framing.sotw_frame(blob)[outer.value : outer.end]


def test_a_rule_whose_attribute_is_not_the_callers_is_no_principal() -> None:
    with pytest.raises(ValueError, match="not about the caller"):
        principal(Condition(attribute=Attribute.PATH))
    with pytest.raises(ValueError, match="not about what is called"):
        permission(Condition(attribute=Attribute.PRINCIPAL))
