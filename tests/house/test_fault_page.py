"""The page about FaultPolicy has every field, the ranges that hold, and an example that is accepted."""

import re
from pathlib import Path

from masche.model.resources.fault_policy import FaultPolicySpec
from masche.model.resources.meta import camel
from masche.model.validate_faults import LEAST_STATUS, LEAST_TIME, MOST_STATUS, MOST_TIME
from masche.model.yaml import load

PAGE = (Path(__file__).parents[2] / "docs/fault-policy.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.M))


def test_every_field_has_a_row_and_no_other_has():
    assert set(ROWS) == {camel(name) for name in FaultPolicySpec.model_fields}


def test_the_ranges_are_those_that_hold():
    assert (LEAST_TIME, MOST_TIME) == (0.001, 60.0)
    assert "`time` of 1ms to 1m" in ROWS["delay"]
    assert f"`status` of {LEAST_STATUS} to {MOST_STATUS}" in ROWS["abort"]


def test_the_example_is_valid_and_draws_no_remark():
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    loaded = load(example, file="example.yaml")
    assert loaded.resources
    assert not loaded.diagnostics
