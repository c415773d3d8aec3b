"""An Envoy refuses a configuration: what was good goes on, everybody is told in its own words, and it heals. B1, B2.

What passes our validation and fails at Envoy is what only the machine knows: a port that somebody else has.
"""

import json
import socket
from collections.abc import Generator
from dataclasses import dataclass

import pytest

from e2e.calling import call, status_of
from e2e.load import Load
from e2e.mesh import Instance, Mesh, free_port, service
from e2e.waiting import until

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  gatewayClassName: masche
  listeners: [{listeners}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: front, namespace: shop}}
spec:
  parentRefs: [{{name: edge}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-edition, value: "{edition}"}}]}}
    backendRefs: [{{name: orders, port: 80}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: inside, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, group: "", name: orders}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-edition, value: "{edition}"}}]}}
    backendRefs: [{{name: orders, port: 80}}]
"""


def gateway(edition: str, *ports: int) -> str:
    listeners = ", ".join(f"{{name: l{port}, port: {port}, protocol: HTTP}}" for port in ports)
    return service("orders") + GATEWAY.format(listeners=listeners, edition=edition)


@dataclass(frozen=True)
class Edge:
    caller: Instance
    good: int
    taken: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.good}/"


@pytest.fixture(scope="module")
def edge(mesh: Mesh) -> Generator[Edge, None, None]:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", free_port()))
        stranger.listen()
        found = Edge(mesh.run("caller"), free_port(), stranger.getsockname()[1])
        orders = mesh.run("orders")
        mesh.apply(gateway("one", found.good))
        mesh.gateway("edge", "127.0.0.1")
        mesh.await_ready(orders, found.caller)
        until(lambda: status_of(found.url) == 200, "the gateway lets calls in")
        yield found


def apply(mesh: Mesh, text: str) -> tuple[int, str]:
    path = mesh.folder / "given.yaml"
    path.write_text(text)
    done = mesh.masche("apply", "-f", str(path), "--timeout", "10s")
    return done.returncode, done.stdout


def test_a_refused_listener_keeps_the_last_good_one_is_shown_in_envoys_words_and_heals(mesh: Mesh, edge: Edge) -> None:
    with Load(edge.url, rate=200) as load:
        code, said = apply(mesh, gateway("two", edge.good, edge.taken))
        assert code == 3, said
        status = mesh.masche("status").stdout
        described = mesh.masche("describe", "gateway", "edge", "-n", "shop").stdout
        for place, text in {"apply": said, "status": status, "describe": described}.items():
            assert "Address already in use" in text, f"{place} does not say Envoy's words:\n{text}"
            assert f"gateway/{edge.taken}" in text, f"{place} does not name what was refused:\n{text}"
        load.lasts(0.5)
        code, said = apply(mesh, gateway("three", edge.good))
        assert code == 0, said
        until(mesh.is_in_sync, "everybody is in sync again")
        assert "already in use" not in mesh.masche("status").stdout
    load.assert_none_failed(at_least=100)


def test_what_is_refused_blocks_nothing_else_not_even_on_the_same_proxy(mesh: Mesh, edge: Edge) -> None:
    code, _ = apply(mesh, gateway("refused", edge.good, edge.taken))
    assert code == 3
    for edition in ("four", "five"):
        code, said = apply(mesh, gateway(edition, edge.good, edge.taken))
        assert code == 0, f"what this revision changed is live, whatever an earlier one did: {said}"
        assert edge.caller.call("orders").headers["x-edition"] == edition, "another proxy is blocked"
        seen = status_of(edge.url), _edition(edge)
        assert seen == (200, edition), "the same proxy is blocked"
    newcomer = mesh.run("orders", name="newcomer")
    mesh.await_ready(newcomer)
    with Load(edge.url, rate=100) as load:
        until(lambda: load.servers()["newcomer"], "the gateway knows a newcomer")
    assert apply(mesh, gateway("six", edge.good))[0] == 0
    load.assert_none_failed()


def _edition(edge: Edge) -> str:
    return call(edge.url).headers["x-edition"]


def test_a_refused_port_is_taken_as_soon_as_a_later_version_is_good(mesh: Mesh, edge: Edge) -> None:
    assert apply(mesh, gateway("seven", edge.good, edge.taken))[0] == 3
    another = free_port()
    assert apply(mesh, gateway("eight", edge.good, another))[0] == 0
    until(lambda: status_of(f"http://127.0.0.1:{another}/") == 200, "the new listener serves")
    status = json.loads(mesh.masche("status", "-o", "json").stdout)
    assert all(not proxy["rejections"] for proxy in status["proxies"])
    assert apply(mesh, gateway("nine", edge.good))[0] == 0


def test_a_document_with_a_mistake_changes_nothing_at_all(mesh: Mesh, edge: Edge) -> None:
    before = mesh.status().plane.revision
    code, _ = apply(mesh, gateway("ten", edge.good) + "---\napiVersion: v1\nkind: Service\nmetadata: {nmae: x}\n")
    assert code == 8
    assert mesh.status().plane.revision == before
    assert _edition(edge) != "ten"


MATCHING = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: inside, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, group: "", name: orders}}]
  rules:
  - matches: [{{path: {{type: RegularExpression, value: '/{pattern}'}}}}]
    backendRefs: [{{name: orders, port: 80}}]
"""


@pytest.mark.parametrize(
    "pattern", ["[0-9a-f]{40}/[0-9a-f]{64}", "(a{100}){10}", r"\pL{200}", ".{1000}.{1000}", "a{1000}" * 140]
)
def test_no_expression_that_we_take_is_refused_by_an_envoy(mesh: Mesh, edge: Edge, pattern: str) -> None:
    """A refused expression would hold up the table that it stands in: every other service's routes."""
    code, said = apply(mesh, MATCHING.format(pattern=pattern))
    assert code == 0, said
