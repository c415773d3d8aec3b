"""What a RateLimitPolicy may say: every field has a range and a cure, and what is not carried out is refused."""

from typing import Any

import pytest
import yaml

from masche.model.resources.rate_limit_policy import RateLimitPolicy
from masche.model.yaml import Loaded, load

EVERYTHING = """
apiVersion: masche.dev/v1
kind: RateLimitPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs:
  - {kind: Service, name: orders}
  - {group: gateway.networking.k8s.io, kind: Gateway, name: public}
  local:
  - {requests: 100, per: 1s}
  - requests: 10
    per: 1m
    burst: 20
    matches:
    - {path: {type: Exact, value: /v1}, method: POST, headers: [{name: x-mode, value: heavy}]}
    - {path: {value: /v2}, headers: [{type: RegularExpression, name: x-mode, value: "a|b"}]}
    key: {type: Header, name: x-tenant}
  - {requests: 1, per: 50ms, key: {type: Client}}
"""


def read(spec: dict[str, Any]) -> Loaded:
    document = {"apiVersion": "masche.dev/v1", "kind": "RateLimitPolicy", "metadata": {"name": "a"}, "spec": spec}
    return load(yaml.safe_dump(document), file="f.yaml")


def limit(**more: Any) -> dict[str, Any]:
    return {"local": [{"requests": 1, "per": "1s", **more}]}


def test_everything_that_a_policy_may_say_is_read():
    loaded = load(EVERYTHING, file="f.yaml")
    [policy] = loaded.resources
    assert not loaded.diagnostics
    assert isinstance(policy, RateLimitPolicy)
    assert [each.requests for each in policy.spec.local] == [100, 10, 1]


@pytest.mark.parametrize(
    ("spec", "place", "why"),
    [
        ({}, "spec.local", "Required value"),
        ({"local": []}, "spec.local", "at least 1 items"),
        (limit(requests=0), "spec.local[0].requests", "out of range"),
        (limit(requests=1_000_001), "spec.local[0].requests", "out of range"),
        (limit(burst=0), "spec.local[0].burst", "out of range"),
        (limit(per="49ms"), "spec.local[0].per", "out of range"),
        (limit(per="24h1ms"), "spec.local[0].per", "out of range"),
        (limit(per="fast"), "spec.local[0].per", "should match"),
        (limit(key={"type": "Header"}), "spec.local[0].key", "needs a name"),
        (limit(key={"type": "Client", "name": "a"}), "spec.local[0].key.name", "has no name"),
        (limit(key={"type": "Header", "name": "Host"}), "spec.local[0].key.name", "authority"),
        (limit(key={"type": "Cookie"}), "spec.local[0].key.type", "Unsupported value"),
        (limit(matches=[{"queryParams": []}]), "spec.local[0].matches[0].queryParams", "not carried out"),
        (limit(matches=[{"path": {"value": "v1"}}]), "spec.local[0].matches[0].path.value", "start with '/'"),
        (
            limit(matches=[{"path": {"type": "RegularExpression", "value": "/a"}}]),
            "spec.local[0].matches[0].path.type",
            "Unsupported value",
        ),
        ({**limit(), "global": {}}, "spec.global", "that instances count together is not carried out"),
        ({**limit(), "targetRef": {}}, "spec.targetRef", "not carried out"),
        (
            {**limit(), "selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{"kind": "Service", "name": "a"}]},
            "spec.targetRefs",
            "only one of targetRefs or selector",
        ),
        ({**limit(), "targetRefs": [{"kind": "Pod", "name": "a"}]}, "spec.targetRefs[0]", "a target of kind Pod"),
    ],
)
def test_what_no_placement_could_carry_out_is_refused(spec: dict[str, Any], place: str, why: str):
    [found] = read(spec).errors
    assert found.where == f"RateLimitPolicy/default/a {place}"
    assert why in found.why
    assert found.fix


@pytest.mark.parametrize(("written", "fix"), [("ten", "write a whole number"), ("10", "leave out the quotation marks")])
def test_a_word_where_a_number_belongs_is_not_taken_for_a_number_in_quotation_marks(written: str, fix: str) -> None:
    assert [each.fix for each in read(limit(requests=written)).errors] == [fix]
