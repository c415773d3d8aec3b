"""Who is let in, and what those who are not may learn: nothing (promises G1, G3, G7, G8, G10, G11)."""

import pytest
from raw_http import Answer, request, send

from masche.api.answers import SECURITY_HEADERS
from masche.api.credentials import Credentials
from masche.api.messages import MAX_BODY_BYTES
from masche.api.routes import Routes
from masche.testing.api import RunningApi
from masche.testing.plane import FakePlane

ORIGIN_FREE_PATHS = [
    "/",
    "/index.html",
    "/assets/app.js",
    "/v1/nothing",
    "/docs",
    "/openapi.json",
    "/debug",
    "/metrics",
]


def every_route() -> list[tuple[str, str]]:
    table = Routes(plane=FakePlane(), credentials=Credentials(token="x", sessions=None)).table()  # type: ignore[arg-type]  # not asked
    paths = [(sorted(route.methods - {"HEAD"})[0], route.path) for route in table if route.path != "/healthz"]
    filled = [(method, path.replace("{kind}", "Service").replace("{revision}", "1")) for method, path in paths]
    for name in ("namespace", "name", "token", "machine"):
        filled = [(method, path.replace("{" + name + "}", "x")) for method, path in filled]
    return [*filled, *(("GET", path) for path in ORIGIN_FREE_PATHS), ("TRACE", "/v1/status"), ("PUT", "/v1/apply")]


def login(api: RunningApi) -> str:
    code = api.client.login_link().partition("#")[2]
    answer = request(
        api,
        "POST",
        "/v1/session",
        is_authenticated=False,
        headers={"Origin": api.listening.url},
        body=b'{"code": "%s"}' % code.encode(),
    )
    assert answer.status == 200
    return answer.headers["set-cookie"].partition(";")[0]


@pytest.mark.parametrize(
    "credential",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"Cookie": "masche_session=expired"},
        {"Authorization": "Bearer \xff\xfe"},
    ],
)
def test_no_route_answers_without_credentials_and_all_refuse_alike(api: RunningApi, credential: dict[str, str]):
    origin = {"Origin": api.listening.url}
    answers = {
        (method, path): request(api, method, path, headers=credential | origin, is_authenticated=False)
        for method, path in every_route()
        if (method, path) != ("POST", "/v1/session")
    }
    assert {answer.status for answer in answers.values()} == {401}
    assert len({answer.body for answer in answers.values()}) == 1
    assert answers["GET", "/v1/status"].code == "unauthenticated"


def test_health_is_all_that_anyone_may_ask(api: RunningApi):
    answer = request(api, "GET", "/healthz", is_authenticated=False)
    assert (answer.status, answer.body) == (200, b"ok\n")


def test_the_token_opens_every_route_that_reads(api: RunningApi):
    for path in ["status", "edges", "graph", "events", "tokens", "machines", "certificates", "check", "session"]:
        assert request(api, "GET", f"/v1/{path}").status == 200, path


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:15080", "127.0.0.1.attacker.example", "", "10.0.0.1"]
)
def test_a_foreign_host_name_is_misdirected_even_with_the_token(api: RunningApi, host: str):
    answer = request(api, "GET", "/v1/status", headers={"Host": host})
    assert answer.status in {400, 421}  # h11 itself refuses a request without a Host


def test_two_host_headers_are_refused(api: RunningApi):
    answer = send(api, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.status in {400, 421}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:15080", "LOCALHOST"])
def test_the_names_of_loopback_are_answered_on_whatever_port_a_forward_gives_them(api: RunningApi, host: str):
    assert request(api, "GET", "/healthz", headers={"Host": host}, is_authenticated=False).status == 200


@pytest.mark.parametrize("origin", ["http://attacker.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_another_origin_is_forbidden_even_with_the_token(api: RunningApi, origin: str):
    answer = request(api, "GET", "/v1/status", headers={"Origin": origin})
    assert (answer.status, answer.code) == (403, "wrong-origin")
    assert "access-control-allow-origin" not in answer.headers


def test_a_login_code_is_good_once_and_its_cookie_is_closed_to_scripts_and_other_sites(api: RunningApi):
    code = api.client.login_link().partition("#")[2]
    body = b'{"code": "%s"}' % code.encode()
    origin = {"Origin": api.listening.url}
    first = request(api, "POST", "/v1/session", is_authenticated=False, headers=origin, body=body)
    second = request(api, "POST", "/v1/session", is_authenticated=False, headers=origin, body=body)
    assert (first.status, second.status) == (200, 401)
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(first.headers["set-cookie"].split("; "))


def test_logging_in_from_another_site_is_forbidden(api: RunningApi):
    code = api.client.login_link().partition("#")[2]
    body = b'{"code": "%s"}' % code.encode()
    for origin in ({}, {"Origin": "http://attacker.example"}):
        assert request(api, "POST", "/v1/session", is_authenticated=False, headers=origin, body=body).status == 403


def browse(
    api: RunningApi, method: str, path: str, cookie: str, headers: dict[str, str], *, body: bytes = b""
) -> Answer:
    return request(api, method, path, is_authenticated=False, headers={"Cookie": cookie, **headers}, body=body)


def test_a_browser_reads_and_writes_from_our_own_pages_only(api: RunningApi):
    cookie, origin, apply = login(api), {"Origin": api.listening.url}, b'{"documents": []}'
    assert browse(api, "GET", "/v1/status", cookie, {}).status == 200
    assert browse(api, "POST", "/v1/apply", cookie, origin, body=apply).status == 200
    assert browse(api, "POST", "/v1/apply", cookie, {}, body=apply).status == 403
    assert browse(api, "DELETE", "/v1/tokens/t1", cookie, {}).status == 403
    assert browse(api, "GET", "/v1/status", cookie, {"Sec-Fetch-Site": "same-site"}).status == 403
    assert browse(api, "GET", "/v1/status", cookie, {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert browse(api, "GET", "/v1/status", cookie, {"Sec-Fetch-Site": "same-origin"}).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_can_send_is_no_body_of_ours(api: RunningApi, kind: str):
    cookie = login(api)
    headers = {"Origin": api.listening.url, "Content-Type": kind}
    answer = browse(api, "POST", "/v1/apply", cookie, headers, body=b'{"documents": []}')
    assert (answer.status, answer.code) == (415, "wrong-content-type")


def test_logging_out_ends_the_session_for_good(api: RunningApi):
    cookie = login(api)
    assert browse(api, "DELETE", "/v1/session", cookie, {"Origin": api.listening.url}).status == 204
    assert browse(api, "GET", "/v1/status", cookie, {}).status == 401


def test_the_login_page_is_all_a_stranger_sees_and_it_carries_no_secret(api: RunningApi):
    page = request(api, "GET", "/", headers={"Accept": "text/html"}, is_authenticated=False)
    other = request(api, "GET", "/assets/app.js", headers={"Accept": "text/html"}, is_authenticated=False)
    assert (page.status, page.body) == (other.status, other.body)
    assert page.status == 401
    assert b"/login.js" in page.body
    assert request(api, "GET", "/login", is_authenticated=False).body == page.body
    assert request(api, "GET", "/login.js", is_authenticated=False).status == 200


def test_the_dashboard_is_served_after_login_and_nothing_beside_it(api: RunningApi):
    cookie = login(api)
    assert b"<title>masche" in browse(api, "GET", "/", cookie, {}).body
    assert browse(api, "GET", "/assets/app.js", cookie, {}).status == 200
    traversals = [
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "//secret.txt",
    ]
    for path in [
        *traversals,
        "/assets/%2e%2e/%2e%2e/data/api/token",
        "/..\\secret.txt",
        "/secret.txt%00.js",
        "/assets/",
    ]:
        answer = browse(api, "GET", path, cookie, {})
        assert answer.status in {400, 404}, path
        assert b"not for you" not in answer.body


def test_every_answer_carries_the_security_headers(api: RunningApi):
    token = {"is_authenticated": True}
    answers = [
        request(api, "GET", "/healthz", is_authenticated=False),
        request(api, "GET", "/v1/status", is_authenticated=False),
        request(api, "GET", "/v1/status", **token),
        request(api, "GET", "/v1/nothing", **token),
        request(api, "GET", "/", **token),
        request(api, "GET", "/v1/status", headers={"Host": "attacker.example"}),
    ]
    for answer in answers:
        assert SECURITY_HEADERS.items() <= {name: answer.headers[name.lower()] for name in SECURITY_HEADERS}.items()
        assert "server" not in answer.headers
    assert "frame-ancestors 'none'" in answers[0].headers["content-security-policy"]


def test_guessing_is_slowed_down_and_locks_nobody_out(api: RunningApi):
    guesses = [
        request(api, "GET", "/v1/status", headers={"Authorization": f"Bearer {n}"}, is_authenticated=False).status
        for n in range(300)
    ]
    assert guesses[0] == 401
    assert 429 in guesses
    assert request(api, "GET", "/v1/status").status == 200


def test_a_body_above_the_limit_is_refused_before_it_is_read(api: RunningApi):
    head = request(api, "POST", "/v1/apply", headers={"Content-Length": str(MAX_BODY_BYTES + 1)}, body=b"{")
    assert (head.status, head.code) == (413, "request-entity-too-large")


def test_a_chunked_body_is_refused_once_it_passes_the_limit(api: RunningApi):
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    token = api.listening.credentials.token.encode()
    head = b"POST /v1/apply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token
    head += b"\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert send(api, head + chunk * 9 + b"0\r\n\r\n").status == 413


def test_a_stranger_cannot_send_a_large_body_at_all(api: RunningApi):
    headers = {"Content-Length": "1000000000", "Content-Type": "application/json"}
    assert request(api, "POST", "/v1/apply", headers=headers, body=b"{", is_authenticated=False).status == 401


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"documents":' * 100_000,
        b'{"documents": ' + b"[" * 500_000,
        b'{"documents": [], "surprise": 1}',
        b'{"documents": [{"file": 1, "text": "x"}]}',
        b'{"documents": [], "dryRun": "yes"}',
        b"\xff\xfe",
        b"null",
        b'{"documents": []',
        b'{"documents": [{"file": "\\ud800", "text": "x"}]}',
    ],
)
def test_json_that_is_deep_or_wrong_is_a_bad_request(api: RunningApi, body: bytes):
    answer = request(api, "POST", "/v1/apply", body=body)
    assert (answer.status, answer.code) == (400, "bad-request")
    assert len(answer.body) < 1000


def test_headers_beyond_the_limit_close_the_connection(api: RunningApi):
    many = {f"X-{n}": "a" * 100 for n in range(1000)}
    assert request(api, "GET", "/healthz", headers=many, is_authenticated=False).status in {400, 431}
    assert request(api, "GET", "/healthz", is_authenticated=False).status == 200


def test_a_defect_shows_no_traceback(api: RunningApi, plane: FakePlane, caplog: pytest.LogCaptureFixture):
    plane.failure = RuntimeError("the secret reason")
    answer = request(api, "GET", "/v1/status")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret reason" not in answer.body
    assert "the secret reason" in caplog.text


def test_no_credential_is_ever_logged(api: RunningApi, caplog: pytest.LogCaptureFixture):
    caplog.set_level(0)
    login(api)
    request(api, "GET", "/v1/status")
    assert api.listening.credentials.token not in caplog.text
    assert api.listening.credentials.token not in repr(api)
