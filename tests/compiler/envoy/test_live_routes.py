"""What routes do to requests, seen by applications behind one real Envoy."""

import socket
import ssl
from contextlib import ExitStack, contextmanager

import pytest
from applications import http_echo
from envoy_rig import Authority, Envoy, free_port, remove, secrets, short_folder, wait_until
from test_live_calls import request
from views import at, cluster, identity, outbound, port, route, seat, view

from masche.compiler.envoy.listeners import listeners
from masche.compiler.envoy.shared import blobs
from masche.model.blob import Blob
from masche.model.vantage import LocalPort, Placement
from masche.model.view import (
    Backend,
    Cors,
    Forward,
    GatewayListener,
    HeaderChange,
    Mirror,
    PathKind,
    PathRewrite,
    Redirect,
    Refuse,
    RequestMatch,
    Retry,
    RewriteKind,
    Route,
    ValueKind,
    ValueMatch,
    VirtualHost,
)
from masche.wire import framing, secret, types

ROOT = Authority.named("root")
A, B = port("a"), port("b")


class Table:
    """One Envoy with the local URL of service a, and the applications a and b without proxies."""

    def __init__(self, stack: ExitStack) -> None:
        folder = short_folder()
        stack.callback(remove, folder)
        self.envoy = Envoy(folder)
        stack.callback(self.envoy.close)
        self.a, self.b = (stack.enter_context(http_echo(name)) for name in "ab")
        self.port = free_port()

    def use(self, *routes: Route) -> None:
        seen = view(outbound=(outbound(A, *routes),), clusters=self._clusters())
        self._put(seen, seat("web", local_ports=(LocalPort(service=A, port=self.port),)))

    def use_gateway(self, listener: GatewayListener, *certificates: Blob) -> None:
        seen = view("gateway", placement=Placement.GATEWAY, gateway=(listener,), clusters=self._clusters())
        self.gateway_port = free_port()
        self._put(seen, seat("gateway", gateway_ports=((listener.port, self.gateway_port),)), *certificates)

    @staticmethod
    def _clusters():
        return tuple(cluster(each, has_plaintext=True) for each in (A, B))

    def _put(self, seen, sat, *more: Blob) -> None:
        instances = [at(service, app.server_port, is_mtls=False) for service, app in ((A, self.a), (B, self.b))]
        self.envoy.put((*blobs(seen), *listeners(seen, sat), *instances, *secrets(ROOT, identity("web")), *more))
        self.a.seen.clear()
        self.b.seen.clear()

    def get(self, path: str = "/", method: str = "GET", **headers):
        return request(self.port, method, path, headers)


@pytest.fixture(scope="module")
def table():
    with ExitStack() as stack:
        yield Table(stack)


def prefix(path: str) -> RequestMatch:
    return RequestMatch(path=path)


def forward(*backends, **more) -> Forward:
    some = tuple(each if isinstance(each, Backend) else Backend(cluster=each) for each in backends)
    return Forward(backends=some, **more)


def test_the_first_match_decides_and_no_match_is_404(table) -> None:
    wanted = RequestMatch(
        path_kind=PathKind.EXACT,
        path="/exact",
        method="POST",
        headers=(
            ValueMatch(name="X-Version", kind=ValueKind.EXACT, value="2"),
            ValueMatch(name="host", kind=ValueKind.REGEX, value="127.*"),
        ),
        query=(ValueMatch(name="q", kind=ValueKind.REGEX, value="[0-9]+"),),
    )
    regular = RequestMatch(path_kind=PathKind.REGEX, path="/r/[a-z]+")
    table.use(route("one", B, match=wanted), route("two", A, match=prefix("/exact/")), route("three", B, match=regular))
    assert table.get("/exact?q=7", "POST", x_version="2")[1]["name"] == "b"
    for path, method, version in (
        ("/exact?q=x", "POST", "2"),
        ("/exact?q=7", "GET", "2"),
        ("/exact/below?q=7", "POST", "2"),
        ("/exact?q=7", "POST", "3"),
    ):
        assert table.get(path, method, x_version=version)[1]["name"] == "a"
    assert table.get("/exactly")[0] == 404
    assert table.get("/r/abc?x=1")[1]["name"] == "b"
    assert table.get("/r/abc/d")[0] == 404


def test_headers_are_set_added_and_removed(table) -> None:
    request_headers = HeaderChange(set=(("x-set", "100% new"),), add=(("x-add", "b"),), remove=("x-gone",))
    response_headers = HeaderChange(set=(("x-answered", "yes"),), remove=("server",))
    weighted = Backend(cluster=A, request_headers=HeaderChange(set=(("x-backend", "a"),)))
    table.use(route("r", request_headers=request_headers, response_headers=response_headers, action=forward(weighted)))
    _, seen, answer = table.get(x_set="old", x_add="a", x_gone="x")
    headers = seen["headers"]
    assert (headers["x-set"], headers["x-backend"], "x-gone" in headers) == ("100% new", "a", False)
    assert headers["x-add"] in {"a,b", "b"}
    assert (answer["x-answered"], "server" in answer) == ("yes", False)


def test_weights_divide_and_an_invalid_backend_takes_its_share_as_500(table) -> None:
    backends = (Backend(cluster=A, weight=1), Backend(cluster=B, weight=0), Backend(cluster=None, weight=1))
    table.use(route("r", action=forward(*backends)))
    statuses = [table.get()[0] for _ in range(200)]
    assert set(statuses) == {200, 500}
    assert 60 < statuses.count(500) < 140
    assert table.b.seen == []


def test_a_rule_without_any_weight_answers_500(table) -> None:
    table.use(route("r", action=forward(Backend(cluster=A, weight=0))))
    assert table.get()[0] == 500
    table.use(route("r", action=Refuse(status=500, why="this is not right")))
    assert table.get()[:2] == (500, {"text": "this is not right\n"})


def test_backends_of_one_rule_may_rewrite_differently(table) -> None:
    rewrite = PathRewrite(kind=RewriteKind.PREFIX, value="/new")
    backends = (Backend(cluster=A, weight=1, path_rewrite=rewrite, host_rewrite="a.test"), Backend(cluster=B, weight=1))
    table.use(route("r", match=prefix("/old"), action=forward(*backends)))
    answers = [table.get("/old/x")[1] for _ in range(100)]
    assert {(each["name"], each["path"], each["host"]) for each in answers} == {
        ("a", "/new/x", "a.test"),
        ("b", "/old/x", "a.shop"),
    }


@pytest.mark.parametrize(
    ("matched", "replacement", "asked", "received"),
    [
        ("/foo", "/xyz", "/foo/bar?q=1", "/xyz/bar?q=1"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "", "/foo/bar", "/bar"),
        ("/foo", "", "/foo/", "/"),
        ("/foo", "", "/foo", "/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
        ("/", "/xyz", "/bar", "/xyz/bar"),
    ],
)
def test_a_prefix_is_replaced_as_the_gateway_api_says(table, matched, replacement, asked, received) -> None:
    rewrite = PathRewrite(kind=RewriteKind.PREFIX, value=replacement)
    table.use(route("r", match=prefix(matched), action=forward(A, path_rewrite=rewrite)))
    assert table.get(asked)[1]["path"] == received


def test_a_full_path_is_replaced_and_the_query_stays(table) -> None:
    rewrite = PathRewrite(kind=RewriteKind.FULL, value=r"/one\1")
    table.use(route("r", action=forward(A, path_rewrite=rewrite, host_rewrite="other.test")))
    _, seen, _ = table.get("/foo/bar?q=1")
    assert (seen["path"], seen["host"]) == (r"/one\1?q=1", "other.test")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_changes_what_it_names(table, status) -> None:
    path = PathRewrite(kind=RewriteKind.PREFIX, value="/new")
    action = Redirect(status=status, scheme="https", host="example.org", port=8443, path=path)
    table.use(route("r", match=prefix("/old"), action=action))
    found, _, headers = table.get("/old/x?q=1")
    assert (found, headers["location"]) == (status, "https://example.org:8443/new/x?q=1")


def test_a_redirect_keeps_what_it_does_not_name(table) -> None:
    table.use(route("r", action=Redirect(path=PathRewrite(kind=RewriteKind.FULL, value="/new"))))
    assert table.get("/old?q=1")[2]["location"] == f"http://127.0.0.1:{table.port}/new?q=1"
    table.use(route("r", action=Redirect(host="example.org")))
    assert table.get("/old")[2]["location"] == "http://example.org/old"


def test_a_redirect_to_a_scheme_goes_to_its_well_known_port(table) -> None:
    table.use(route("r", action=Redirect(scheme="https")))
    assert table.get("/old")[2]["location"] in {"https://127.0.0.1/old", "https://127.0.0.1:443/old"}


def test_a_share_of_one_backends_requests_is_copied_whatever_the_backends_own_share(table) -> None:
    """Envoy draws one number for the route, the backend and the copies of a request."""
    copied = Backend(cluster=B, mirrors=(Mirror(cluster=A, numerator=40),))
    table.use(route("r", action=forward(Backend(cluster=A), copied)))
    answered = [table.get()[1]["name"] for _ in range(300)]
    wait_until(lambda: len(table.a.seen) > answered.count("a") + 0.2 * answered.count("b"), "copies to arrive")
    assert len(table.a.seen) - answered.count("a") < 0.6 * answered.count("b")


def test_a_mirror_gets_a_copy_whose_answer_is_dropped(table) -> None:
    table.use(route("r", action=forward(A, mirrors=(Mirror(cluster=B),))))
    assert table.get("/copied")[1]["name"] == "a"
    wait_until(lambda: ("GET", "/copied") in table.b.seen, "the copy to arrive")
    table.use(route("r", action=forward(A, mirrors=(Mirror(cluster=B, numerator=0),))))
    assert table.get("/again")[1]["name"] == "a"
    assert table.b.seen == []


def test_an_answer_is_repeated_for_idempotent_methods_only(table) -> None:
    table.use(route("r", action=forward(A, retry=Retry(attempts=2, codes=(503,), backoff=0.001))))
    for method, calls in (("GET", 3), ("PUT", 3), ("POST", 1)):
        table.a.seen.clear()
        assert table.get("/x", method, x_answer="503")[0] == 503
        assert len(table.a.seen) == calls, method


def test_without_a_retry_policy_no_answer_is_repeated(table) -> None:
    table.use(route("r", A))
    assert table.get("/x", x_answer="503")[0] == 503
    assert len(table.a.seen) == 1


def test_a_request_takes_no_longer_than_its_timeout(table) -> None:
    table.use(route("r", action=forward(A, timeout=0.2)))
    with hanging() as number:
        table.envoy.put(
            [
                each
                if each.name != A.path or "ClusterLoadAssignment" not in each.type_url
                else at(A, number, is_mtls=False)
                for by_name in table.envoy.ads.wanted.values()
                for each in by_name.values()
            ]
        )

        def timed_out() -> bool:
            return table.get()[0] == 504

        wait_until(timed_out, "the timeout")


@contextmanager
def hanging():
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_preflight_is_answered_for_allowed_origins(table) -> None:
    cors = Cors(
        allow_origins=("https://www.foo.com", "https://*.bar.com"),
        allow_methods=("GET", "OPTIONS"),
        allow_headers=("x-header-1",),
        expose_headers=("x-header-3",),
        allow_credentials=True,
        max_age_seconds=3600,
    )
    table.use(route("r", A, cors=cors))
    asked = {"access-control-request-method": "GET"}
    status, _, headers = table.get("/", "OPTIONS", Origin="https://xpto.www.bar.com", **asked)
    assert status in {200, 204}
    assert headers["access-control-allow-origin"] == "https://xpto.www.bar.com"
    assert (headers["access-control-allow-credentials"], headers["access-control-max-age"]) == ("true", "3600")
    assert "access-control-allow-origin" not in table.get("/", "OPTIONS", Origin="https://evil.com", **asked)[2]
    assert table.get("/", Origin="https://www.foo.com")[2]["access-control-allow-origin"] == "https://www.foo.com"
    status, seen, headers = table.get("/", Origin="https://evil.com")
    assert (status, seen["name"], "access-control-allow-origin" in headers) == (200, "a", False)


def test_a_gateway_routes_by_hostname_and_keeps_the_name(table) -> None:
    hosts = (
        VirtualHost(hosts=("shop.example.org",), routes=(route("shop", A),)),
        VirtualHost(hosts=("*.example.org",), routes=(route("rest", B),)),
    )
    table.use_gateway(GatewayListener(name="http", port=8080, is_tls=False, virtual_hosts=hosts))
    for host, name in (("shop.example.org", "a"), ("shop.example.org:8080", "a"), ("x.y.example.org", "b")):
        status, seen, _ = request(table.gateway_port, "GET", "/x", {"host": host})
        assert (status, seen["name"], seen["host"]) == (200, name, host)
    assert request(table.gateway_port, "GET", "/", {"host": "example.com"})[0] == 404


def test_a_gateway_answers_preflights_of_the_routes_that_ask_for_it_alone(table) -> None:
    cors = Cors(allow_origins=("https://www.foo.com",), allow_methods=("GET",))
    hosts = (
        VirtualHost(hosts=("open.example.org",), routes=(route("open", A, cors=cors),)),
        VirtualHost(hosts=("shut.example.org",), routes=(route("shut", B),)),
    )
    table.use_gateway(GatewayListener(name="http", port=8080, is_tls=False, virtual_hosts=hosts))
    asked = {"origin": "https://www.foo.com", "access-control-request-method": "GET"}
    preflight = {
        host: request(table.gateway_port, "OPTIONS", "/", {"host": f"{host}.example.org", **asked})[1:]
        for host in ("open", "shut")
    }
    assert preflight["open"][1]["access-control-allow-origin"] == "https://www.foo.com"
    assert preflight["open"][0].get("name") is None, "the application was asked"
    assert preflight["shut"][0]["name"] == "b"
    assert "access-control-allow-origin" not in preflight["shut"][1]


def test_a_gateway_shows_the_certificate_that_the_server_name_asks_for(table) -> None:
    hosts = (VirtualHost(hosts=("*.example.org",), routes=(route("all", A),)),)
    certificates = (("shop.example.org", "kubernetes://shop/shop"), ("*.example.org", "kubernetes://shop/any"))
    listener = GatewayListener(name="s", port=8443, is_tls=True, virtual_hosts=hosts, certificates=certificates)
    shown = {name: secret.certificate(name, *ROOT.issue(dns=host)) for host, name in certificates}
    table.use_gateway(listener, *(framing.blob(types.SECRET, name, body) for name, body in shown.items()))
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    for host in ("shop.example.org", "cart.example.org"):
        with (
            socket.create_connection(("127.0.0.1", table.gateway_port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            names = connection.getpeercert()["subjectAltName"]
            assert names == (("DNS", host if host.startswith("shop") else "*.example.org"),)
            connection.sendall(f"GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_only_the_changed_table_is_encoded_again() -> None:
    before = blobs(view(outbound=(outbound(A), outbound(B)), clusters=(cluster(A), cluster(B))))
    changed = outbound(B, route("new", A))
    after = blobs(view(outbound=(outbound(A), changed), clusters=(cluster(A), cluster(B))))
    encoded = [(blob.type_url, blob.name) for blob, other in zip(after, before, strict=True) if blob is not other]
    assert encoded == [(types.ROUTES, B.path), (types.ROUTES, "proxy")]
