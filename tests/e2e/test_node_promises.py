"""What a sidecar keeps at its socket the machine's one Envoy keeps at all of its own. Items D2, E7 of a node."""

import json
import sys

import pytest

from e2e.calling import call, status_of
from e2e.intruder import OLD_HELLO, PREFACE, REQUEST, plaintext
from e2e.mesh import ON_THE_NODE, SERVERS, Instance, Mesh, service
from e2e.test_node import TCP
from e2e.waiting import until
from masche.agent.capture.sockets import in_namespace
from masche.model.refs import Kind

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

GREETING = "220 hello"
SOCKET = REQUEST.replace(b"connection: close", b"connection: upgrade\r\nupgrade: websocket")
PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  mtls: {mode: PERMISSIVE}
"""
ADMIN = "spiffe://mesh.local/ns/shop/sa/admin"
CLAIMS = {
    "x-forwarded-client-cert": f"By=x;URI={ADMIN}",
    "x-envoy-internal": "true",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-original-path": "/gopher",
    "x-envoy-original-dst-host": "127.0.0.1:1",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-retry-on": "gopher",
    "x-envoy-peer-metadata": "gopher",
    "x-envoy-attempt-count": "99",
    "x-masche-peer": ADMIN,
    "x-masche-destination": "gopher:80",
    "x-masche-denied": "gopher",
    "x-masche-service-us": "1",
    "x-masche-anything": "gopher",
}


@pytest.fixture(scope="module")
def instances(mesh: Mesh) -> dict[str, Instance]:
    mesh.apply(service("orders") + service("aside") + TCP)
    echo = (sys.executable, str(SERVERS / "bytes_echo.py"))
    found = {
        "orders": mesh.run("orders", options=ON_THE_NODE, is_recorded=True),
        "first": mesh.run("first", echo, protocol="tcp", options=ON_THE_NODE, env={"GREETING": GREETING}),
        "caller": mesh.run("caller", options=ON_THE_NODE),
        "aside": mesh.run("aside"),
        "beside": mesh.run("beside"),
    }
    mesh.await_ready(*found.values())
    for caller, callee in (("caller", "orders"), ("caller", "aside"), ("beside", "orders")):
        until(lambda caller=caller, callee=callee: found[caller].reaches(callee), f"{callee} answers {caller}")
    return found


# -- plaintext --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [REQUEST, PREFACE, SOCKET, b"\0\1\2 hello\n", OLD_HELLO, b""], ids=["h1", "h2c", "ws", "tcp", "tls1.0", "-"]
)
@pytest.mark.parametrize("callee", ["orders", "first"])
def test_plaintext_to_a_strict_workload_is_closed_wherever_it_is_tried_and_no_byte_arrives(
    instances: dict[str, Instance], callee: str, data: bytes
) -> None:
    """By its mesh port, by its own address from the machine, and from another workload; who waits hears no greeting."""
    one, caller = instances[callee], instances["caller"]
    before = one.received
    own = one.seat.address
    tries = {("", "127.0.0.1", one.mesh_port), ("", own, one.app_port), (caller.netns, own, one.app_port)}
    for namespace, host, port in tries:
        answer = in_namespace(namespace, lambda host=host, port=port: _said(host, port, data))
        is_alert = answer[:1] == b"\x15" and len(answer) == 7
        assert answer == b"" or is_alert, (namespace, host, port, answer)
        assert GREETING.encode() not in answer
    assert one.received == before


def _said(host: str, port: int, data: bytes) -> bytes:
    try:
        return plaintext(host, port, data, within=1.0)
    except ConnectionError:
        return b""


def test_what_is_turned_away_is_counted(instances: dict[str, Instance]) -> None:
    orders, counters = instances["orders"], r"ssl\.connection_error|no_filter_chain_match"
    before = sum(orders.admin.stats(counters).values())
    for host, port in (("127.0.0.1", orders.mesh_port), (orders.seat.address, orders.app_port)):
        _said(host, port, REQUEST)
    until(lambda: sum(orders.admin.stats(counters).values()) >= before + 2, "both are counted")


# -- words about oneself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caller", "callee"), [("caller", "orders"), ("caller", "aside"), ("beside", "orders")])
def test_what_a_caller_says_about_itself_is_replaced_by_what_is_known(
    instances: dict[str, Instance], caller: str, callee: str
) -> None:
    answer = instances[caller].call(callee, headers=CLAIMS)
    assert answer.status == 200, "a header of its own chose another way"
    (shown,) = answer.seen_header("x-forwarded-client-cert")
    assert shown.endswith(f"URI=spiffe://mesh.local/ns/shop/sa/{caller}")
    _assert_nothing_claimed(answer.seen["headers"])


def test_who_comes_without_a_certificate_where_that_is_permitted_may_claim_nothing(
    mesh: Mesh, instances: dict[str, Instance]
) -> None:
    """From the machine to the workload's own address, and to its mesh port: nobody is known, so nobody is named."""
    orders = instances["orders"]
    mesh.apply(PERMISSIVE)
    try:
        for host, port in ((orders.seat.address, orders.app_port), ("127.0.0.1", orders.mesh_port)):
            url = f"http://{host}:{port}/"
            until(lambda url=url: status_of(url) == 200, "plaintext is taken")
            answer = call(url, headers=CLAIMS)
            assert answer.status == 200
            assert answer.seen_header("x-forwarded-client-cert") == []
            _assert_nothing_claimed(answer.seen["headers"])
    finally:
        mesh.delete(Kind.PEER_AUTHENTICATION, "orders")


def _assert_nothing_claimed(headers: list[list[str]]) -> None:
    said = json.dumps(headers)
    assert "admin" not in said
    assert "gopher" not in said
    assert [name for name, _ in headers if name.lower().startswith(("x-envoy-", "x-masche-"))] == []


def test_an_application_cannot_speak_with_the_voice_of_the_mesh(instances: dict[str, Instance]) -> None:
    caller = instances["caller"]
    assert caller.call("orders", "/header/x-own/1").headers["x-own"] == "1"
    for name in ("x-masche-denied", "x-masche-unreached"):
        assert name not in caller.call("orders", f"/header/{name}/nobody").headers
