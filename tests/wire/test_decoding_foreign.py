"""Resources as other control planes write them, Istio's for clients without a proxy and those of the gRFCs."""

from typing import Any

import pytest

from masche.model.refs import ForeignRef, PortRef
from masche.model.told import Destination, Discovery, Table, Told, ToldServer
from masche.model.view import (
    UNSAID,
    Algorithm,
    Backend,
    Decision,
    Endpoints,
    Fault,
    Forward,
    Hashed,
    HashKind,
    Health,
    MtlsMode,
    PathKind,
    Protocol,
    Retry,
    Rule,
    ValueKind,
)
from masche.traffic.authorize import authorize
from masche.traffic.request import Connection, Request
from masche.wire import types
from masche.wire.decode.decoders import decoders
from masche.wire.framing import WireError
from masche.wire.messages import encode

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
UPSTREAM = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
DOWNSTREAM = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
POLICIES = "envoy.extensions.load_balancing_policies"
ROUTER = {
    "name": "router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


def packed(type_name: str, **body: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{type_name}", **body}


def decoded(type_url: str, body: dict[str, Any]) -> Any:
    return decoders[type_url]("", encode(type_url.rpartition("/")[2], body))


def cluster(**body: Any) -> Destination:
    return decoded(
        types.CLUSTER, {"name": "c", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, **body}
    )


def route(action: dict[str, Any], match: dict[str, Any] | None = None, **more: Any) -> Any:
    one = {"match": match or {"prefix": ""}, "route": action, **more}
    found: Table = decoded(
        types.ROUTES, {"name": "t", "virtual_hosts": [{"name": "h", "domains": ["*"], "routes": [one]}]}
    )
    return found.hosts[0].routes[0]


# -- clients ----------------------------------------------------------------------------------------------------------


def test_istios_listener_for_a_client_names_its_table():
    manager = packed(
        MANAGER,
        rds={"route_config_name": "outbound|80||orders.shop.svc.cluster.local", "config_source": {"ads": {}}},
        http_filters=[
            {
                "name": "envoy.filters.http.fault",
                "typed_config": packed("envoy.extensions.filters.http.fault.v3.HTTPFault"),
            },
            ROUTER,
        ],
    )
    name = "orders.shop.svc.cluster.local:80"
    assert decoded(types.LISTENER, {"name": name, "api_listener": {"api_listener": manager}}) == Told(
        name=name, table_name="outbound|80||orders.shop.svc.cluster.local"
    )


def test_a_listener_may_hold_its_table_and_limit_every_stream():
    manager = packed(
        MANAGER,
        route_config={
            "name": "inline",
            "virtual_hosts": [
                {"name": "h", "domains": ["a"], "routes": [{"match": {"prefix": ""}, "route": {"cluster": "c"}}]}
            ],
        },
        common_http_protocol_options={"max_stream_duration": 5},
        http_filters=[ROUTER],
    )
    told = decoded(types.LISTENER, {"name": "a", "api_listener": {"api_listener": manager}})
    assert told.table.hosts[0].hosts == ("a",)
    assert told.max_duration == 5


def test_istios_route_splits_by_weight_and_goes_to_clusters_by_their_own_names():
    found = route(
        {
            "weighted_clusters": {
                "clusters": [
                    {"name": "outbound|80|v1|orders.shop.svc.cluster.local", "weight": 90},
                    {"name": "outbound|80|v2|orders.shop.svc.cluster.local", "weight": 10},
                ],
                "total_weight": 100,
            },
            "max_stream_duration": {"max_stream_duration": 0, "grpc_timeout_header_max": 0},
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "num_retries": 2,
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": packed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                    }
                ],
                "host_selection_retry_max_attempts": 5,
                "retriable_status_codes": [503],
            },
        },
        decorator={"operation": "orders"},
    )
    assert [(each.cluster.path, each.weight) for each in found.action.backends] == [
        ("outbound|80|v1|orders.shop.svc.cluster.local", 90),
        ("outbound|80|v2|orders.shop.svc.cluster.local", 10),
    ]
    assert found.action.timeout == 0
    retry = found.action.retry
    assert (retry.attempts, retry.codes, retry.grpc_codes, retry.unreached, retry.unanswered) == (
        2, (503,), (1, 14), True, False,
    )  # fmt: skip


def test_without_a_word_envoys_timeouts_hold_and_nothing_is_repeated():
    action = route({"cluster": "c"}).action
    assert action == Forward(
        backends=(Backend(cluster=ForeignRef.named("c")),),
        timeout=15.0,
        idle_timeout=300.0,
        stream_idle_timeout=300.0,
        retry=Retry(attempts=0, any_method=True),
    )


def test_a_stream_may_last_as_long_as_the_table_says():
    assert route({"cluster": "c", "max_stream_duration": {"max_stream_duration": 7}}).action.timeout == 7
    assert route({"cluster": "c", "timeout": 2, "max_stream_duration": {"max_stream_duration": 7}}).action.timeout == 2


def test_a_hash_is_made_of_headers_and_of_the_channel():
    found = route(
        {
            "cluster": "c",
            "hash_policy": [
                {"header": {"header_name": "X-User"}, "terminal": True},
                {"filter_state": {"key": "io.grpc.channel_id"}},
            ],
        }
    )
    assert found.action.hashes == (
        Hashed(kind=HashKind.HEADER, name="x-user", is_last=True),
        Hashed(kind=HashKind.CALLER),
    )


def test_trouble_on_purpose_is_read_where_it_is_most_specific():
    trouble = packed(
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        delay={"fixed_delay": 0.5, "percentage": {"numerator": 10}},
        abort={"grpc_status": 14, "percentage": {"numerator": 5000, "denominator": "TEN_THOUSAND"}},
        max_active_faults=3,
    )
    found = route({"cluster": "c"}, typed_per_filter_config={"envoy.filters.http.fault": trouble})
    assert found.fault == Fault(delay=0.5, delay_percent=10, grpc_status=14, abort_percent=50, max_active=3)


@pytest.mark.parametrize(
    ("matcher", "kind", "value"),
    [
        ({"string_match": {"exact": "a"}}, ValueKind.EXACT, "a"),
        ({"string_match": {"prefix": "a"}}, ValueKind.PREFIX, "a"),
        ({"string_match": {"contains": "a"}}, ValueKind.CONTAINS, "a"),
        ({"exact_match": "a"}, ValueKind.EXACT, "a"),
        ({"suffix_match": "a"}, ValueKind.SUFFIX, "a"),
        ({"safe_regex_match": {"regex": "a+"}}, ValueKind.REGEX, "a+"),
        ({"range_match": {"start": -1, "end": 5}}, ValueKind.RANGE, "-1:5"),
        ({"present_match": True}, ValueKind.PRESENT, ""),
        ({}, ValueKind.PRESENT, ""),
    ],
)
def test_every_way_to_match_a_header_is_known(matcher: dict[str, Any], kind: ValueKind, value: str):
    found = route({"cluster": "c"}, {"prefix": "/", "headers": [{"name": "X-A", **matcher}]}).match.headers[0]
    assert (found.name, found.kind, found.value, found.is_inverted) == ("x-a", kind, value, False)


def test_paths_are_compared_as_envoy_does():
    kinds = {"prefix": PathKind.STARTS, "path": PathKind.EXACT, "path_separated_prefix": PathKind.PREFIX}
    for word, kind in kinds.items():
        found = route({"cluster": "c"}, {word: "/a", "case_sensitive": False}).match
        assert (found.path_kind, found.path, found.path_ignores_case) == (kind, "/a", True)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ({"cluster_header": "x"}, "cluster_header"),
        ({"cluster_specifier_plugin": "rls"}, "cluster_specifier_plugin"),
        ({"cluster": "c", "metadata_match": {"filter_metadata": {"a": {"b": 1}}}}, "metadata_match"),
        ({"cluster": "c", "priority": "HIGH"}, "priority"),
        ({"cluster": "c", "auto_host_rewrite": True}, "auto_host_rewrite"),
        ({"cluster": "c", "retry_policy": {"retry_on": "envoy-ratelimited"}}, "envoy-ratelimited"),
        ({"weighted_clusters": {"clusters": [{"name": "c", "weight": 0}]}}, "come to 0"),
        ({"cluster": "c", "hash_policy": [{"connection_properties": {"source_ip": False}}]}, "connection_properties"),
    ],
)
def test_what_a_route_asks_and_nobody_does_is_refused_by_name(action: dict[str, Any], why: str):
    with pytest.raises(WireError, match=why):
        route(action)


def test_a_value_that_envoy_would_fill_in_is_refused():
    added = {"header": {"key": "x", "value": "%DOWNSTREAM_REMOTE_ADDRESS%"}}
    with pytest.raises(WireError, match="formatter"):
        route({"cluster": "c"}, request_headers_to_add=[added])
    assert route(
        {"cluster": "c"}, request_headers_to_add=[{"header": {"key": "x", "value": "100%%"}}]
    ).request_headers.add == (("x", "100%"),)


def test_an_expression_that_python_would_understand_otherwise_is_refused():
    with pytest.raises(WireError, match="unknown to RE2"):
        route({"cluster": "c"}, {"safe_regex": {"regex": "/(?=a).*"}})


# -- clusters ---------------------------------------------------------------------------------------------------------


def tls(*identities: str) -> dict[str, Any]:
    context = {
        "tls_certificate_provider_instance": {"instance_name": "default", "certificate_name": "default"},
        "combined_validation_context": {
            "default_validation_context": {"match_subject_alt_names": [{"exact": each} for each in identities]},
            "validation_context_certificate_provider_instance": {
                "instance_name": "default",
                "certificate_name": "ROOTCA",
            },
        },
    }
    typed = packed(UPSTREAM, common_tls_context=context, sni="outbound_.80_._.orders.shop.svc.cluster.local")
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed}


def test_istios_cluster_says_who_may_answer_and_our_defaults_hold():
    found = cluster(
        name="outbound|80||orders.shop.svc.cluster.local",
        connect_timeout=10,
        lb_policy="LEAST_REQUEST",
        eds_cluster_config={"eds_config": {"ads": {}, "resource_api_version": "V3"}, "service_name": "endpoints"},
        transport_socket=tls("spiffe://cluster.local/ns/shop/sa/orders"),
    )
    assert (found.discovery, found.assignment, found.is_tls) == (Discovery.EDS, "endpoints", True)
    assert found.cluster.identities == ("spiffe://cluster.local/ns/shop/sa/orders",)
    assert found.cluster.service.path == found.name
    assert (found.cluster.traffic.algorithm, found.cluster.traffic.connect_timeout) == (Algorithm.LEAST_REQUEST, 10)
    assert found.cluster.traffic.outlier == UNSAID.outlier


def test_a_cluster_without_a_word_on_tls_is_plaintext_and_says_so():
    assert cluster().is_tls is False
    assert cluster().cluster.identities == ()


def test_tls_that_takes_anybodys_certificate_is_refused():
    with pytest.raises(WireError, match="no identity"):
        cluster(transport_socket=tls())


@pytest.mark.parametrize(
    ("policy", "algorithm"),
    [
        ([("round_robin.v3.RoundRobin", {})], Algorithm.ROUND_ROBIN),
        ([("ring_hash.v3.RingHash", {})], Algorithm.RING_HASH),
        ([("least_request.v3.LeastRequest", {}), ("round_robin.v3.RoundRobin", {})], Algorithm.LEAST_REQUEST),
        ([("subset.v3.Subset", {}), ("maglev.v3.Maglev", {})], Algorithm.MAGLEV),
    ],
)
def test_the_first_policy_of_balancing_that_is_known_is_taken(policy: list[Any], algorithm: Algorithm):
    some = [
        {"typed_extension_config": {"name": name, "typed_config": packed(f"{POLICIES}.{name}")}} for name, _ in policy
    ]
    assert cluster(load_balancing_policy={"policies": some}).cluster.traffic.algorithm is algorithm


def test_a_policy_inside_the_one_for_zones_counts():
    inner = {"typed_extension_config": {"name": "r", "typed_config": packed(f"{POLICIES}.random.v3.Random")}}
    outer = packed(f"{POLICIES}.wrr_locality.v3.WrrLocality", endpoint_picking_policy={"policies": [inner]})
    found = cluster(
        load_balancing_policy={"policies": [{"typed_extension_config": {"name": "z", "typed_config": outer}}]}
    )
    assert found.cluster.traffic.algorithm is Algorithm.RANDOM


def test_limits_and_ejection_are_read():
    traffic = cluster(
        circuit_breakers={"thresholds": [{"max_requests": 7, "max_retries": 2}]},
        outlier_detection={
            "interval": 2, "max_ejection_percent": 20, "enforcing_consecutive_5xx": 0,
            "failure_percentage_threshold": 60, "enforcing_failure_percentage": 100,
        },
    ).cluster.traffic  # fmt: skip
    assert (traffic.breaker.max_requests, traffic.breaker.max_retries) == (7, 2)
    assert (traffic.outlier.consecutive_errors, traffic.outlier.error_percent, traffic.outlier.interval) == (0, 60, 2)
    assert traffic.outlier.max_ejected_percent == 20


def test_clusters_are_found_in_other_ways_too():
    one = {"endpoint": {"address": {"socket_address": {"address": "db.example.org", "port_value": 5432}}}}
    assignment = {"cluster_name": "c", "endpoints": [{"lb_endpoints": [one]}]}
    dns = decoded(types.CLUSTER, {"name": "c", "type": "LOGICAL_DNS", "load_assignment": assignment})
    assert (dns.discovery, dns.host, dns.port) == (Discovery.LOGICAL_DNS, "db.example.org", 5432)
    static = decoded(types.CLUSTER, {"name": "c", "type": "STATIC", "load_assignment": assignment})
    assert static.endpoints.localities[0].endpoints[0].port == 5432
    aggregate = packed("envoy.extensions.clusters.aggregate.v3.ClusterConfig", clusters=["a", "b"])
    typed = {"name": "envoy.clusters.aggregate", "typed_config": aggregate}
    assert decoded(types.CLUSTER, {"name": "c", "cluster_type": typed, "lb_policy": "CLUSTER_PROVIDED"}).members == (
        "a",
        "b",
    )
    original = decoded(types.CLUSTER, {"name": "c", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"})
    assert original.discovery is Discovery.PASSTHROUGH


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"lb_subset_config": {"fallback_policy": "ANY_ENDPOINT"}}, "lb_subset_config"),
        ({"type": "STRICT_DNS"}, "this type"),
        ({"eds_cluster_config": {"eds_config": {"path": "/x"}}}, "one stream"),
        ({"transport_socket": {"name": "envoy.transport_sockets.alts"}}, "alts"),
        ({"load_balancing_policy": {"policies": []}}, "none of the policies"),
        ({"http2_protocol_options": {}, "filters": [{"name": "x"}]}, "filters"),
    ],
)
def test_what_a_cluster_asks_and_nobody_does_is_refused_by_name(body: dict[str, Any], why: str):
    with pytest.raises(WireError, match=why):
        cluster(**body)


def test_endpoints_have_zones_priorities_weights_and_health():
    def instance(host: str, **more: Any) -> dict[str, Any]:
        return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": 80}}}, **more}

    found: Endpoints = decoded(
        types.ENDPOINTS,
        {
            "cluster_name": "outbound/shop/orders/80",
            "endpoints": [
                {
                    "locality": {"region": "r", "zone": "a"},
                    "load_balancing_weight": 3,
                    "lb_endpoints": [
                        instance("10.0.0.1", load_balancing_weight=7),
                        instance("10.0.0.2", health_status="UNHEALTHY"),
                        instance("10.0.0.3", health_status="DRAINING"),
                        instance("10.0.0.4", health_status="TIMEOUT"),
                    ],
                },
                {"priority": 1, "lb_endpoints": [instance("10.0.0.5")], "load_balancing_weight": 1},
            ],
        },
    )
    assert found.service == PortRef("shop", "orders", 80)
    first, second = found.localities
    assert (first.zone, first.weight, first.priority, second.priority) == ("a", 3, 0, 1)
    assert [each.health for each in first.endpoints] == [
        Health.HEALTHY, Health.UNHEALTHY, Health.DRAINING, Health.UNHEALTHY,
    ]  # fmt: skip
    assert first.endpoints[0].weight == 7


def test_a_gap_between_priorities_is_refused():
    with pytest.raises(WireError, match="gap"):
        decoded(types.ENDPOINTS, {"cluster_name": "c", "endpoints": [{"priority": 1}]})


def test_a_share_of_requests_that_is_to_be_dropped_is_never_forgotten():
    drop = {"drop_overloads": [{"category": "x", "drop_percentage": {"numerator": 50}}]}
    with pytest.raises(WireError, match="drop_overloads"):
        decoded(types.ENDPOINTS, {"cluster_name": "c", "policy": drop})


# -- servers ----------------------------------------------------------------------------------------------------------

MUTUAL = {
    "name": "envoy.transport_sockets.tls",
    "typed_config": packed(
        DOWNSTREAM,
        require_client_certificate=True,
        common_tls_context={
            "tls_certificate_provider_instance": {"instance_name": "default"},
            "validation_context": {"ca_certificate_provider_instance": {"instance_name": "default"}},
        },
    ),
}


def chain(*filters: dict[str, Any], socket: dict[str, Any] | None = None, transport: str = "") -> dict[str, Any]:
    everything = {"match": {"prefix": "/"}, "non_forwarding_action": {}, "decorator": {"operation": "x"}}
    table = {"name": "inbound|8080||", "virtual_hosts": [{"name": "i", "domains": ["*"], "routes": [everything]}]}
    manager = packed(MANAGER, stat_prefix="inbound", route_config=table, http_filters=[*filters, ROUTER])
    body: dict[str, Any] = {"filters": [{"name": "inbound-hcm", "typed_config": manager}]}
    if socket:
        body["transport_socket"] = socket
    if transport:
        body["filter_chain_match"] = {"transport_protocol": transport}
    return body


def server(*chains: dict[str, Any]) -> ToldServer:
    name = "xds.istio.io/grpc/lds/inbound/0.0.0.0:8080"
    address = {"socket_address": {"address": "0.0.0.0", "port_value": 8080}}
    return decoded(types.LISTENER, {"name": name, "address": address, "filter_chains": list(chains)})


def rbac(action: str, policies: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"rbac-{action}", "typed_config": packed(RBAC, rules={"action": action, "policies": policies})}


def test_chains_of_a_server_say_how_connections_are_taken():
    assert server(chain(socket=MUTUAL)).inbound.mtls is MtlsMode.STRICT
    assert server(chain()).inbound.mtls is MtlsMode.DISABLE
    both = server(chain(socket=MUTUAL, transport="tls"), chain(transport="raw_buffer"))
    assert both.inbound.mtls is MtlsMode.PERMISSIVE
    assert (both.port, both.inbound.ports[0].protocol) == (8080, Protocol.HTTP)


def test_chains_that_leave_open_which_one_is_taken_are_refused():
    with pytest.raises(WireError, match="which of the chains"):
        server(chain(socket=MUTUAL), chain())
    with pytest.raises(WireError, match="differently"):
        server(
            chain(rbac("DENY", {"a": {"permissions": [{"any": True}], "principals": [{"any": True}]}}), socket=MUTUAL),
            chain(transport="raw_buffer"),
        )


def test_tls_without_a_callers_certificate_is_refused():
    typed = packed(DOWNSTREAM, common_tls_context={"tls_certificate_provider_instance": {"instance_name": "default"}})
    with pytest.raises(WireError, match="certificate of the caller"):
        server(chain(socket={"name": "envoy.transport_sockets.tls", "typed_config": typed}))


def test_istios_policy_judges_as_istio_means_it():
    allow = rbac(
        "ALLOW",
        {
            "ns[shop]-policy[allow-web]-rule[0]": {
                "permissions": [
                    {
                        "and_rules": {
                            "rules": [
                                {
                                    "or_rules": {
                                        "rules": [{"header": {"name": ":method", "string_match": {"exact": "GET"}}}]
                                    }
                                },
                                {"or_rules": {"rules": [{"url_path": {"path": {"prefix": "/a"}}}]}},
                                {"not_rule": {"or_rules": {"rules": [{"url_path": {"path": {"exact": "/a/secret"}}}]}}},
                            ]
                        }
                    }
                ],
                "principals": [
                    {
                        "and_ids": {
                            "ids": [
                                {
                                    "or_ids": {
                                        "ids": [
                                            {
                                                "authenticated": {
                                                    "principal_name": {"exact": "spiffe://cluster.local/ns/shop/sa/web"}
                                                }
                                            }
                                        ]
                                    }
                                }
                            ]
                        }
                    }
                ],
            }
        },
    )
    policies = server(chain(allow, socket=MUTUAL)).inbound.policies
    assert [each.decision for each in policies] == [Decision.ALLOW]
    web = Connection(peer="cluster.local/ns/shop/sa/web")

    def judged(connection: Connection, method: str, path: str) -> bool:
        return authorize(policies, Request(method=method, target=path, connection=connection)).allowed

    assert judged(web, "GET", "/a/b")
    assert not judged(web, "GET", "/a/secret")
    assert not judged(web, "POST", "/a/b")
    assert not judged(Connection(peer="cluster.local/ns/shop/sa/job"), "GET", "/a/b")
    assert not judged(Connection(), "GET", "/a/b")


def test_a_header_that_is_inverted_must_be_there():
    deny = rbac(
        "DENY",
        {
            "r": {
                "permissions": [{"header": {"name": "x", "string_match": {"exact": "1"}, "invert_match": True}}],
                "principals": [{"any": True}],
            }
        },
    )
    policies = server(chain(deny)).inbound.policies
    assert not authorize(policies, Request(headers=(("x", "2"),))).allowed
    assert authorize(policies, Request(headers=(("x", "1"),))).allowed
    assert authorize(policies, Request()).allowed


def test_a_rule_that_can_never_match_is_none_and_one_that_always_does_asks_nothing():
    never = {"permissions": [{"not_rule": {"any": True}}], "principals": [{"any": True}]}
    always = {
        "permissions": [{"or_rules": {"rules": [{"any": True}, {"destination_port": 1}]}}],
        "principals": [{"any": True}],
    }
    (policy,) = server(chain(rbac("DENY", {"never": never, "always": always}))).inbound.policies
    assert policy.rules == (Rule(name="always"),)


def test_to_log_only_decides_nothing():
    rule = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    assert server(chain(rbac("LOG", {"r": rule}))).inbound.policies == ()


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"permissions": [{"metadata": {"filter": "x"}}], "principals": [{"any": True}]}, "metadata"),
        ({"permissions": [{"any": True}], "principals": [{"filter_state": {"key": "x"}}]}, "filter_state"),
        (
            {"permissions": [{"destination_port_range": {"start": 1, "end": 2}}], "principals": [{"any": True}]},
            "port_range",
        ),
        ({"permissions": [{"any": True}], "principals": [{"any": True}], "condition": {"id": 1}}, "condition"),
    ],
)
def test_what_a_rule_looks_at_and_nobody_sees_is_refused_by_name(rule: dict[str, Any], why: str):
    with pytest.raises(WireError, match=why):
        server(chain(rbac("ALLOW", {"r": rule})))


def test_a_rule_with_too_many_alternatives_is_refused():
    one = {"or_rules": {"rules": [{"destination_port": 1}, {"url_path": {"path": {"exact": "/"}}}]}}
    rule = {"permissions": [{"and_rules": {"rules": [one] * 20}}], "principals": [{"any": True}]}
    with pytest.raises(WireError, match="alternatives"):
        server(chain(rbac("DENY", {"r": rule})))


def test_a_filter_that_is_not_known_is_refused_unless_it_may_be_left_out():
    filter_ = {"name": "wasm", "typed_config": packed("envoy.extensions.filters.http.lua.v3.Lua")}
    with pytest.raises(WireError, match="'wasm' is not carried out"):
        server(chain(filter_))
    assert server(chain({**filter_, "is_optional": True})).inbound.policies == ()


@pytest.mark.parametrize("field", ["xff_num_trusted_hops", "strip_any_host_port"])
def test_what_would_change_whom_a_rule_sees_is_refused(field: str):
    manager = packed(MANAGER, rds={"route_config_name": "t", "config_source": {"ads": {}}}, http_filters=[ROUTER])
    body = {"name": "a", "api_listener": {"api_listener": {**manager, field: True if "strip" in field else 1}}}
    with pytest.raises(WireError, match=field):
        decoded(types.LISTENER, body)
