"""Every story: what the mesh is compiled to, what its authors are told, and what becomes of each request."""

import pytest

from masche.compiler.replay import explain
from masche.compiler.why import Explanation, Outcome
from masche.traffic.request import Request
from stories.loader import Asked, golden, names, story

REQUESTS = [pytest.param(name, asked, id=f"{name}: {asked}") for name in names() for asked in story(name).requests]


def test_there_are_stories_enough():
    assert len(names()) >= 22


@pytest.mark.parametrize("name", names())
def test_a_story_compiles_to_its_golden_files(name: str):
    for file, text in golden(name).items():
        assert (story(name).folder / file).read_text() == text, f"{name}/{file} differs; `make accept` rewrites it"


@pytest.mark.parametrize(("name", "asked"), REQUESTS)
def test_a_request_of_a_story_meets_its_verdict(name: str, asked: Asked):
    mesh = story(name).mesh
    found = explain(mesh, mesh.workloads[asked.source], asked.call, gateway=asked.gateway)
    said = "\n".join(step.sentence for step in found.steps)
    assert {key: _found(found, key, value) for key, value in asked.expect.items()} == asked.expect, said


@pytest.mark.parametrize(("name", "asked"), REQUESTS)
def test_the_chain_of_an_explanation_ends_where_it_was_decided(name: str, asked: Asked):
    mesh = story(name).mesh
    found = explain(mesh, mesh.workloads[asked.source], asked.call, gateway=asked.gateway)
    assert found.steps[-1].is_passed is (found.outcome is Outcome.ALLOWED)
    assert all(step.is_passed for step in found.steps[:-1])
    assert found.summary == found.steps[-1].sentence


def _found(explanation: Explanation, key: str, expected: object) -> object:
    """What an explanation says about one expectation; ``status`` 200 is the application's own answer."""
    request = explanation.request or Request(target="")
    said: dict[str, object] = {
        "status": explanation.status or (200 if explanation.outcome is Outcome.ALLOWED else 0),
        "outcome": explanation.outcome.value,
        "backend": str(explanation.service),
        "rule": explanation.rule,
        "location": explanation.location,
        "mirrors": [str(each) for each in explanation.mirrors],
        "path": request.target,
        "authority": request.authority,
    }
    if key == "headers":
        assert isinstance(expected, dict)
        return {name: ",".join(request.values(name)) or None for name in expected}
    return said[key]
