"""The one form of a path, and what is refused; the same as in a real Envoy."""

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masche.traffic.normalise import normalise
from masche.traffic.verdict import Verdict

PARTS = [
    "/",
    "/",
    "a",
    "b",
    ".",
    "..",
    ";",
    "%2e",
    "%2E",
    "\\",
    "%41",
    "%20",
    "?",
    "//",
    "|",
    "%5b",
    "%",
    "x",
    "%3b",
    "^",
]
TARGETS = st.lists(st.sampled_from(PARTS), max_size=9).map(lambda parts: "/" + "".join(parts))


@pytest.mark.parametrize(
    ("target", "normal"),
    [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../../x", "/x"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a//b", "/a/b"),
        ("/a//../b", "/a/b"),
        ("/a\\..\\b", "/b"),
        ("/a/..;x/b", "/b"),
        ("/%41%5f~", "/A_~"),
        ("/a%20b%C3%A9", "/a%20b%C3%A9"),
        ("/%%41b", "/%25Ab"),
        ("/a|b", "/a%7Cb"),
        ("/a?x=%2f&y=/../z", "/a?x=%2f&y=/../z"),
    ],
)
def test_a_path_has_one_form(target: str, normal: str):
    assert normalise(target) == normal


@pytest.mark.parametrize(
    "target", ["a", "", "*", "/a%2fb", "/a%5Cb", "/a%2F?x", "/a#b", "/a?b#c", "/a b", "/a\x00", "/a%00", "/é", "/a\n"]
)
def test_what_nobody_may_guess_about_is_refused(target: str):
    verdict = normalise(target)
    assert isinstance(verdict, Verdict)
    assert (verdict.allowed, verdict.status) == (False, 400)
    assert verdict.sentence


@given(TARGETS)
def test_a_normal_form_holds_no_dot_segment_that_was_not_hidden_twice(target: str):
    found = normalise(target)
    assert isinstance(found, str)
    path = found.partition("?")[0]
    assert not {".", ".."} & set(path.split("/"))
    assert "\\" not in path


@given(st.lists(st.sampled_from(["a", "b%20", "c-d", "..."]), min_size=1, max_size=5))
def test_a_plain_path_stays_as_it_is(segments: list[str]):
    path = "/" + "/".join(segments)
    assert normalise(path) == path


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real Envoy that answers with the path that it sees."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("envoy")
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(port)))
    spec = find_spec("envoy")
    assert spec
    assert spec.submodule_search_locations
    binary = Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy"
    command = [binary, "-c", folder / "envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("Envoy did not start")


def _bootstrap(port: int) -> dict[str, object]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    route = {
        "match": {"prefix": ""},
        "direct_response": {"status": 200},
        "response_headers_to_add": [{"header": {"key": "x-path", "value": "%REQ(:PATH)%"}}],
    }
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
    }
    listener = {
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}}


def test_envoy_brings_paths_into_the_same_form(envoy: int):
    connection = http.client.HTTPConnection("127.0.0.1", envoy, timeout=10)

    @settings(max_examples=600, deadline=None)
    @given(TARGETS | st.sampled_from(["/a%2fb", "/a%5cb", "/a%00", "/a#b"]))
    def agrees(target: str) -> None:
        connection.putrequest("GET", target, skip_accept_encoding=True)
        connection.endheaders()
        with connection.getresponse() as answer:
            answer.read()
        ours = normalise(target)
        assert answer.status == (200 if isinstance(ours, str) else ours.status)
        if isinstance(ours, str):
            assert answer.getheader("x-path") == ours

    try:
        agrees()
    finally:
        connection.close()
