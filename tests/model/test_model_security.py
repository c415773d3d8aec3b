"""Istio's rules for AuthorizationPolicy and PeerAuthentication; what cannot be carried out to the letter is refused."""

from typing import Any

import pytest
import yaml

from masche.model.diagnostic import Severity
from masche.model.yaml import Loaded, is_valid, load


def read(spec: Any, kind: str = "AuthorizationPolicy") -> Loaded:
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": spec,
    }
    return load(yaml.safe_dump(document), file="policy.yaml")


def source(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"from": [{"source": fields}]}]}


def operation(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"to": [{"operation": fields}]}]}


def when(key: str, *values: str) -> dict[str, Any]:
    return {"rules": [{"when": [{"key": key, "values": list(values)}]}]}


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "selector and targetRefs": (
        {"selector": {"matchLabels": {"app": "a"}}, "targetRefs": [{"kind": "Service", "name": "a"}]},
        "only one of targetRefs or selector can be set",
    ),
    "DENY without rules": ({"action": "DENY"}, "DENY action without `rules` is meaningless"),
    "an empty from": ({"rules": [{"from": []}]}, "`from` must not be empty"),
    "an empty to": ({"rules": [{"to": []}]}, "`to` must not be empty"),
    "an empty source": (source(), "`from.source` must not be empty"),
    "an empty operation": (operation(), "`to.operation` must not be empty"),
    "no source": ({"rules": [{"from": [{}]}]}, "source: Required value"),
    "a null from, which would mean anybody": ({"rules": [{"from": None}]}, "it is empty (null)"),
    "service accounts and namespaces": (
        source(serviceAccounts=["shop/a"], namespaces=["shop"]),
        "Cannot set serviceAccounts with namespaces or principals",
    ),
    "a service account with a wildcard": (source(serviceAccounts=["shop/*"]), "is no service account"),
    "an address that is none": (source(ipBlocks=["10.0.0.0/33"]), "bad CIDR range: 10.0.0.0/33"),
    "a remote address that is none": (source(notRemoteIpBlocks=["a"]), "bad CIDR range: a"),
    "an empty principal": (source(principals=[""]), "should be at least 1 chars long"),
    "a port that is none": (operation(ports=["http"]), "bad port: http"),
    "a port too high": (operation(notPorts=["65536"]), "bad port: 65536"),
    "a port that is no text": (operation(ports=[80]), "must be of type string"),
    "a wildcard in the middle": (source(principals=["a/*/b"]), "neither first nor last"),
    "a wildcard on both sides": (operation(hosts=["*a*"]), "neither first nor last"),
    "a wildcard on both sides of a name": (when("request.headers[host]", "*a*"), "neither first nor last"),
    "nothing between two wildcards": (when("request.headers[a]", "**"), "neither first nor last"),
    "three wildcards": (when("request.headers[a]", "*a*b*"), "neither first nor last"),
    "half a template": (operation(paths=["/a/{b}"]), "beyond a supported path template"),
    "a template in a segment": (operation(paths=["/a{*}"]), "beyond a supported path template"),
    "a template after the last": (operation(paths=["/{**}/{*}"]), "is not the last operator"),
    "an unknown attribute": (when("source.colour", "red"), "unknown attribute: source.colour"),
    "headers without a name": (when("request.headers", "a"), "unknown attribute: request.headers"),
    "a header that is none": (when("request.headers[a b]", "a"), "unknown attribute"),
    "a condition without values": (when("source.ip"), "at least one of `values` or `notValues` must be set"),
    "a condition on an address that is none": (when("source.ip", "a"), "bad CIDR range"),
    "a condition on a port that is none": (when("destination.port", "x"), "bad port"),
    "a misspelt field": ({"rule": []}, 'unknown field "spec.rule"'),
    "a misspelt action": ({"action": "Deny"}, 'supported values: "ALLOW", "DENY"'),
    "a target in another namespace": (
        {"targetRefs": [{"kind": "Service", "name": "a", "namespace": "b"}]},
        "cross namespace referencing is not currently supported",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_a_policy_that_istio_would_refuse_is_refused(name: str):
    spec, reason = INVALID[name]
    loaded = read(spec)
    assert not is_valid(loaded.diagnostics)
    assert reason in " | ".join(found.why for found in loaded.errors)
    assert not loaded.resources


BEYOND: dict[str, dict[str, Any]] = {
    "AUDIT": {"action": "AUDIT", "rules": [{}]},
    "CUSTOM": {"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]},
    "request principals": source(requestPrincipals=["*"]),
    "claims": when("request.auth.claims[iss]", "a"),
    "an Envoy filter": when("experimental.envoy.filters.a", "b"),
    "a GatewayClass": {"targetRefs": [{"kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": "a"}]},
    "one target": {"targetRef": {"kind": "Service", "name": "a"}},
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_policy_that_cannot_be_carried_out_is_refused_and_never_ignored(name: str):
    loaded = read(BEYOND[name])
    assert {found.code for found in loaded.errors} == {"not-carried-out"}
    assert not loaded.resources


VALID: dict[str, dict[str, Any]] = {
    "nothing, which denies everything": {},
    "an empty rule, which allows everything": {"rules": [{}]},
    "everything at once": {
        "selector": {"matchLabels": {"app": "a"}},
        "action": "DENY",
        "rules": [
            {
                "from": [{"source": {"principals": ["mesh.local/ns/shop/sa/*"], "notNamespaces": ["*-dev"]}}],
                "to": [
                    {
                        "operation": {
                            "ports": ["80"],
                            "methods": ["GET"],
                            "paths": ["/a*", "*b", "/x/{*}/y/{**}"],
                            "notHosts": ["*.internal"],
                        }
                    }
                ],
                "when": [
                    {"key": "request.headers[x-token]", "values": ["a*"], "notValues": ["ab"]},
                    {"key": "source.ip", "values": ["10.0.0.0/8", "::1"]},
                    {"key": "request.headers[Cookie]", "values": ["*session=*"], "notValues": ["*a=b*", "*c"]},
                ],
            }
        ],
    },
    "service accounts": source(serviceAccounts=["a", "shop/a"]),
}


@pytest.mark.parametrize("name", VALID)
def test_a_right_policy_is_read(name: str):
    loaded = read(VALID[name])
    assert not loaded.diagnostics
    assert len(loaded.resources) == 1


def test_an_empty_rule_is_a_rule_and_no_rules_are_none():
    assert len(read({"rules": [{}]}).resources[0].spec.rules) == 1
    assert read({}).resources[0].spec.rules == ()


def test_who_looks_at_the_name_of_a_server_is_told_that_inside_the_mesh_there_is_none():
    (warning,) = read(when("connection.sni", "a.com")).diagnostics
    assert warning.severity is Severity.WARNING
    assert "no caller names a server (SNI)" in warning.why


def test_a_denial_that_looks_only_at_requests_warns_of_what_it_does_to_plain_connections():
    (warning,) = read({"action": "DENY", **operation(paths=["/admin"])}).diagnostics
    assert warning.severity is Severity.WARNING
    assert "deny all traffic to TCP ports" in warning.why


PEERS: dict[str, tuple[dict[str, Any], str]] = {
    "a mode that is none": ({"mtls": {"mode": "BLAH"}}, 'Unsupported value: "BLAH"'),
    "ports without a selector": ({"portLevelMtls": {"80": {"mode": "STRICT"}}}, "portLevelMtls requires selector"),
    "no ports": (
        {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {}},
        "spec.portLevelMtls in body should have at least 1 properties",
    ),
    "port 0": (
        {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"0": {"mode": "STRICT"}}},
        "port must be between 1-65535",
    ),
    "port 42949672": (
        {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"42949672": {"mode": "STRICT"}}},
        "port must be between 1-65535",
    ),
    "a port that is none": (
        {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"acd": {"mode": "STRICT"}}},
        "Invalid value",
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_authentication_that_istio_would_refuse_is_refused(name: str):
    spec, reason = PEERS[name]
    loaded = read(spec, "PeerAuthentication")
    assert not is_valid(loaded.diagnostics)
    assert reason in " | ".join(found.why for found in loaded.errors)


def test_ports_of_a_peer_authentication_may_be_written_without_quotation_marks():
    text = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p, namespace: shop}
spec:
  selector: {matchLabels: {app: a}}
  mtls: {mode: STRICT}
  portLevelMtls:
    8080: {mode: DISABLE}
"""
    loaded = load(text, file="peer.yaml")
    assert not loaded.diagnostics
    assert loaded.resources[0].spec.port_level_mtls[8080].mode == "DISABLE"
