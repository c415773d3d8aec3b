"""uvicorn in the mesh: who gets in, what the application is told, and what the caller gets back."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from itertools import product

import pytest

from library.issuing import Issuing, bare_client
from library.server.conftest import Caller
from library.server.serving import LOOPS, PROTOCOLS, Served, connected, serving
from masche.library import uvicorn
from masche.library.core.tls import Certificates
from masche.model.view import Attribute, Condition, Decision, MtlsMode, Pattern, PatternKind, Policy, Rule
from masche.wire import stats

WEB = "spiffe://mesh.local/ns/shop/sa/web"


def a_rule(decision: Decision, name: str, *paths: str) -> Policy:
    on = Condition(attribute=Attribute.PATH, values=tuple(Pattern(PatternKind.EXACT, each) for each in paths))
    return Policy(name=name, decision=decision, rules=(Rule(name=f"{name} rules[0]", operations=((on,),)),))


@pytest.fixture(params=[*product(PROTOCOLS, LOOPS)], ids="-".join)
def served(request: pytest.FixtureRequest, ours: Certificates) -> Iterator[Served]:
    http, loop = request.param
    with serving(ours, http=http, loop=loop) as running:
        yield running


def test_until_somebody_says_who_may_come_in_nobody_does_and_verified_callers_are_told_what_is_waited_for(
    served: Served, caller: Caller
):
    for context, said in (
        (caller("web"), b"not ready: waiting for the control plane at 127.0.0.1:15012"),
        (None, b"not ready"),
    ):
        status, headers, body = served.ask("/", context=context)
        assert (status, headers["x-masche-unreached"], body) == (503, "1", said)


def test_the_application_sees_the_verified_caller_and_nothing_that_it_claims(served: Served, caller: Caller):
    served.told()
    claimed = (
        ("X-Forwarded-Client-Cert", "URI=spiffe://mesh.local/ns/shop/sa/admin"),
        ("x-masche-peer", "admin"),
        ("x-envoy-external-address", "1.1.1.1"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-for", "1.2.3.4"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    )
    status, headers, body = served.ask("/a//b/../c?x=//y", context=caller("web"), headers=claimed, host="orders.shop.")
    told = json.loads(body)
    assert (status, told["peer"], told["in_scope"]) == (200, WEB, WEB)
    assert (told["path"], told["raw_path"], told["query"]) == ("/a/c", "/a/c", "x=//y")
    assert told["trace"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    got = dict(told["headers"])
    assert len(got) == len(told["headers"])
    assert (got["host"], got["x-forwarded-for"], got["x-forwarded-proto"]) == (
        "orders.shop",
        "1.2.3.4,127.0.0.1",
        "https",
    )
    assert got["x-forwarded-client-cert"].startswith("By=spiffe://mesh.local/ns/shop/sa/orders;Hash=")
    assert got["x-forwarded-client-cert"].endswith(f";URI={WEB}")
    assert not [name for name in got if name.startswith(("x-masche-", "x-envoy-"))]
    assert got["x-request-id"]
    assert "BEGIN CERTIFICATE" in told["tls"]["client_cert_chain"][0]
    assert told["tls"]["tls_version"] == 0x0304
    assert told["tls"]["cipher_suite"] in {0x1301, 0x1302, 0x1303}
    assert "x-masche-denied" not in headers
    assert int(headers[stats.SERVICE_HEADER]) > 1
    [counted] = served.counts()
    assert (counted.peer, counted.status, counted.rule) == (WEB, 200, "")
    assert counted.bytes_sent == len(body)


def test_a_denial_names_its_rule_to_callers_that_proved_who_they_are_only(served: Served, caller: Caller):
    served.told(
        a_rule(Decision.DENY, "shop/no-x", "/x"),
        a_rule(Decision.ALLOW, "shop/some", "/a", "/x"),
        mtls=MtlsMode.PERMISSIVE,
    )
    context = caller("web")
    for target, said, rule in (
        ("/x", "shop/no-x rules[0]", "shop/no-x rules[0]"),
        ("/b", "no ALLOW policy of shop/orders-1 matches; considered: shop/some", "no ALLOW policy matches"),
    ):
        status, headers, body = served.ask(target, context=context)
        assert (status, headers["x-masche-denied"], body) == (403, said, b"RBAC: access denied")
        assert served.counted.requests[-1].rule == rule
        status, headers, body = served.ask(target)
        assert (status, body) == (403, b"RBAC: access denied")
        assert "x-masche-denied" not in headers
    assert served.ask("/a", context=context)[0] == 200
    assert served.ask("/%61", context=context)[0] == 200


def test_under_strict_plaintext_is_closed_without_an_answer(served: Served):
    served.told()
    assert not served.raw(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").startswith(b"HTTP")
    assert served.counted.requests == []


def test_under_permissive_both_come_in_by_one_port(served: Served, caller: Caller):
    served.told(mtls=MtlsMode.PERMISSIVE)
    status, headers, body = served.ask("/")
    told = json.loads(body)
    assert (status, told["peer"], dict(told["headers"])["x-forwarded-proto"]) == (200, None, "http")
    assert "x-forwarded-client-cert" not in dict(told["headers"])
    assert stats.SERVICE_HEADER not in headers
    assert json.loads(served.ask("/", context=caller("web"))[2])["peer"] == WEB


def test_a_change_to_strict_shuts_plaintext_connections_out_that_are_open(ours: Certificates):
    with serving(ours) as served:
        served.told(mtls=MtlsMode.PERMISSIVE)
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
        served.told(mtls=MtlsMode.STRICT)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (403, "close")
        connection.close()


def test_disable_takes_plaintext_alone(served: Served, caller: Caller):
    served.told(mtls=MtlsMode.DISABLE)
    assert served.ask("/")[0] == 200
    with pytest.raises(OSError, match=r".+"):
        served.ask("/", context=caller("web"))


def test_who_is_not_of_the_mesh_does_not_get_in(served: Served, mesh: Issuing, tmp_path: object):
    served.told()
    for context in (bare_client(mesh.roots), _stranger(mesh, tmp_path)):
        with pytest.raises(OSError, match=r".+"):
            served.ask("/", context=context)
    assert served.counted.requests == []


def _stranger(mesh: Issuing, folder: object) -> ssl.SSLContext:
    """A caller of another authority that trusts ours."""
    from pathlib import Path

    other = Issuing(Path(str(folder)) / "other")
    return bare_client(mesh.roots, *other.pair("web"))


def test_a_failing_application_is_counted_as_such(served: Served, caller: Caller):
    served.told()
    assert served.ask("/boom", context=caller("web"))[0] == 500
    assert [each.status for each in served.counts()] == [500]


def test_bodies_pass_in_both_directions_and_are_counted(served: Served, caller: Caller):
    served.told()
    sent = b"x" * 300_000
    _, _, body = served.ask("/", context=caller("web"), method="POST", body=sent)
    assert json.loads(body)["body"] == sent.decode()
    assert served.counts()[0].bytes_received == len(sent)


def test_who_does_not_finish_the_head_of_a_request_is_cut_off_and_who_is_slow_later_is_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(uvicorn, "HEAD_WITHIN", 0.2)
    served.told(mtls=MtlsMode.PERMISSIVE)
    assert served.raw(b"GET / HTTP/1.1\r\nhost: ord") == b""
    with connected(served.port, None) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\n")
        time.sleep(0.5)  # longer than a head may take
        connection.sendall(b"xy")
        assert _answer(connection).startswith(b"HTTP/1.1 200")
        time.sleep(0.5)  # nothing has begun
        connection.sendall(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
        assert _answer(connection).startswith(b"HTTP/1.1 200")


def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory(served: Served):
    """It is not even known yet who may come in."""
    with connected(served.port, None) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: orders\r\n")
        assert _taken(connection, b"x: " + b"a" * 1000 + b"\r\n", times=100_000) < 20_000
    assert served.ask("/")[0] == 503, "others are served"


def _taken(connection: socket.socket, line: bytes, *, times: int) -> int:
    """How often it could be sent before the other side closed."""
    for number in range(times):
        try:
            connection.sendall(line)
        except ConnectionError:
            return number
    return times


def _answer(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        more = connection.recv(4096)
        assert more, "cut off"
        found += more
    return found


def test_the_server_leaves_before_it_closes(ours: Certificates):
    with serving(ours) as served:
        served.told()
    assert served.left.is_set()
