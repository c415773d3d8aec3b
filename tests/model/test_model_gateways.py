"""Every rule of the Gateway API that connects the fields of a Gateway."""

from typing import Any

import pytest
import yaml

from masche.model.yaml import Loaded, is_valid, load

TLS = {"certificateRefs": [{"name": "cert"}]}
HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}
HTTPS = {"name": "https", "port": 443, "protocol": "HTTPS", "tls": TLS}


def read(*listeners: dict[str, Any], kind: str = "Gateway", **spec: Any) -> Loaded:
    fields = {"gatewayClassName": "masche", "listeners": list(listeners) or [HTTP], **spec}
    document = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "g", "namespace": "shop"},
        "spec": fields,
    }
    return load(yaml.safe_dump(document), file="gateway.yaml")


INVALID: dict[str, tuple[Loaded, str]] = {
    "tls on http": (read({**HTTP, "tls": TLS}), "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']"),
    "tls on tcp": (read({**HTTP, "protocol": "TCP", "tls": TLS}), "tls must not be specified for protocols"),
    "passthrough on https": (
        read({**HTTPS, "tls": {"mode": "Passthrough"}}),
        "tls mode must be Terminate for protocol HTTPS",
    ),
    "no tls on tls": (read({**HTTP, "protocol": "TLS"}), "tls mode must be set for protocol TLS"),
    "no certificate": (
        read({**HTTPS, "tls": {}}),
        "certificateRefs or options must be specified when mode is Terminate",
    ),
    "a hostname on udp": (
        read({**HTTP, "protocol": "UDP", "hostname": "a.com"}),
        "hostname must not be specified for protocols ['TCP', 'UDP']",
    ),
    "one name twice": (read(HTTP, {**HTTP, "port": 81}), "Listener name must be unique within the Gateway"),
    "one place twice": (
        read(HTTP, {**HTTP, "name": "b"}),
        "Combination of port, protocol and hostname must be unique for each listener",
    ),
    "no listeners": (read(listeners=[]), "should have at least 1 items"),
    "a port of 0": (read({**HTTP, "port": 0}), "greater than or equal to 1"),
    "a name in capitals": (read({**HTTP, "name": "A"}), "in body should match"),
    "one address twice": (
        read(addresses=[{"value": "1.2.3.4"}, {"type": "IPAddress", "value": "1.2.3.4"}]),
        "IPAddress values must be unique",
    ),
    "one hostname twice": (
        read(addresses=[{"type": "Hostname", "value": "a.com"}] * 2),
        "Hostname values must be unique",
    ),
    "an address that is none": (read(addresses=[{"value": "1.2.3.4:80"}]), "must be of type ipv4"),
    "a hostname that is none": (
        read(addresses=[{"type": "Hostname", "value": "a_b"}]),
        "contain only valid characters",
    ),
    "a label key that is none": (
        read(infrastructure={"labels": {"a b": "c"}}),
        "Label keys must be in the form of an optional DNS subdomain prefix",
    ),
    "one port of the frontend twice": (
        read(tls={"frontend": {"default": {}, "perPort": [{"port": 80, "tls": {}}] * 2}}),
        "Port for TLS configuration must be unique within the Gateway",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_the_standard_refuses_of_a_gateway_is_refused_in_its_own_words(name: str):
    loaded, reason = INVALID[name]
    assert not is_valid(loaded.diagnostics)
    assert reason in " | ".join(found.why for found in loaded.errors)
    assert not loaded.resources


VALID: dict[str, Loaded] = {
    "http and https": read(HTTP, HTTPS),
    "two hostnames on one port": read({**HTTP, "hostname": "a.com"}, {**HTTP, "name": "b", "hostname": "*.b.com"}),
    "one hostname and none": read({**HTTP, "hostname": "a.com"}, {**HTTP, "name": "b"}),
    "a selector": read(
        {**HTTP, "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}}}
    ),
    "no ListenerSets": read(allowedListeners={"namespaces": {"from": "None"}}),
}


@pytest.mark.parametrize("name", VALID)
def test_what_the_standard_allows_of_a_gateway_is_carried_out(name: str):
    assert not VALID[name].errors
    assert len(VALID[name].resources) == 1


BEYOND: dict[str, Loaded] = {
    "a TCP listener": read({**HTTP, "protocol": "TCP"}),
    "passthrough": read({**HTTP, "protocol": "TLS", "tls": {"mode": "Passthrough"}}),
    "addresses": read(addresses=[{"value": "1.2.3.4"}]),
    "two certificates": read({**HTTPS, "tls": {"certificateRefs": [{"name": "a"}, {"name": "b"}]}}),
    "options": read({**HTTPS, "tls": {**TLS, "options": {"a": "b"}}}),
    "client certificates": read(
        HTTPS,
        tls={
            "frontend": {
                "default": {"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}
            }
        },
    ),
    "ListenerSets": read(allowedListeners={"namespaces": {"from": "All"}}),
    "parameters": read(infrastructure={"parametersRef": {"group": "a.b", "kind": "K", "name": "n"}}),
    "a default Gateway": read(defaultScope="All"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_not_carried_out_of_a_gateway_is_refused_and_stays_valid(name: str):
    loaded = BEYOND[name]
    assert {found.code for found in loaded.errors} == {"not-carried-out"}
    assert is_valid(loaded.diagnostics)


def test_an_https_listener_without_a_certificate_is_refused_though_the_schema_allows_it():
    loaded = read({"name": "https", "port": 443, "protocol": "HTTPS"})
    assert [found.code for found in loaded.errors] == ["certificate-missing"]
    assert is_valid(loaded.diagnostics)


def test_the_protocol_of_a_listener_is_spelled_as_the_standard_spells_it():
    (gateway,) = read({**HTTP, "protocol": "http"}).resources
    assert gateway.spec.listeners[0].protocol == "HTTP"


@pytest.mark.parametrize("missing", ["from", "to"])
def test_a_grant_needs_both_sides(missing: str):
    spec = {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Service"}],
    }
    del spec[missing]
    document = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "g"},
        "spec": spec,
    }
    loaded = load(yaml.safe_dump(document), file="grant.yaml")
    assert [(found.code, found.why) for found in loaded.errors] == [
        ("invalid-missing", f"spec.{missing}: Required value")
    ]
