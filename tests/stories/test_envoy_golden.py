"""What Envoy is told in each story is what was reviewed, and nothing that every proxy must carry is missing from it."""

import pytest
import yaml

from masche.compiler.envoy import peer
from stories.loader import ON_ONE_NODE, golden, names, story


@pytest.mark.parametrize("name", names())
def test_a_story_is_encoded_to_its_golden_file(name: str):
    written = (story(name).folder / "envoy.yaml").read_text()
    assert golden(name)["envoy.yaml"] == written, f"{name}/envoy.yaml differs; `make accept` rewrites it"


@pytest.mark.parametrize("name", sorted(ON_ONE_NODE))
def test_a_story_on_one_node_is_encoded_to_its_golden_file(name: str):
    written = (story(name).folder / "node.yaml").read_text()
    assert golden(name)["node.yaml"] == written, f"{name}/node.yaml differs; `make accept` rewrites it"


@pytest.mark.parametrize("name", sorted(ON_ONE_NODE))
def test_what_tells_workloads_apart_is_hashable_on_every_listener_of_a_node(name: str):
    found = yaml.safe_load((story(name).folder / "node.yaml").read_text())
    captures = [each["is"] for each in found if each["resource"].startswith("Listener capture/")]
    assert captures
    for listener in captures:
        for chain in listener["filter_chains"]:
            states = {each["object_key"]: each for each in _states(chain)}
            assert {peer.CERTIFICATE, peer.PEER, peer.SOURCE} <= states.keys(), chain["name"]
            assert states[peer.CERTIFICATE]["shared_with_upstream"] == "TRANSITIVE"
            for key in (peer.CERTIFICATE, peer.PEER, peer.SOURCE):
                assert states[key]["factory_key"] == "envoy.hashable_string", key


def _states(value):
    """Every piece of filter state that a body sets."""
    if isinstance(value, list):
        for each in value:
            yield from _states(each)
    elif isinstance(value, dict):
        if "object_key" in value:
            yield value
        for each in value.values():
            yield from _states(each)


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
