"""The page about TrafficPolicy says of every field what the schema, the ranges and the defaults say, and no more."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from masche.compiler.trafficpolicy import HASH_ON, told
from masche.model.calling import UNSAID
from masche.model.resources.meta import camel
from masche.model.resources.traffic_policy import TrafficSettings
from masche.model.validate_traffic import NUMBERS, TIMES, range_of
from masche.model.yaml import load

PAGE = (Path(__file__).parents[2] / "docs/traffic-policy.md").read_text()
ROWS = {
    place: (allowed, default)
    for place, allowed, default in re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \|", PAGE, re.M)
}


def places(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every field by its place on paper; a key of a hash is one."""
    for name, field in model.model_fields.items():
        place = f"{prefix}{camel(name)}"
        types = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
        inner = next((each for each in types if issubclass(each, BaseModel)), None)
        if inner and place != HASH_ON:
            yield from places(inner, f"{place}.")
        else:
            yield place


def test_every_field_of_the_schema_has_a_row_and_no_other_has():
    assert sorted(ROWS) == sorted(places(TrafficSettings))


def test_every_range_and_every_default_is_the_one_that_holds():
    assert {place: allowed for place, (allowed, _) in ROWS.items() if place in NUMBERS or place in TIMES} == {
        place: range_of(place) for place in (*NUMBERS, *TIMES)
    }
    assert {place: default for place, (_, default) in ROWS.items() if place != HASH_ON} == dict(told(UNSAID))


def test_describing_a_service_shows_every_field():
    assert {place for place, _ in told(UNSAID)} | {HASH_ON} == set(places(TrafficSettings))


def test_the_example_is_valid_and_draws_no_remark():
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    loaded = load(example, file="example.yaml")
    assert loaded.resources
    assert not loaded.diagnostics
