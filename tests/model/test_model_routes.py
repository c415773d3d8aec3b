"""Every rule of the Gateway API that connects the fields of a route, and what masche does not carry out of it."""

from typing import Any

import pytest
import yaml

from masche.model.diagnostic import Severity
from masche.model.yaml import Loaded, is_valid, load

HEADER = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}}
MIRROR = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "s", "port": 80}}}
BACKEND = {"name": "s", "port": 80}
PREFIX = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}
REDIRECT = {"type": "RequestRedirect", "requestRedirect": {"path": PREFIX}}
REWRITE = {"type": "URLRewrite", "urlRewrite": {"path": PREFIX}}
GATEWAY = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "g"}


def read(spec: dict[str, Any], kind: str = "HTTPRoute") -> Loaded:
    document = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "r", "namespace": "shop"},
        "spec": spec,
    }
    return load(yaml.safe_dump(document), file="route.yaml")


def rule(**fields: Any) -> dict[str, Any]:
    return {"rules": [fields]}


def path(value: str, kind: str = "PathPrefix") -> dict[str, Any]:
    return rule(matches=[{"path": {"type": kind, "value": value}}])


def filtered(*filters: dict[str, Any]) -> dict[str, Any]:
    return rule(filters=list(filters))


def cors(**fields: Any) -> dict[str, Any]:
    return filtered({"type": "CORS", "cors": fields})


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "a relative path": (path("foo"), "value must be an absolute path and start with '/'"),
    "a double slash": (path("/a//b"), "must not contain '//' when type one of ['Exact', 'PathPrefix']"),
    "a dot segment": (path("/a/./b", "Exact"), "must not contain '/./'"),
    "a dot dot segment": (path("/a/../b"), "must not contain '/../'"),
    "an encoded slash": (path("/a%2fb"), "must not contain '%2f'"),
    "an encoded slash in capitals": (path("/a%2Fb"), "must not contain '%2F'"),
    "a fragment": (path("/a#b"), "must not contain '#'"),
    "an end of two dots": (path("/a/.."), "must not end with '/..'"),
    "an end of one dot": (path("/a/."), "must not end with '/.'"),
    "brackets": (path("/[]"), "must only contain valid characters (matching ^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|"),
    "an unknown type": (path("/a", "FooBar"), 'supported values: "Exact", "PathPrefix", "RegularExpression"'),
    "a path that is too long": (path("/" + "a" * 1024), "may not be more than 1024 bytes"),
    "no port": (rule(backendRefs=[{"name": "s"}]), "Must have port for Service reference"),
    "a port too high": (rule(backendRefs=[{"name": "s", "port": 65536}]), "less than or equal to 65535"),
    "a weight too high": (rule(backendRefs=[{**BACKEND, "weight": 1000001}]), "less than or equal to 1000000"),
    "a filter without its field": (
        filtered({"type": "URLRewrite"}),
        "filter.urlRewrite must be specified for URLRewrite filter.type",
    ),
    "a filter with another's field": (
        filtered({**HEADER, "requestMirror": {}}),
        "filter.requestMirror must be nil if the filter.type is not RequestMirror",
    ),
    "a repeated filter": (filtered(HEADER, MIRROR, HEADER), "RequestHeaderModifier filter cannot be repeated"),
    "a repeated CORS filter": (
        filtered({"type": "CORS", "cors": {}}, {"type": "CORS", "cors": {}}),
        "CORS filter cannot be repeated",
    ),
    "a repeated filter of a backend": (
        rule(backendRefs=[{**BACKEND, "filters": [HEADER, HEADER]}]),
        "RequestHeaderModifier filter cannot be repeated",
    ),
    "redirect and rewrite": (
        filtered(REDIRECT, REWRITE),
        "May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both",
    ),
    "a redirect with backends": (
        rule(filters=[{"type": "RequestRedirect", "requestRedirect": {}}], backendRefs=[BACKEND]),
        "RequestRedirect filter must not be used together with backendRefs",
    ),
    "two matches under a replaced prefix": (
        rule(matches=[{"path": {"value": "/a"}}, {"path": {"value": "/b"}}], filters=[REWRITE]),
        "When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
    ),
    "an exact match under a replaced prefix": (
        rule(matches=[{"path": {"type": "Exact", "value": "/a"}}], filters=[REDIRECT]),
        "When using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match",
    ),
    "an exact match under a backend's redirect": (
        rule(matches=[{"path": {"type": "Exact", "value": "/a"}}], backendRefs=[{**BACKEND, "filters": [REDIRECT]}]),
        "Within backendRefs, when using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix",
    ),
    "an exact match under a backend's rewrite": (
        rule(matches=[{"path": {"type": "Exact", "value": "/a"}}], backendRefs=[{**BACKEND, "filters": [REWRITE]}]),
        "Within backendRefs, When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix",
    ),
    "a full path without its value": (
        filtered({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath"}}}),
        "replaceFullPath must be specified when type is set to 'ReplaceFullPath'",
    ),
    "a full path under another type": (
        filtered({"type": "URLRewrite", "urlRewrite": {"path": {**PREFIX, "replaceFullPath": "/"}}}),
        "type must be 'ReplaceFullPath' when replaceFullPath is set",
    ),
    "a prefix under another type": (
        filtered({"type": "URLRewrite", "urlRewrite": {"path": {**PREFIX, "type": "ReplaceFullPath"}}}),
        "type must be 'ReplacePrefixMatch' when replacePrefixMatch is set",
    ),
    "a redirect to a status that is none": (
        filtered({"type": "RequestRedirect", "requestRedirect": {"statusCode": 300}}),
        "supported values: 301, 302, 303, 307, 308",
    ),
    "percent and fraction": (
        filtered(
            {
                "type": "RequestMirror",
                "requestMirror": {"backendRef": BACKEND, "percent": 1, "fraction": {"numerator": 1}},
            }
        ),
        "Only one of percent or fraction may be specified in HTTPRequestMirrorFilter",
    ),
    "more than everything": (
        filtered({"type": "RequestMirror", "requestMirror": {"backendRef": BACKEND, "fraction": {"numerator": 101}}}),
        "numerator must be less than or equal to denominator",
    ),
    "any origin and another": (
        cors(allowOrigins=["*", "https://a.com"]),
        "AllowOrigins cannot contain '*' alongside other origins",
    ),
    "any method and another": (
        cors(allowMethods=["GET", "*"]),
        "AllowMethods cannot contain '*' alongside other methods",
    ),
    "any header and another": (
        cors(allowHeaders=["*", "a"]),
        "AllowHeaders cannot contain '*' alongside other methods",
    ),
    "a method that is none": (cors(allowMethods=["BAZINGA"]), 'Unsupported value: "BAZINGA"'),
    "an origin without a scheme": (
        cors(allowOrigins=["https://a.com", "a.com"]),
        'Invalid value: "a.com": spec.rules[0].filters[0].cors.allowOrigins[1] in body should match',
    ),
    "an origin with a port that is none": (cors(allowOrigins=["https://a.com:port"]), "in body should match"),
    "a duration of microseconds": (
        rule(timeouts={"request": "100us"}),
        "Invalid value: \"100us\": spec.rules[0].timeouts.request in body should match '^([0-9]{1,5}(h|m|s|ms)){1,4}$'",
    ),
    "a try longer than the whole": (
        rule(timeouts={"request": "200ms", "backendRequest": "1s"}),
        "backendRequest timeout cannot be longer than request timeout",
    ),
    "a rule name twice": ({"rules": [{"name": "a"}, {"name": "a"}]}, "Rule name must be unique within the route"),
    "no rules": ({"rules": []}, "should have at least 1 items"),
    "too many matches": (
        {"rules": [{"matches": [{}] * 20}] * 7},
        "the total number of matches across all rules in a route must be less than 128",
    ),
    "the same parent twice": (
        {"parentRefs": [GATEWAY, GATEWAY]},
        "sectionName or port must be unique when parentRefs includes 2 or more references to the same parent",
    ),
    "the same parent with and without a section": (
        {"parentRefs": [GATEWAY, {**GATEWAY, "sectionName": "a"}]},
        "sectionName must be specified when parentRefs includes 2 or more references to the same parent",
    ),
    "a header twice in one match": (
        rule(matches=[{"headers": [{"name": "a", "value": "b"}, {"name": "a", "value": "c"}]}]),
        "Duplicate value: 'a'",
    ),
    "a query parameter twice in one match": (
        rule(matches=[{"queryParams": [{"name": "a", "value": "b"}, {"name": "a", "value": "c"}]}]),
        "Duplicate value: 'a'",
    ),
    "a header set twice": (
        filtered(
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}] * 2}}
        ),
        "Duplicate value: 'a'",
    ),
    "a line break in a header": (
        filtered(
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": [{"name": "a", "value": "b\r\nc: d"}]}}
        ),
        "in body should match",
    ),
    "a wildcard host of a redirect": (
        filtered({"type": "RequestRedirect", "requestRedirect": {"hostname": "*.a.com"}}),
        "in body should match",
    ),
    "lookahead": (path("/(?=a)", "RegularExpression"), "lookaround is not RE2 syntax"),
    "a backreference": (path("/(a)\\1", "RegularExpression"), "backreferences are not RE2 syntax"),
    "a regular expression that does not compile": (path("/(", "RegularExpression"), "does not compile"),
    "a permanent cookie without an end": (
        rule(sessionPersistence={"cookieConfig": {"lifetimeType": "Permanent"}}),
        "AbsoluteTimeout must be specified when cookie lifetimeType is Permanent",
    ),
    "a cookie of a header session": (
        rule(sessionPersistence={"type": "Header", "cookieConfig": {}}),
        "cookieConfig can only be set with type Cookie",
    ),
    "external authorization over gRPC without grpc": (
        filtered({"type": "ExternalAuth", "externalAuth": {"protocol": "GRPC", "backendRef": BACKEND}}),
        "grpc must be specified when protocol is set to 'GRPC'",
    ),
    "external authorization over HTTP with grpc": (
        filtered({"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP", "backendRef": BACKEND, "grpc": {}}}),
        "protocol must be 'GRPC' when grpc is set",
    ),
    "a retry of a success": (rule(retry={"codes": [200]}), "greater than or equal to 400"),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_the_standard_refuses_is_refused_in_its_own_words(name: str):
    spec, reason = INVALID[name]
    loaded = read(spec)
    assert not is_valid(loaded.diagnostics)
    assert reason in " | ".join(found.why for found in loaded.errors)
    assert not loaded.resources
    assert all(found.place and found.fix for found in loaded.errors)


VALID: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a regular expression that would be no path": path("/foo/./bar", "RegularExpression"),
    "strange but legal characters": path("/abc/123'/a-b-c/d@gmail/%0A", "Exact"),
    "an endless request over a short try": rule(timeouts={"request": "0s", "backendRequest": "1ms"}),
    "two mirrors": filtered(MIRROR, MIRROR),
    "many matches": {"rules": [{"matches": [{}] * 48}] * 2},
    "one parent twice by section": {"parentRefs": [{**GATEWAY, "sectionName": "a"}, {**GATEWAY, "sectionName": "b"}]},
    "one parent twice by port": {"parentRefs": [{**GATEWAY, "port": 80}, {**GATEWAY, "port": 81}]},
    "one name in two namespaces": {"parentRefs": [GATEWAY, {**GATEWAY, "namespace": "other"}]},
    "a Service as the parent": {"parentRefs": [{"kind": "Service", "group": "", "name": "cart", "port": 80}]},
    "a backend's header modifier": rule(backendRefs=[{**BACKEND, "filters": [HEADER]}]),
    "a backend's redirect": rule(
        backendRefs=[{**BACKEND, "filters": [{"type": "RequestRedirect", "requestRedirect": {}}]}]
    ),
    "a backend's mirror": rule(backendRefs=[{**BACKEND, "filters": [MIRROR]}]),
    "a replaced prefix under the default match": rule(filters=[REWRITE], backendRefs=[BACKEND]),
    "origins": cors(allowOrigins=["https://a.com", "http://*.b.com:123", "https://*.com"], allowCredentials=True),
    "a retry": rule(retry={"attempts": 3, "codes": [503], "backoff": "10ms"}),
}


@pytest.mark.parametrize("name", VALID)
def test_what_the_standard_allows_is_allowed(name: str):
    loaded = read(VALID[name])
    assert not loaded.errors
    assert len(loaded.resources) == 1


BEYOND: dict[str, dict[str, Any]] = {
    "an extension": filtered({"type": "ExtensionRef", "extensionRef": {"group": "a.b", "kind": "K", "name": "n"}}),
    "external authorization": filtered(
        {"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP", "backendRef": BACKEND, "http": {}}}
    ),
    "session persistence": rule(sessionPersistence={}),
    "a backend's CORS": rule(backendRefs=[{**BACKEND, "filters": [{"type": "CORS", "cors": {}}]}]),
    "a parent of another kind": {"parentRefs": [{"kind": "Mesh", "name": "m"}]},
    "CONNECT": rule(matches=[{"method": "CONNECT"}]),
    "Host as a header": filtered(
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "Host", "value": "a"}]}}
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_allowed_and_not_carried_out_is_refused_under_another_code(name: str):
    loaded = read(BEYOND[name])
    assert {found.code for found in loaded.errors} == {"not-carried-out"}
    assert is_valid(loaded.diagnostics)
    assert not loaded.resources


def test_a_backend_of_an_unknown_kind_is_carried_out_as_the_standard_says_with_a_warning():
    loaded = read(rule(backendRefs=[{"group": "a.b", "kind": "K", "name": "n"}]))
    assert len(loaded.resources) == 1
    assert [found.severity for found in loaded.diagnostics] == [Severity.WARNING]


def test_header_names_that_differ_by_case_alone_are_pointed_out():
    loaded = read(rule(matches=[{"headers": [{"name": "a", "value": "b"}, {"name": "A", "value": "c"}]}]))
    (warning,) = loaded.diagnostics
    assert "equivalent header name MUST be ignored" in warning.why
    assert len(loaded.resources) == 1


GRPC: dict[str, tuple[dict[str, Any], str]] = {
    "an empty method": (rule(matches=[{"method": {"type": "Exact"}}]), "One or both of 'service' or 'method'"),
    "a regular expression as a service": (rule(matches=[{"method": {"service": ".*"}}]), "service must only contain"),
    "a slash in a method": (rule(matches=[{"method": {"method": "a/b"}}]), "method must only contain valid characters"),
    "an HTTP filter": (filtered({"type": "CORS"}), "Unsupported value"),
    "a repeated filter": (filtered(HEADER, HEADER), "RequestHeaderModifier filter cannot be repeated"),
}


@pytest.mark.parametrize("name", GRPC)
def test_a_grpc_route_is_judged_by_the_standard(name: str):
    spec, reason = GRPC[name]
    loaded = read(spec, "GRPCRoute")
    assert not is_valid(loaded.diagnostics)
    assert reason in " | ".join(found.why for found in loaded.errors)


def test_a_right_grpc_route_is_read():
    loaded = read(
        rule(matches=[{"method": {"service": ".foo.Bar", "method": "Get"}}], backendRefs=[BACKEND]), "GRPCRoute"
    )
    assert not loaded.errors
    assert [str(found.ref) for found in loaded.resources] == ["GRPCRoute/shop/r"]


def test_a_header_of_a_grpc_route_must_be_an_expression_that_envoy_reads():
    header = {"type": "RegularExpression", "name": "version", "value": "(?=one)"}
    loaded = read(rule(matches=[{"headers": [header]}], backendRefs=[BACKEND]), "GRPCRoute")
    assert [found.code for found in loaded.errors] == ["invalid-regex"]
