"""Loading says everything that is wrong in one pass, each with a place, a reason and a cure."""

import gc
import json
import time

import pytest

from masche.model.diagnostic import Severity
from masche.model.refs import Kind, Name, Ref
from masche.model.yaml import Loaded, is_valid, load, load_many

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80}]}
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: cart
  namespace: shop
spec:
  parentRef:
  - name: x
  rules:
  - matches:
    - path: {type: Prefix, value: /a}
    - method: get
    backendRefs:
    - name: cart
      port: "80"
      weight: -1
    - nam: other
"""


def codes(loaded: Loaded) -> list[str]:
    return [found.code for found in loaded.diagnostics]


def test_every_error_of_a_document_is_found_in_one_pass_with_its_place():
    loaded = load(ROUTE, file="cart.yaml")
    found = {found.where: (found.code, str(found.place)) for found in loaded.errors}
    prefix = "HTTPRoute/shop/cart spec"
    assert found == {
        f"{prefix}.parentRef": ("invalid-field", "cart.yaml:7:3"),
        f"{prefix}.rules[0].matches[0].path.type": ("invalid-value", "cart.yaml:11:20"),
        f"{prefix}.rules[0].matches[1].method": ("invalid-value", "cart.yaml:12:15"),
        f"{prefix}.rules[0].backendRefs[0].port": ("invalid-type", "cart.yaml:15:13"),
        f"{prefix}.rules[0].backendRefs[0].weight": ("invalid-value", "cart.yaml:16:15"),
        f"{prefix}.rules[0].backendRefs[1].name": ("invalid-missing", "cart.yaml:17:7"),
        f"{prefix}.rules[0].backendRefs[1].nam": ("invalid-field", "cart.yaml:17:7"),
        f"{prefix}.rules[0].backendRefs[1]": ("invalid-missing", "cart.yaml:17:7"),
    }
    assert all(error.fix and error.why and error.ref == Ref(Kind.HTTP_ROUTE, "shop", "cart") for error in loaded.errors)
    assert not loaded.resources


@pytest.mark.parametrize(
    ("where", "cure"),
    [
        ("spec.parentRef", "did you mean parentRefs?"),
        ("spec.rules[0].matches[0].path.type", "did you mean PathPrefix?"),
        ("spec.rules[0].matches[1].method", "did you mean GET?"),
        ("spec.rules[0].backendRefs[0].port", "leave out the quotation marks"),
        ("spec.rules[0].backendRefs[1].nam", "did you mean name?"),
    ],
)
def test_what_is_misspelt_is_answered_with_what_exists(where: str, cure: str):
    found = {found.where.split(" ")[1]: found.fix for found in load(ROUTE, file="cart.yaml").errors}
    assert cure in found[where]


def test_a_syntax_error_in_one_document_hides_nothing_of_the_others():
    loaded = load(f"{SERVICE}---\na: b: c\n---\n{ROUTE}", file="f.yaml")
    assert len(loaded.resources) == 1
    assert "invalid-yaml" in codes(loaded)
    assert "invalid-field" in codes(loaded)
    assert next(found for found in loaded.errors if found.code == "invalid-yaml").place.line == 7


def test_a_tab_is_answered_with_spaces_and_a_wrong_form_with_how_it_is_written():
    tab = "apiVersion: v1\nkind: Service\nmetadata:\n\tname: a\n"
    assert [found.fix for found in load(tab, file="f.yaml").errors] == ["indent with spaces"]
    assert [found.place.line for found in load("---\n" + tab, file="f.yaml").errors] == [5]
    assert [found.fix for found in load("---\n" + tab, file="f.yaml").errors] == ["indent with spaces"]
    policy = "apiVersion: masche.dev/v1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec: {timeouts: {request: soon}}\n"
    assert "write 500ms, 2s or 1h30m" in [found.fix for found in load(policy, file="f.yaml").errors]


def test_a_duplicate_key_names_its_first_place_and_refuses_the_resource():
    loaded = load("apiVersion: v1\nkind: Namespace\nkind: Service\nmetadata: {name: a}\n", file="f.yaml")
    assert not loaded.resources
    (error,) = loaded.errors
    assert error.why == "the key 'kind' stands twice (first in line 2)"
    assert str(error.place) == "f.yaml:3:1"


def test_an_unknown_kind_is_answered_with_the_kinds_that_exist():
    (error,) = load("apiVersion: v1\nkind: Servise\nmetadata: {name: a}\n", file="f.yaml").errors
    assert "the kinds are Namespace, Service, EndpointSlice" in error.why
    assert error.fix == "did you mean Service?"


@pytest.mark.parametrize(
    ("version", "cure"),
    [("v2", "apiVersion: v1"), ("apps/v1", "apiVersion: v1")],
)
def test_a_wrong_version_or_group_is_answered_with_the_right_one(version: str, cure: str):
    (error,) = load(f"apiVersion: {version}\nkind: Service\nmetadata: {{name: a}}\n", file="f.yaml").errors
    assert error.code == "invalid-kind"
    assert cure in error.fix


@pytest.mark.parametrize(
    ("kind", "version", "words"),
    [
        ("Deployment", "apps/v1", "masche does not run workloads"),
        ("UDPRoute", "gateway.networking.k8s.io/v1", "UDPRoute is not carried out yet"),
        ("RequestAuthentication", "security.istio.io/v1", "RequestAuthentication is not carried out yet"),
        ("VirtualService", "networking.istio.io/v1", "VirtualService is not carried out"),
    ],
)
def test_what_others_know_and_masche_does_not_do_is_refused_and_says_so(kind: str, version: str, words: str):
    loaded = load(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n", file="f.yaml")
    (error,) = loaded.errors
    assert error.code == "not-carried-out"
    assert words in error.why
    assert is_valid(loaded.diagnostics)
    assert not loaded.resources


def test_a_list_is_unfolded_and_its_items_keep_their_places():
    item = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "A"}})
    text = f"apiVersion: v1\nkind: List\nitems:\n- {item}\n"
    (error,) = load(text, file="f.yaml").errors
    assert error.place.line == 4
    assert "metadata.name" in error.where


def test_json_is_read_with_its_escapes():
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "cart", "namespace": "shop", "annotations": {"note": "\U0001f600 / \\ud83d\ttab"}},
        "spec": {"ports": [{"port": 80}]},
    }
    loaded = load(json.dumps(document).replace("/", "\\/", 1), file="f.json")
    assert not loaded.diagnostics
    assert loaded.resources[0].metadata.annotations == {"note": "\U0001f600 / \\ud83d\ttab"}


def test_a_resource_without_a_namespace_gets_the_one_that_the_caller_names():
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n"
    assert load(text, file="f").resources[0].name == Name("default", "a")
    assert load(text, file="f", namespace="shop").resources[0].name == Name("shop", "a")


def test_a_cluster_scoped_resource_in_a_namespace_is_refused():
    (error,) = load("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n", file="f").errors
    assert error.why == "a Namespace lives in no namespace"


def test_the_same_resource_twice_is_refused_across_files():
    loaded = load_many([("a.yaml", SERVICE), ("b.yaml", SERVICE)])
    assert len(loaded.resources) == 1
    (error,) = loaded.errors
    assert error.code == "invalid-duplicate"
    assert error.place.file == "b.yaml"


def test_what_kubernetes_adds_to_every_object_is_accepted_with_a_warning():
    text = SERVICE.replace(
        "namespace: shop", "namespace: shop, uid: abc, creationTimestamp: null, resourceVersion: '1'"
    )
    loaded = load(f"{text}status: {{loadBalancer: {{}}}}\n", file="f.yaml")
    assert len(loaded.resources) == 1
    assert {found.severity for found in loaded.diagnostics} == {Severity.WARNING}
    assert len(loaded.diagnostics) == 3


def test_words_of_older_yaml_are_text():
    text = SERVICE.replace("namespace: shop", "annotations: {a: no, b: 1:30, c: 2020-01-01}")
    loaded = load(text, file="f.yaml")
    assert loaded.resources[0].metadata.annotations == {"a": "no", "b": "1:30", "c": "2020-01-01"}


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "---\n---\n...\n"])
def test_nothing_is_no_error(text: str):
    assert load(text, file="f.yaml") == Loaded()


@pytest.mark.parametrize("text", ["hello", "- a", "42", "[1]"])
def test_what_is_no_map_is_no_resource(text: str):
    assert codes(load(text, file="f.yaml")) == ["invalid-document"]


def test_a_label_that_is_a_number_is_told_to_stand_in_quotation_marks():
    text = SERVICE.replace("namespace: shop", "namespace: shop, labels: {version: 1.20}")
    (error,) = load(text, file="f.yaml").errors
    assert error.fix == "put the value in quotation marks"
    assert error.where == "Service/shop/cart metadata.labels.version"


@pytest.mark.parametrize("written", ["5", "1.5", "true"])
def test_a_time_without_a_unit_is_told_how_times_are_written(written: str):
    """Quotation marks alone would only lead to the next error."""
    text = f"""apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {{name: a, namespace: shop}}
spec: {{targetRefs: [{{kind: Service, name: cart}}], timeouts: {{request: {written}}}}}
"""
    (error,) = load(text, file="f.yaml").errors
    assert error.fix == "write 500ms, 2s or 1h30m"


def test_three_hundred_documents_are_read_in_well_under_half_a_second_and_the_collector_is_on_again():
    document = ROUTE.replace("parentRef:", "parentRefs:").replace("type: Prefix", "type: PathPrefix")
    document = document.replace("method: get", "method: GET").replace('"80"', "80").replace("-1", "1")
    document = document.replace("    - nam: other\n", "")
    text = "---\n".join(document.replace("name: cart\n  namespace", f"name: r{i}\n  namespace") for i in range(300))
    took: list[float] = []  # seconds of this process, not of the machine, which may have other things to do
    for _ in range(3):
        began = time.process_time()
        loaded = load(text, file="f.yaml")
        took.append(time.process_time() - began)
        assert len(loaded.resources) == 300
    assert min(took) < 0.5
    assert gc.isenabled()
