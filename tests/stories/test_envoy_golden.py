"""What Envoy is told in each story is what was reviewed, and nothing that every proxy must carry is missing from it."""

import pytest
import yaml

from stories.loader import golden, names, story


@pytest.mark.parametrize("name", names())
def test_a_story_is_encoded_to_its_golden_file(name: str):
    written = (story(name).folder / "envoy.yaml").read_text()
    assert golden(name)["envoy.yaml"] == written, f"{name}/envoy.yaml differs; `make accept` rewrites it"


@pytest.mark.parametrize("name", names())
def test_every_listener_and_connection_manager_of_a_story_carries_what_all_must(name: str):
    found = yaml.load((story(name).folder / "envoy.yaml").read_text(), Loader=yaml.CSafeLoader)
    listeners = [each["is"] for each in found if each["resource"].startswith("Listener ")]
    assert listeners
    assert all(each["as"] == ["every listener"] for each in listeners if "internal_listener" not in each)
    managers = [*_managers(listeners)]
    assert managers
    assert all(any(name.startswith("every connection manager") for name in each["as"]) for each in managers)


def _managers(value):
    """Every connection manager in a body."""
    if isinstance(value, list):
        for each in value:
            yield from _managers(each)
    elif isinstance(value, dict):
        if str(value.get("@type", "")).endswith(".HttpConnectionManager"):
            yield value
        for each in value.values():
            yield from _managers(each)
