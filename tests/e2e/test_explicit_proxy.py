"""The explicit proxy: names of the mesh in every spelling, strangers, and what it says when it refuses."""

import http.client
import json
import socket
import sys
import time
from collections.abc import Generator

import pytest

from e2e.calling import call
from e2e.mesh import SERVERS, Instance, Mesh, service
from e2e.outside import stranger
from e2e.reaching import exchange, proxy, tunnel
from e2e.test_clients import CLIENTS
from e2e.waiting import until

TCP = """
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  selector: {app: echo}
  ports: [{name: main, port: 7, targetPort: tcp, appProtocol: tcp}]
"""


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    mesh.apply(service("web") + service("empty") + TCP)
    web = mesh.run("web", [sys.executable, str(SERVERS / "web.py")])
    caller = mesh.run("caller", [sys.executable, str(CLIENTS / "idle.py")], has_port=False)
    mesh.await_ready(web)
    until(lambda: caller.reaches("web"), "web answers the caller")
    until(mesh.is_in_sync, "every proxy is in sync")
    return caller


def test_a_name_in_any_spelling_of_the_mesh_is_the_same_service(caller: Instance):
    for name in ("web", "WEB", "web.shop", "web.shop.svc", "web.shop.mesh", "web.shop.svc.cluster.local", "web:80"):
        connection = http.client.HTTPConnection(*proxy(caller), timeout=10)
        status, body = exchange(connection, "GET", f"http://{name}/x")
        assert (status, json.loads(body)["name"]) == (200, "web-1"), name
        connection.close()


@pytest.fixture(scope="module")
def outside() -> Generator[str]:
    with stranger() as address:
        yield address


def _through_proxy(caller: Instance, target: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*proxy(caller), timeout=20)
    try:
        status, body = exchange(connection, "GET", target, headers=headers)
        return status, body.decode()
    finally:
        connection.close()


def test_a_request_to_a_stranger_goes_out_as_it_is_and_tells_nothing_of_the_mesh(caller: Instance, outside: str):
    status, head = _through_proxy(caller, f"http://{outside}/a/b?c=d", accept="x", cookie="a=b")
    assert status == 200
    line, *headers = head.lower().strip().split("\r\n")
    assert line == "get /a/b?c=d http/1.1"
    added = [header for header in headers if header.startswith(("x-request-id: ", "x-forwarded-proto: "))]
    own = [f"host: {outside}", "accept-encoding: identity", "accept: x", "cookie: a=b"]
    assert sorted(set(headers) - set(added)) == sorted(own)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:22", "localhost", "LOCALHOST:80", "127.1", "2130706433", "0", "169.254.169.254", "[::1]", "localhost."],
)
def test_loopback_and_link_local_are_never_proxied(caller: Instance, host: str):
    status, text = _through_proxy(caller, f"http://{host}/")
    assert (status, "loopback and link-local addresses are never proxied" in text) == (403, True), (status, text)


def test_a_name_that_resolves_to_loopback_is_not_proxied_either(caller: Instance):
    status, text = _through_proxy(caller, f"http://{socket.gethostname()}/")
    assert (status, "loopback" in text) == (403, True), (status, text)


def test_a_tunnel_to_a_stranger_is_refused_in_words(caller: Instance, outside: str):
    with pytest.raises(PermissionError, match="CONNECT is for services of the mesh"):
        tunnel(caller, outside)


def test_a_service_that_does_not_exist_is_said_to_be_unknown(caller: Instance):
    for name in ("nobody", "nobody.shop.mesh", "nobody.shop.svc.cluster.local"):
        status, text = _through_proxy(caller, f"http://{name}/")
        assert status in (502, 503), (name, status, text)
        assert "nobody" in text, (name, status, text)


def test_a_service_without_instances_answers_at_once_and_in_words(caller: Instance):
    began = time.monotonic()
    answer = call(caller.url("empty"))
    assert time.monotonic() - began < 10, "it was tried for as long as a request may take"
    assert (answer.status, b"no healthy upstream" in answer.body) == (503, True), answer


def test_under_registry_only_a_stranger_is_refused_in_words(mesh: Mesh, caller: Instance, outside: str):
    config = "apiVersion: masche.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {outboundTrafficPolicy: "
    mesh.apply(f"{config}REGISTRY_ONLY}}")
    try:
        status, text = _through_proxy(caller, f"http://{outside}/")
        assert (status, "REGISTRY_ONLY" in text) == (502, True), text
        assert _through_proxy(caller, "http://web/status/204")[0] == 204
    finally:
        mesh.apply(f"{config}ALLOW_ANY}}")


def test_an_http_request_to_a_tcp_service_is_told_how(caller: Instance):
    status, text = _through_proxy(caller, "http://echo:7/")
    assert (status, "CONNECT" in text) == (400, True), text
