"""Words of xDS that we never write ourselves mean the same to the library as to a real Envoy.

Each case is a virtual host of one table; every request is sent to each, through one Envoy, and decided in memory.
"""

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from applications import http_echo
from envoy_rig import Envoy, free_port, remove, short_folder

from masche.model.blob import Blob
from masche.model.told import Table
from masche.traffic.forward import Answer, Sending, apply, routed
from masche.traffic.request import Request, is_grpc
from masche.traffic.virtual_hosts import HostIndex
from masche.wire import framing, types
from masche.wire.decode.decoders import decoders
from masche.wire.framing import message_of
from masche.wire.messages import encode

MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"

HEADERS: list[dict[str, Any]] = [
    *({"string_match": {kind: "ab"}} for kind in ("exact", "prefix", "suffix", "contains")),
    {"string_match": {"exact": "AB", "ignore_case": True}},
    {"string_match": {"contains": "B", "ignore_case": True}},
    {"string_match": {"exact": ""}},
    {"string_match": {"safe_regex": {"regex": "a.*"}}},
    {"range_match": {"start": -5, "end": 10}},
    {"present_match": True},
    {"present_match": False},
    {},
]
MATCHES: list[dict[str, Any]] = [
    *(
        {"prefix": "/", "headers": [{"name": "x-h", **each, "invert_match": inverted, **empty}]}
        for each in HEADERS
        for inverted in (False, True)
        for empty in ({}, {"treat_missing_header_as_empty": True})
    ),
    *(
        {word: "/a/B", "case_sensitive": case}
        for word in ("prefix", "path", "path_separated_prefix")
        for case in (True, False)
    ),
    {"safe_regex": {"regex": "/a/[A-Z]"}},
    {"safe_regex": {"regex": "/A/B"}, "case_sensitive": False},
    {"prefix": ""},
    {"prefix": "/", "grpc": {}},
    {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]},
    {"prefix": "/", "headers": [{"name": ":path", "string_match": {"suffix": "=1"}}]},
    {"prefix": "/", "headers": [{"name": ":authority", "string_match": {"suffix": ".test"}}]},
    *({"prefix": "/", "query_parameters": [{"name": "q", **each}]} for each in ({"present_match": True}, {})),
    {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"prefix": "1", "ignore_case": True}}]},
]  # fmt: skip
VALUES = ("ab", "AB", "xaby", "", "-5", "10", "9", "+3", "07", "1.5", " 3 ", "9" * 20, "-", "0x1")
KINDS = [f"application/grpc{rest}" for rest in ("", "+proto", "-web", ";v=1", " ")]
REQUESTS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("GET", "/", []),
    *(("GET", "/a/B", [("x-h", value)]) for value in VALUES),
    ("GET", "/a/B", [("x-h", "no"), ("x-h", "ab")]),
    ("GET", "/a/B", [("x-h", "no"), ("x-h", "nay")]),
    *(("GET", path, []) for path in ("/a/B/c", "/a/Bc", "/A/b", "/A/b/c", "/a/B?q=1", "/a/B?q", "/a?q=2&q=1")),
    ("GET", "/a?r=2&q=1x", []),
    *(("POST", "/a", [("content-type", kind)]) for kind in ("Application/grpc", *KINDS)),
]  # fmt: skip

ADDED = {"header": {"key": "x-h", "value": "new"}}
REWRITES: list[dict[str, Any]] = [
    {"match": {"prefix": "/a"}, "route": {"prefix_rewrite": "/new"}},
    {"match": {"prefix": "/a/"}, "route": {"prefix_rewrite": "/"}},
    {"match": {"path": "/a/B"}, "route": {"prefix_rewrite": "/x"}},
    {"match": {"safe_regex": {"regex": "/a/.*"}}, "route": {"prefix_rewrite": "/x"}},
    {"match": {"path_separated_prefix": "/a/B"}, "route": {"prefix_rewrite": "/x"}},
    *(
        {"match": {"prefix": "/"}, "route": {"regex_rewrite": {"pattern": {"regex": pattern}, "substitution": new}}}
        for pattern, new in (("/([a-z])/([A-Z])", "/\\2\\\\/\\1"), ("[a-z]*", "-"), ("B|$", "_"), ("(z)?", "<\\1>"))
    ),
    {"match": {"prefix": "/"}, "route": {"host_rewrite_literal": "other.test"}},
    *(
        {"match": {"prefix": "/"}, "route": {}, "request_headers_to_add": [{**ADDED, "append_action": action}]}
        for action in ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")
    ),
    {"match": {"prefix": "/"}, "route": {}, "request_headers_to_add": [{"header": {"key": "x-h", "value": ""}}]},
    {"match": {"prefix": "/"}, "route": {}, "request_headers_to_add": [ADDED], "request_headers_to_remove": ["x-h"]},
]  # fmt: skip
REDIRECTS: list[dict[str, Any]] = [
    {"https_redirect": True},
    {"scheme_redirect": "https", "response_code": "PERMANENT_REDIRECT"},
    {"host_redirect": "other.test"},
    {"port_redirect": 8443},
    {"port_redirect": 80},
    {"https_redirect": True, "port_redirect": 443},
    {"host_redirect": "other.test", "https_redirect": True},
    {"path_redirect": "/new"},
    {"path_redirect": "/new?z=1"},
    {"path_redirect": "/new", "strip_query": True},
    {"strip_query": True},
    {"prefix_rewrite": "/n"},
    {"regex_rewrite": {"pattern": {"regex": "^/a"}, "substitution": "/z"}},
    {"prefix_rewrite": "/n", "strip_query": True, "host_redirect": "h"},
]


def told(status: int, text: str) -> dict[str, Any]:
    return {"status": status, "body": {"inline_string": text}}


def naming(rule: str) -> dict[str, Any]:
    return {"response_headers_to_add": [{"header": {"key": "x-told", "value": rule}}]}


def hosts() -> Iterator[list[dict[str, Any]]]:
    rest = {"match": {"prefix": ""}, "direct_response": told(404, "rest"), **naming("rest")}
    for match in MATCHES:
        yield [{"match": match, "direct_response": told(201, "taken"), **naming("taken")}, rest]
    for rewrite in REWRITES:
        yield [{**rewrite, "route": {"cluster": "echo", "retry_policy": {}, **rewrite["route"]}}, rest]
    for redirect in REDIRECTS:
        yield [{"match": {"prefix": "/a"}, "redirect": redirect}, rest]


def table() -> Blob:
    layers = {
        "request_headers_to_add": [{"header": {"key": "x-table", "value": "table"}}],
        "response_headers_to_remove": ["x-gone"],
        "response_headers_to_add": [{"header": {"key": "x-told", "value": "100%% table"}}],
    }
    made = [
        {"name": f"h{index}", "domains": [f"h{index}.test", f"h{index}.test:80", f"h{index}.test:99"], "routes": routes}
        for index, routes in enumerate(hosts())
    ]
    body = {"name": "t", "virtual_hosts": made, **layers}
    return framing.blob(types.ROUTES, "t", encode("envoy.config.route.v3.RouteConfiguration", body))


def listener(port: int) -> Blob:
    manager = {
        "@type": MANAGER,
        "stat_prefix": "t",
        "rds": {"route_config_name": "t", "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER, "suppress_envoy_headers": True}}],
        "use_remote_address": True,
        "generate_request_id": False,
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chains = [{"filters": [{"name": "hcm", "typed_config": manager}]}]
    body = {"name": "l", "address": address, "filter_chains": chains}
    return framing.blob(types.LISTENER, "l", encode("envoy.config.listener.v3.Listener", body))


def cluster(port: int) -> Blob:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    assignment = {"cluster_name": "echo", "endpoints": [{"lb_endpoints": [endpoint]}]}
    body = {"name": "echo", "type": "STATIC", "load_assignment": assignment, "connect_timeout": 1}
    return framing.blob(types.CLUSTER, "echo", encode("envoy.config.cluster.v3.Cluster", body))


@dataclass(frozen=True)
class Seen:
    """What came of a request: its status, where to go, and what arrived."""

    status: int
    location: str = ""
    arrived: tuple[Any, ...] = ()
    told: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    folder, number = short_folder(), free_port()
    envoy = Envoy(folder)
    try:
        with http_echo() as echo:
            envoy.put((cluster(echo.server_address[1]), listener(number), table()))
            yield number
    finally:
        envoy.close()
        remove(folder)


def sent(
    connection: http.client.HTTPConnection, method: str, target: str, host: str, headers: list[tuple[str, str]]
) -> Seen:
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in [("host", host), *headers]:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    said = tuple(answer.headers.get_all("x-told") or ())
    arrived: tuple[Any, ...] = ()
    if answer.status == 200 and body.startswith(b"{"):
        echo = json.loads(body)
        arrived = (echo["path"], echo["host"], echo["headers"].get("x-table"), echo["headers"].get("x-h"))
    # An answer that is made on the spot has HTTP's status 200 for gRPC, and says its own elsewhere.
    status = 0 if answer.headers.get("grpc-status") else answer.status
    return Seen(status, answer.headers.get("location", ""), arrived, said)


def decided(found: Table, method: str, target: str, host: str, headers: list[tuple[str, str]]) -> Seen:
    index = HostIndex.of(found).find(host)
    assert index is not None
    request = Request(
        method=method, target=target, authority=host, headers=tuple((name, value.strip()) for name, value in headers)
    )
    made = routed(index.host.routes, request, rng=Random(0))
    answers: tuple[tuple[str, str], ...] = ()
    for change in made.response_changes:
        answers = apply(change, answers)
    said = tuple(value for name, value in answers if name == "x-told")
    if isinstance(made, Answer):
        return Seen(0 if is_grpc(request) else made.status, made.location, (), said)
    return Seen(200, "", _arrived(made), said)


def _arrived(made: Sending) -> tuple[Any, ...]:
    # The application shows the last value of a repeated header.
    found = dict(made.request.headers)
    return made.request.target, made.request.authority, found.get("x-table"), found.get("x-h")


def test_what_is_decided_in_memory_is_what_envoy_does(port: int):
    blob = table()
    found = decoders[types.ROUTES]("t", message_of(blob))
    assert isinstance(found, Table)
    wrong: list[str] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for index, routes in enumerate(hosts()):
        for method, target, headers in REQUESTS:
            for host in (f"h{index}.test", f"h{index}.test:80") if "redirect" in routes[0] else (f"h{index}.test",):
                wanted = sent(connection, method, target, host, headers)
                got = decided(found, method, target, host, headers)
                if got != wanted:
                    wrong.append(
                        f"{routes[0]}\n   {method} {target} {host} {headers}: Envoy {wanted}\n   in memory {got}"
                    )
    connection.close()
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(wrong[:20])
