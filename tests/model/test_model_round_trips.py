"""What is written is read back as it was, from YAML and from JSON."""

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masche.model.codec import from_json, to_json
from masche.model.mesh import Resource
from masche.model.resources.core import Hidden, Secret, Service, ServicePort, ServiceSpec
from masche.model.resources.gateway_api import (
    BackendObjectReference,
    HTTPBackendRef,
    HTTPHeaderMatch,
    HTTPPathMatch,
    HTTPRequestMirrorFilter,
    HTTPRoute,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteSpec,
    HTTPRouteTimeouts,
)
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.meta import FrozenMap, ObjectMeta
from masche.model.resources.scalars import seconds
from masche.model.resources.security import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    AuthorizationRule,
    Operation,
    RuleFrom,
    RuleTo,
    Source,
)
from masche.model.resources.workload import Workload, WorkloadPort, WorkloadSpec, WorkloadState, WorkloadStatus
from masche.model.view import Decision, PathKind, Protocol, ValueKind
from masche.model.yaml import dump, load

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
TRICKY = st.sampled_from(
    ["no", "on", "010", "1:30", "~", "null", "true", "1e3", "0x1f", "2020-01-01", "=", "<<", "- a", "#"]
)
TEXTS = TRICKY | st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20)
VISIBLE = TRICKY.filter(lambda word: " " not in word) | st.from_regex(r"[!-~]{1,12}", fullmatch=True)
LABELS = st.dictionaries(NAMES, st.from_regex(r"[A-Za-z0-9]{0,10}", fullmatch=True), max_size=3).map(FrozenMap)
METAS = st.builds(
    ObjectMeta,
    name=NAMES,
    namespace=NAMES,
    labels=LABELS,
    annotations=st.dictionaries(NAMES, TEXTS, max_size=3).map(FrozenMap),
)
PORTS = st.integers(1, 65535)


def few(items: st.SearchStrategy[Any], *, least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, min_size=least, max_size=3).map(tuple)


BACKENDS = st.builds(HTTPBackendRef, name=NAMES, port=PORTS, weight=st.integers(0, 1_000_000))
MATCHES = st.builds(
    HTTPRouteMatch,
    path=st.builds(
        HTTPPathMatch, type=st.sampled_from([PathKind.EXACT, PathKind.PREFIX]), value=NAMES.map("/{}".format)
    ),
    headers=st.lists(NAMES, unique=True, max_size=3).flatmap(
        lambda names: st.tuples(
            *(
                st.builds(HTTPHeaderMatch, name=st.just(name), type=st.just(ValueKind.EXACT), value=VISIBLE)
                for name in names
            )
        )
    ),
)
MIRRORS = st.builds(
    lambda name, port: HTTPRouteFilter(
        type="RequestMirror",  # pyright: ignore[reportArgumentType] # pydantic makes the enum of it
        request_mirror=HTTPRequestMirrorFilter(backend_ref=BackendObjectReference(name=name, port=port)),
    ),
    NAMES,
    PORTS,
)
RULES = st.builds(
    HTTPRouteRule,
    matches=few(MATCHES, least=1),
    filters=few(MIRRORS),
    backend_refs=few(BACKENDS),
    timeouts=st.none() | st.builds(HTTPRouteTimeouts, request=st.just("1m30s")),
)
ROUTES = st.builds(HTTPRoute, metadata=METAS, spec=st.builds(HTTPRouteSpec, rules=few(RULES, least=1)))
SERVICES = st.builds(
    Service,
    metadata=METAS,
    spec=st.builds(
        ServiceSpec,
        selector=LABELS,
        ports=st.builds(
            lambda port, target: (ServicePort(port=port, target_port=target),), PORTS, st.none() | PORTS | NAMES
        ),
    ),
)
POLICIES = st.builds(
    AuthorizationPolicy,
    metadata=METAS,
    spec=st.builds(
        AuthorizationPolicySpec,
        action=st.just(Decision.ALLOW),
        rules=few(
            st.builds(
                AuthorizationRule,
                from_=few(st.builds(lambda name: RuleFrom(source=Source(namespaces=(name,))), NAMES)),
                to=few(st.builds(lambda port: RuleTo(operation=Operation(ports=(str(port),))), PORTS)),
            )
        ),
    ),
)
WORKLOADS = st.builds(
    Workload,
    metadata=METAS,
    spec=st.builds(
        WorkloadSpec,
        address=st.ip_addresses(v=4, network="127.0.0.0/8").map(str),
        ports=st.builds(
            lambda port, mesh: (WorkloadPort(port=port, mesh_port=mesh, protocol=Protocol.HTTP),),
            PORTS,
            st.none() | PORTS,
        ),
        service_account=NAMES,
        dependencies=st.none() | st.just(()) | NAMES.map(lambda name: (name,)),
    ),
    status=st.none() | st.builds(WorkloadStatus, state=st.sampled_from(WorkloadState), reason=TEXTS),
)
SECRETS = st.builds(
    lambda meta, key: Secret(
        metadata=meta,
        type="kubernetes.io/tls",
        data=FrozenMap({"tls.crt": Hidden(b"cert"), "tls.key": Hidden(key)}),
    ),
    METAS,
    st.binary(max_size=40),
)
RESOURCES = ROUTES | SERVICES | POLICIES | WORKLOADS | SECRETS


@settings(max_examples=150, deadline=None)
@given(RESOURCES)
def test_a_resource_written_as_yaml_is_read_back_as_it_was(resource: Resource):
    loaded = load(dump(resource), file="dump.yaml")
    assert not loaded.errors
    assert loaded.resources == (resource,)


@settings(max_examples=150, deadline=None)
@given(RESOURCES)
def test_a_resource_written_as_json_is_read_back_as_it_was(resource: Resource):
    data = to_json(resource)
    assert from_json(data) == resource
    assert to_json(from_json(data)) == data
    assert load(data, file="dump.json").resources == (resource,)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_whatever_is_read_no_exception_escapes(text: str | bytes):
    load(text, file="fuzz.yaml")


LEAVES = st.none() | st.booleans() | st.integers(-5, 70000) | TEXTS
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
KINDS = st.sampled_from(
    [
        ("HTTPRoute", "gateway.networking.k8s.io/v1"), ("GRPCRoute", "gateway.networking.k8s.io/v1"),
        ("Gateway", "gateway.networking.k8s.io/v1"), ("Service", "v1"), ("EndpointSlice", "discovery.k8s.io/v1"),
        ("Secret", "v1"), ("AuthorizationPolicy", "security.istio.io/v1"), ("Workload", "masche.dev/v1"),
        ("PeerAuthentication", "security.istio.io/v1"), ("TrafficPolicy", "masche.dev/v1"),
    ]
)  # fmt: skip
FIELDS = st.sampled_from(
    ["rules", "matches", "filters", "backendRefs", "listeners", "ports", "from", "to", "when", "selector"]
)


@settings(max_examples=300, deadline=None)
@given(
    KINDS, st.dictionaries(FIELDS, TREES | st.lists(st.dictionaries(FIELDS, TREES, max_size=3), max_size=2), max_size=4)
)
def test_whatever_stands_in_a_resource_the_rules_never_fail(kind: tuple[str, str], spec: dict[str, Any]):
    import json

    document = {
        "kind": kind[0],
        "apiVersion": kind[1],
        "metadata": {"name": "a"},
        "spec": spec,
        "data": spec,
        "endpoints": spec,
    }
    loaded = load(json.dumps(document), file="fuzz.json")
    assert loaded.errors or loaded.resources


def test_what_a_newer_version_added_is_tolerated_in_the_store():
    data = to_json(MeshConfig.default()).replace(b'"metadata":{', b'"novelty":1,"metadata":{"more":{},')
    assert from_json(data) == MeshConfig.default()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"kind":"Deployment"}', b'{"kind":"Service"}', b"\xff"])
def test_what_is_no_resource_is_a_value_error(data: bytes):
    with pytest.raises(ValueError, match="no"):
        from_json(data)


def test_a_resource_cannot_be_changed_and_hashes_by_its_content():
    one = Service(metadata=ObjectMeta(name="a", namespace="b", labels=FrozenMap({"x": "y"})))
    same = Service(metadata=ObjectMeta(name="a", namespace="b", labels=FrozenMap({"x": "y"})))
    assert len({one, same, pickle.loads(pickle.dumps(one)), copy.deepcopy(one)}) == 1
    with pytest.raises(TypeError, match="cannot be changed"):
        one.metadata.labels["x"] = "z"
    with pytest.raises(ValueError, match="frozen"):
        one.spec = ServiceSpec()  # pyright: ignore[reportAttributeAccessIssue] # the attempt is the test
    assert repr(one) == "<Service/b/a>"


@pytest.mark.parametrize(
    ("text", "wanted"), [("500ms", 0.5), ("1h30m", 5400.0), ("0s", 0.0), ("1m1s1ms", 61.001), ("10s", 10.0)]
)
def test_a_duration_is_read_in_seconds(text: str, wanted: float):
    assert seconds(text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", "1", "1d", "1.5s", "-1s", "100us", "1s ", "123456s", "1s1s1s1s1s", "１s"])
def test_what_is_no_duration_is_a_value_error(text: str):
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)
