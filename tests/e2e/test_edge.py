"""The way in: what comes from outside may claim nothing and reaches only what was declared. Items D10, E3, E7."""

import contextlib
import socket
from dataclasses import dataclass

import pytest

from e2e.calling import call, status_of
from e2e.mesh import Instance, Mesh, free_port, service
from e2e.waiting import until

EDGE = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  gatewayClassName: masche
  listeners: [{{name: http, port: {port}, protocol: HTTP, hostname: "*.example"}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: front, namespace: shop}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [shop.example]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /}}}}]
    backendRefs: [{{name: web, port: 80}}]
"""


@dataclass(frozen=True)
class Edge:
    port: int
    web: Instance
    hidden: Instance

    def ask(self, request: str) -> bytes:
        """The beginning of the answer to exactly these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request.replace("\n", "\r\n").encode())
            return connection.recv(65536)


@pytest.fixture(scope="module")
def edge(mesh: Mesh) -> Edge:
    found = Edge(free_port(), mesh.run("web", is_recorded=True), mesh.run("hidden", is_recorded=True))
    mesh.apply(service("web") + service("hidden") + EDGE.format(port=found.port))
    mesh.gateway("edge", f"127.0.0.1:{found.port}")
    mesh.await_ready(found.web, found.hidden)
    until(lambda: status_of(f"http://127.0.0.1:{found.port}/", headers={"host": "shop.example"}) == 200, "it is open")
    return found


@pytest.mark.parametrize(
    "host",
    [
        "hidden", "hidden.shop", "hidden.shop.svc", "hidden.shop.mesh", "hidden.shop.svc.cluster.local", "web.shop",
        "other.example", "example", "127.0.0.1", "shop.example.", "shop.example.evil.org", "SHOP.EXAMPLE@hidden.shop",
    ],
)  # fmt: skip
def test_nothing_undeclared_is_reached_by_its_name(edge: Edge, host: str) -> None:
    answer = edge.ask(f"GET /sneak HTTP/1.1\nhost: {host}\nconnection: close\n\n")
    declared = host.rstrip(".") == "shop.example"
    assert answer.startswith(b"HTTP/1.1 200" if declared else (b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:80]
    assert edge.hidden.received == b""


@pytest.mark.parametrize(
    "request_",
    [
        "GET http://hidden.shop/sneak HTTP/1.1\nhost: shop.example\nconnection: close\n\n",
        "GET http://hidden.shop/sneak HTTP/1.1\nhost: hidden.shop\nconnection: close\n\n",
        "CONNECT hidden.shop:80 HTTP/1.1\nhost: hidden.shop:80\n\n",
        "CONNECT {hidden} HTTP/1.1\nhost: {hidden}\n\n",
        "GET /sneak HTTP/1.1\nhost: shop.example\nhost: hidden.shop\nconnection: close\n\n",
        "GET /sneak HTTP/1.1\nhost: nowhere.example\nx-forwarded-host: shop.example\nconnection: close\n\n",
        "GET /sneak HTTP/1.1\nhost: nowhere.example\nx-envoy-original-dst-host: {hidden}\nconnection: close\n\n",
    ],
)
def test_no_other_way_of_naming_a_service_leads_there_either(edge: Edge, request_: str) -> None:
    before = edge.web.received
    answer = edge.ask(request_.format(hidden=f"127.0.0.1:{edge.hidden.app_port}"))
    assert not answer.startswith(b"HTTP/1.1 2"), answer[:80]
    assert edge.hidden.received == b""
    assert b"/sneak" not in edge.web.received[len(before) :]


def test_what_the_outside_claims_about_itself_does_not_reach_an_application(edge: Edge) -> None:
    claims = {
        "host": "shop.example",
        "x-forwarded-client-cert": "URI=spiffe://mesh.local/ns/shop/sa/admin",
        "x-envoy-internal": "true",
        "x-envoy-external-address": "10.0.0.1",
        "x-envoy-original-path": "/admin",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "x-envoy-peer-metadata": "gopher",
        "x-envoy-attempt-count": "99",
        "X-Masche-Denied": "gopher",
        "x-masche-anything": "gopher",
        "x-forwarded-proto": "gopher",
        "x-forwarded-host": "gopher",
        "x-forwarded-port": "1",
        "x-real-ip": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
    }
    answer = call(f"http://127.0.0.1:{edge.port}/", headers=claims)
    assert answer.status == 200
    found = answer.seen_header("x-forwarded-client-cert")
    assert len(found) == 1
    assert "sa/edge" in found[0]
    assert "admin" not in found[0]
    assert [name for name, _ in answer.seen["headers"] if name.lower().startswith("x-envoy-")] == []
    assert answer.seen_header("x-masche-denied") == answer.seen_header("x-masche-anything") == []
    assert "gopher" not in str(answer.seen["headers"])
    for name in ("x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded"):
        assert answer.seen_header(name) == [], name


def test_an_address_that_the_outside_invents_is_not_taken_for_the_callers(edge: Edge) -> None:
    headers = {"host": "shop.example", "x-forwarded-for": "10.9.9.9"}
    answer = call(f"http://127.0.0.1:{edge.port}/", headers=headers)
    passed = [part.strip() for value in answer.seen_header("x-forwarded-for") for part in value.split(",")]
    assert len(passed) > 1, "the gateway did not add whom it saw"
    assert "10.9.9.9" not in passed


@pytest.mark.parametrize(
    "bad",
    [
        "POST / HTTP/1.1\nhost: shop.example\ncontent-length: 4\ntransfer-encoding: chunked\n\n0\n\nGET / HTTP/1.1\n\n",
        "POST / HTTP/1.1\nhost: shop.example\ncontent-length: 4\ncontent-length: 5\n\nabcd",
        "POST / HTTP/1.1\nhost: shop.example\ntransfer-encoding: xchunked\n\n0\n\n",
        "GET /a%2f..%2fb HTTP/1.1\nhost: shop.example\n\n",
        "GET / HTTP/1.1\nhost: shop.example\nx_y: 1\n\n",
        "GET / HTTP/1.1\nhost: shop.example\nx: a\0b\n\n",
    ],
    ids=["te and cl", "two lengths", "odd encoding", "escaped slash", "underscore", "nul"],
)
def test_an_ambiguous_request_is_refused_and_the_application_never_sees_it(edge: Edge, bad: str) -> None:
    before = len(edge.web.received)
    answer = edge.ask(bad)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")), answer[:80]
    assert len(edge.web.received) == before


def test_a_gateway_listens_where_it_was_told_and_nowhere_else(mesh: Mesh, edge: Edge) -> None:
    assert status_of(f"http://127.0.0.1:{edge.port}/", headers={"host": "shop.example"}) == 200
    with contextlib.closing(socket.socket()) as other:
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", edge.port)) != 0
