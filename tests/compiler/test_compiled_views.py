"""What a View depends on, and what it does not."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import a_mesh, route, service, standing, workload

from masche.compiler.impact import affected
from masche.compiler.replay import explain
from masche.compiler.selection import Roster
from masche.compiler.view import statuses, view
from masche.compiler.why import Call, Outcome
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name, Ref
from masche.model.resources.workload import Workload
from masche.model.view import Forward, Route, View

BASE = service("orders") + service("old") + service("new") + workload("web-1", "web") + workload("orders-1", "orders")
STORIES = sorted((Path(__file__).parent.parent / "stories").glob("*/mesh.yaml"))


def every_view(mesh: Mesh) -> dict[Name, View]:
    return {name: view(mesh, standing(mesh, name.name, name.namespace)) for name in mesh.workloads}


def winner(mesh: Mesh) -> str:
    """To which Service the first route of orders leads."""
    [table] = [way.routes for way in view(mesh, standing(mesh, "web-1")).outbound if way.service.service == "orders"]
    return leads_to(table[0])


def leads_to(found: Route) -> str:
    assert isinstance(found.action, Forward)
    cluster = found.action.backends[0].cluster
    assert cluster
    return cluster.service


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.parent.name)
def test_the_order_in_which_resources_came_changes_nothing(path: Path):
    text = path.read_text()
    documents = text.split("\n---\n")
    random.Random(path.parent.name).shuffle(documents)
    mesh, shuffled = a_mesh(text), a_mesh("\n---\n".join(documents))
    assert every_view(mesh) == every_view(shuffled)
    assert statuses(mesh) == statuses(shuffled)


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.parent.name)
def test_addresses_and_states_of_workloads_change_no_view(path: Path):
    mesh = a_mesh(path.read_text())
    moved = {
        name: Workload.model_validate(
            {
                "metadata": each.metadata,
                "spec": each.spec.model_copy(update={"address": "10.9.8.7"}),
                "status": {"state": "DRAINING"},
            }
        )
        for name, each in mesh.workloads.items()
    }
    assert every_view(mesh) == every_view(replace(mesh, workloads=moved))


def test_two_workloads_that_nothing_tells_apart_stand_at_one_vantage():
    mesh = a_mesh(BASE + workload("web-2", "web", labels=", team: blue") + workload("web-3", "web", spec=", zone: b"))
    assert standing(mesh, "web-1") == standing(mesh, "web-2") != standing(mesh, "web-3")
    assert standing(mesh, "web-1").labels == (("app", "web"),)


def test_a_label_that_a_policy_selects_on_counts():
    policy = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: blue}
spec: {selector: {matchLabels: {team: blue}}}
"""
    mesh = a_mesh(BASE + workload("web-2", "web", labels=", team: blue") + policy)
    assert standing(mesh, "web-2").labels == (("app", "web"), ("team", "blue"))
    assert [each.name for each in view(mesh, standing(mesh, "web-2")).inbound.policies] == ["shop/blue"]
    assert not view(mesh, standing(mesh, "web-1")).inbound.policies


def test_equal_parts_of_different_views_are_the_same_object():
    mesh = a_mesh(BASE)
    one, other = view(mesh, standing(mesh, "web-1")), view(mesh, standing(mesh, "orders-1"))
    assert all(mine is theirs for mine, theirs in zip(one.outbound, other.outbound, strict=True))
    assert all(mine is theirs for mine, theirs in zip(one.clusters, other.clusters, strict=True))


def test_every_destination_of_a_view_has_its_cluster_and_an_identity():
    mesh = a_mesh(BASE + route("r", "[{backendRefs: [{name: old, port: 80}, {name: missing, port: 80}]}]"))
    told = view(mesh, standing(mesh, "web-1"))
    assert {each.service.service for each in told.clusters} == {"old", "new"}
    assert all(each.identities for each in told.clusters)
    assert told.clusters[0].identities == ("spiffe://mesh.local/ns/shop/sa/new",)


def test_a_backend_that_is_not_there_keeps_its_share_and_the_explanation_says_so():
    mesh = a_mesh(
        BASE
        + workload("new-1", "new")
        + route("r", "[{backendRefs: [{name: new, port: 80, weight: 3}, {name: missing, port: 80}]}]")
    )
    found = explain(mesh, mesh.workloads[Name("shop", "web-1")], Call(host="orders"))
    assert (found.outcome, found.status) == (Outcome.REFUSED, 500)
    assert found.summary == "25 % of such requests go to a backend that cannot be resolved"


def test_a_server_name_without_a_certificate_gets_no_answer_at_all():
    mesh = a_mesh((STORIES[0].parent.parent / "gateway-https" / "mesh.yaml").read_text())
    edge = mesh.workloads[Name("shop", "edge-1")]
    found = explain(mesh, edge, Call(host="example.org", port=443), gateway=Name("shop", "secure"))
    assert (found.outcome, found.status) == (Outcome.NO_ROUTE, 0)


LEVELS = [
    ("an exact path before a longer prefix", "[{path: {type: Exact, value: /a}}]", "[{path: {value: /a/b/c}}]"),
    ("a longer prefix", "[{path: {value: /a/b}}]", "[{path: {value: /a}, method: GET}]"),
    ("a method", "[{path: {value: /a}, method: GET}]", "[{path: {value: /a}, headers: [{name: x, value: y}]}]"),
    (
        "more headers",
        "[{headers: [{name: x, value: y}]}]",
        "[{queryParams: [{name: a, value: b}, {name: c, value: d}]}]",
    ),
    ("more query parameters", "[{queryParams: [{name: a, value: b}]}]", "[{path: {value: /}}]"),
    (
        "a regular expression before a prefix",
        "[{path: {type: RegularExpression, value: /a}}]",
        "[{path: {value: /a/b}}]",
    ),
]


@pytest.mark.parametrize(("new", "old"), [level[1:] for level in LEVELS], ids=[level[0] for level in LEVELS])
def test_the_more_specific_match_is_asked_first(new: str, old: str):
    def rules(backend: str, matches: str) -> str:
        return f"[{{matches: {matches}, backendRefs: [{{name: {backend}, port: 80}}]}}]"

    young, ancient = "2025-01-01T00:00:00Z", "2020-01-01T00:00:00Z"
    mesh = a_mesh(BASE + route("a", rules("old", old), ancient) + route("b", rules("new", new), young))
    assert winner(mesh) == "new"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("b", "2024-01-01T00:00:00Z"), ("a", "2024-01-02T00:00:00Z")),
        (("b", "2024-01-01T00:00:00Z"), ("a", "")),
        (("a", "2024-01-01T00:00:00Z"), ("b", "2024-01-01T00:00:00Z")),
        (("a", ""), ("b", "")),
    ],
    ids=["the older", "the one with a timestamp", "alphabetical of the same age", "alphabetical without age"],
)
def test_among_equal_matches_the_senior_route_decides(one: tuple[str, str], other: tuple[str, str]):
    to_new, to_old = (f"[{{backendRefs: [{{name: {name}, port: 80}}]}}]" for name in ("new", "old"))
    first, second = route(one[0], to_new, one[1]), route(other[0], to_old, other[1])
    assert winner(a_mesh(BASE + first + second)) == winner(a_mesh(BASE + second + first)) == "new"


def test_hostnames_of_a_route_inside_the_mesh_are_ignored():
    text = route("r", "[{backendRefs: [{name: new, port: 80}]}]", more="hostnames: [elsewhere.example]")
    assert winner(a_mesh(BASE + text)) == "new"


POLICY = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{to: [{operation: {paths: [/admin]}}]}]
"""


def test_what_would_be_told_otherwise_is_said_in_sentences():
    before = a_mesh(BASE)
    after = a_mesh(BASE.replace("name: old", "name: older") + route("r", "[{backendRefs: [{name: new, port: 80}]}]"))
    move = standing(before, "web-1"), standing(after, "web-1")
    assert affected(before, after, [move]) == {
        move: (
            "calls to shop/old:80: removed",
            "calls to shop/older:80: added",
            "calls to shop/orders:80: changed",
            "the connection to shop/old:80: removed",
            "the connection to shop/older:80: added",
            "the connection to shop/orders:80: removed",
        )
    }


def test_a_change_elsewhere_reaches_nobody():
    before = a_mesh(BASE)
    after = a_mesh(BASE + workload("lonely-1", "lonely"))
    moves = [(standing(before, name), standing(after, name)) for name in ("web-1", "orders-1")]
    assert affected(before, after, moves) == {}


def test_a_policy_reaches_whom_it_is_the_first_to_tell_apart():
    before = a_mesh(BASE)
    after = a_mesh(BASE + POLICY)
    moves = {name: (standing(before, name), standing(after, name)) for name in ("web-1", "orders-1")}
    told = affected(before, after, moves.values())
    assert list(told) == [moves["orders-1"]]
    assert any("policy" in sentence for sentence in told[moves["orders-1"]])


def test_a_status_says_what_a_policy_does_not_do():
    mesh = a_mesh(
        BASE
        + """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {selector: {matchLabels: {app: nobody}}}
"""
    )
    [found] = [each for each in statuses(mesh) if each.ref == Ref(Kind.AUTHORIZATION_POLICY, "shop", "nobody")]
    assert [each.code for each in found.diagnostics] == ["selects-nobody"]


TABLES = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.sampled_from(["x", "y", ""]), st.integers(0, 2)), max_size=6
)


def a_table(drawn: dict[str, tuple[str, int]]) -> dict[Name, Workload]:
    made = [
        Workload.model_validate(
            {
                "metadata": {"name": name, "namespace": "shop", "labels": {"app": app} if app else {}},
                "spec": {"address": f"127.0.0.{number}"},
            }
        )
        for name, (app, number) in drawn.items()
    ]
    return {each.name: each for each in made}


@given(st.lists(TABLES, min_size=1, max_size=5))
def test_a_roster_that_took_over_equals_one_made_afresh(tables: list[dict[str, tuple[str, int]]]):
    mesh = a_mesh(service("x") + service("y"))
    roster = Roster.of({})
    for drawn in tables:
        table = a_table(drawn)
        roster = roster.after(table)
        for each in mesh.services.values():
            assert roster.members(each) == Roster.of(table).members(each)
