"""The page about RateLimitPolicy has every field, the ranges that hold, and an example that is accepted."""

import re
from pathlib import Path

from masche.model.limits import MOST_KEYS
from masche.model.resources.meta import camel
from masche.model.resources.rate_limit_policy import LocalLimit, RateLimitPolicySpec
from masche.model.validate_limits import MOST_REQUESTS
from masche.model.yaml import load

PAGE = (Path(__file__).parents[2] / "docs/rate-limits.md").read_text()
ROWS = dict(re.findall(r"^\| (`.*?`) \| (.*?) \|", PAGE, re.M))


def test_every_field_has_a_row_and_no_other_has():
    fields = {camel(name) for name in RateLimitPolicySpec.model_fields}
    fields |= {f"local[].{camel(name)}" for name in LocalLimit.model_fields}
    assert {name for row in ROWS for name in re.findall(r"`(.+?)`", row)} == fields


def test_the_ranges_are_those_that_hold():
    for field in ("requests", "burst"):
        assert ROWS[f"`local[].{field}`"] == f"1 to {MOST_REQUESTS}"
    assert ROWS["`local[].per`"] == "50ms to 24h"
    assert f"{MOST_KEYS} buckets" in PAGE


def test_the_example_is_valid_and_draws_no_remark():
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    loaded = load(example, file="example.yaml")
    assert loaded.resources
    assert not loaded.diagnostics
