"""What Kubernetes' kinds and masche's own may say, what has no meaning here, and how secrets stay secret."""

from base64 import b64encode
from typing import Any

import pytest
import yaml

from masche.model.diagnostic import Severity
from masche.model.yaml import Loaded, is_valid, load

MASCHE = "masche.dev/v1"


def read(kind: str, spec: Any = None, version: str = "v1", **fields: Any) -> Loaded:
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, **fields}
    if spec is not None:
        document["spec"] = spec
    return load(yaml.safe_dump(document), file="f.yaml")


def service(*ports: dict[str, Any], **spec: Any) -> Loaded:
    return read("Service", {"ports": list(ports) or [{"port": 80}], **spec})


def workload(**spec: Any) -> Loaded:
    return read("Workload", {"address": "127.0.0.2", "ports": [{"port": 80}], **spec}, MASCHE)


def traffic(**spec: Any) -> Loaded:
    return read("TrafficPolicy", spec, MASCHE)


def endpoints(*addresses: str, kind: str = "IPv4", **fields: Any) -> Loaded:
    return read(
        "EndpointSlice",
        version="discovery.k8s.io/v1",
        metadata={"name": "a", "labels": {"kubernetes.io/service-name": "a"}},
        addressType=kind,
        endpoints=[{"addresses": list(addresses)}],
        ports=[{"port": 80}],
        **fields,
    )


INVALID: dict[str, tuple[Loaded, str]] = {
    "no ports": (read("Service", {}), "spec.ports: Required value"),
    "two ports without names": (service({"port": 80}, {"port": 81}), "a Service with several ports names each"),
    "one name twice": (service({"name": "a", "port": 80}, {"name": "a", "port": 81}), "Duplicate value: 'a'"),
    "one port twice": (service({"name": "a", "port": 80}, {"name": "b", "port": 80}), "Duplicate value: 80"),
    "a target port too high": (service({"port": 80, "targetPort": 70000}), "targetPort"),
    "a target port in capitals": (service({"port": 80, "targetPort": "HTTP"}), "targetPort"),
    "a Service with a dot in its name": (
        read("Service", {"ports": [{"port": 80}]}, metadata={"name": "a.b"}),
        "the name of a Service is an RFC 1123 label",
    ),
    "a type that is none": (service(type="Foo"), 'supported values: "ClusterIP"'),
    "a name with slashes": (read("Namespace", metadata={"name": "../etc"}), "metadata.name in body should match"),
    "a label that is none": (
        read("Namespace", metadata={"name": "a", "labels": {"a": "<script>"}}),
        "metadata.labels.a in body should match",
    ),
    "an IPv6 address in an IPv4 slice": (endpoints("::1"), "is not of the addressType IPv4"),
    "a name as an address": (endpoints("a.com"), "must be an IP address"),
    "a Workload at no address": (workload(address="0.0.0.0"), "nobody can connect to 0.0.0.0"),
    "a Workload at a name": (workload(address="a.com"), "must be an IP address"),
    "a Workload without ports": (workload(ports=[]), "can be called by nobody"),
    "a proxy's port without a proxy": (
        workload(tls="DISABLE", ports=[{"port": 80, "meshPort": 81}]),
        "no proxy that could listen there",
    ),
    "a dependency that is none": (workload(dependencies=["http://orders"]), "names no Service"),
    "an algorithm that is none": (traffic(loadBalancing={"algorithm": "Best"}), 'supported values: "LeastRequest"'),
    "a hash of nothing": (traffic(loadBalancing={"algorithm": "RingHash"}), "RingHash needs hashOn"),
    "a hash without a use": (traffic(loadBalancing={"hashOn": {"type": "SourceIP"}}), "LeastRequest hashes nothing"),
    "a hash of no header": (
        traffic(loadBalancing={"algorithm": "Maglev", "hashOn": {"type": "Header"}}),
        "hashOn of type Header needs a name",
    ),
    "no requests at all": (traffic(circuitBreaker={"maxRequests": 0}), "would refuse every request"),
    "more than everything": (
        traffic(outlierEjection={"maxEjectedPercent": 101}),
        "maxEjectedPercent 101 is out of range",
    ),
    "an interval of nothing": (traffic(outlierEjection={"interval": "0s"}), "interval 0s is out of range"),
    "a try longer than the whole": (traffic(timeouts={"request": "1s", "perTry": "2s"}), "perTry cannot be longer"),
    "another MeshConfig": (read("MeshConfig", version=MASCHE), "there is one MeshConfig, named default"),
    "a trust domain in capitals": (
        read("MeshConfig", {"trustDomain": "Mesh"}, MASCHE, metadata={"name": "default"}),
        "spec.trustDomain in body should match",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_wrong_is_refused_with_a_reason(name: str):
    loaded, reason = INVALID[name]
    assert not is_valid(loaded.diagnostics)
    assert reason in " | ".join(found.why for found in loaded.errors)
    assert not loaded.resources


BEYOND: dict[str, Loaded] = {
    "ExternalName": service(type="ExternalName", externalName="a.com"),
    "sticky sessions": service(sessionAffinity="ClientIP"),
    "local traffic only": service(internalTrafficPolicy="Local"),
    "endpoints that are not ready": service(publishNotReadyAddresses=True),
    "an opaque Secret": read("Secret", type="Opaque", data={"a": "YQ=="}),
    "names instead of addresses": endpoints(kind="FQDN"),
    "priorities": traffic(priorities=[]),
    "a policy for a Gateway": traffic(targetRefs=[{"group": "g.io", "kind": "Gateway", "name": "a"}]),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_would_change_the_meaning_is_refused_as_not_carried_out(name: str):
    assert "not-carried-out" in {found.code for found in BEYOND[name].errors}
    assert not BEYOND[name].resources


HARMLESS: dict[str, Loaded] = {
    "a cluster's address": service(clusterIP="10.0.0.1", clusterIPs=["10.0.0.1"], ipFamilyPolicy="SingleStack"),
    "a node's port": service({"port": 80, "nodePort": 30080}, type="NodePort"),
    "a UDP port": service({"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}),
    "hints": endpoints("10.0.0.1"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_carried_out_with_a_warning_at_most(name: str):
    assert len(HARMLESS[name].resources) == 1
    assert {found.severity for found in HARMLESS[name].diagnostics} <= {Severity.WARNING}


def test_the_words_of_kubernetes_that_say_nothing_new_are_accepted_in_silence():
    loaded = service(type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    assert not loaded.diagnostics


def test_an_export_names_namespaces_and_the_own_one_by_a_dot():
    annotations = {"masche.dev/export-to": "., other"}
    loaded = read("Service", {"ports": [{"port": 80}]}, metadata={"name": "a", "annotations": annotations})
    assert loaded.resources[0].exported_to == ("default", "other")
    assert service().resources[0].exported_to == ("*",)


SECRET = b"-----BEGIN PRIVATE KEY-----"


def secret(**data: str) -> Loaded:
    return read("Secret", type="kubernetes.io/tls", data={key.replace("_", "."): value for key, value in data.items()})


def test_a_secret_never_prints_itself():
    (found,) = secret(tls_crt=b64encode(b"cert").decode(), tls_key=b64encode(SECRET).decode()).resources
    assert found.private_key == SECRET
    shown = f"{found} {found!r} {found.data} {found.private_key} {found.private_key!r} {found.metadata} {vars(found)}"
    assert "BEGIN" not in shown
    assert "Secret(...)" in shown
    assert b64encode(SECRET).decode() not in shown


@pytest.mark.parametrize(
    "data", [{"tls_crt": "YQ=="}, {"tls_crt": "YQ==", "tls_key": "topsecret!"}, {"tls_key": "topsecret!"}]
)
def test_a_wrong_secret_is_refused_without_showing_it(data: dict[str, str]):
    loaded = secret(**data)
    assert loaded.errors
    assert "topsecret" not in repr(loaded)
