"""What a FaultPolicy may say: every field has a range and a cure."""

from typing import Any

import pytest
import yaml

from masche.model.resources.fault_policy import FaultPolicy
from masche.model.yaml import Loaded, load

ORDERS = [{"kind": "Service", "name": "orders"}]
WAIT, FAIL = {"time": "2s", "percent": 10}, {"status": 503, "percent": 0.5}


def read(**spec: Any) -> Loaded:
    document = {"apiVersion": "masche.dev/v1", "kind": "FaultPolicy", "metadata": {"name": "a"}, "spec": spec}
    return load(yaml.safe_dump(document), file="f.yaml")


def test_everything_that_a_policy_may_say_is_read():
    headers = [{"name": "x-test", "value": "1"}, {"type": "RegularExpression", "name": "x-who", "value": "a|b"}]
    loaded = read(targetRefs=ORDERS, delay=WAIT, abort=FAIL, headers=headers)
    [policy] = loaded.resources
    assert not loaded.diagnostics
    assert isinstance(policy, FaultPolicy)


@pytest.mark.parametrize(
    ("spec", "place", "why"),
    [
        ({"delay": WAIT}, "spec.targetRefs", "Required value"),
        ({"targetRefs": [], "delay": WAIT}, "spec.targetRefs", "at least 1 items"),
        ({"targetRefs": ORDERS}, "spec", "does nothing"),
        ({"targetRefs": [*ORDERS, *ORDERS], "abort": FAIL}, "spec.targetRefs[1]", "Duplicate value"),
        ({"targetRefs": [{"kind": "Gateway", "name": "a"}], "abort": FAIL}, "spec.targetRefs[0]", "kind Gateway"),
        ({"targetRefs": ORDERS, "delay": {**WAIT, "time": "0s"}}, "spec.delay.time", "out of range"),
        ({"targetRefs": ORDERS, "delay": {**WAIT, "time": "61s"}}, "spec.delay.time", "out of range"),
        ({"targetRefs": ORDERS, "delay": {"time": "1s"}}, "spec.delay.percent", "Required value"),
        ({"targetRefs": ORDERS, "delay": {**WAIT, "percent": 101}}, "spec.delay.percent", "less than or equal to 100"),
        ({"targetRefs": ORDERS, "abort": {**FAIL, "status": 200}}, "spec.abort.status", "no answer of a failure"),
        (
            {
                "targetRefs": ORDERS,
                "abort": FAIL,
                "headers": [{"name": "a", "value": "(", "type": "RegularExpression"}],
            },
            "spec.headers[0].value",
            "",
        ),
    ],
)
def test_what_no_placement_could_carry_out_is_refused(spec: dict[str, Any], place: str, why: str):
    [found] = read(**spec).errors
    assert found.where == f"FaultPolicy/default/a {place}"
    assert why in found.why
    assert found.fix
